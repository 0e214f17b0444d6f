"""`quell storage serve`: Optuna's gRPC proxy, for more workers than a database has connections."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import optuna
from rich.console import Console

from tuning.errors import StorageError
from tuning.place import Place

# Calls served at once; each has a connection to the database.
THREADS = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(place: Place, host: str, port: int, console: Console) -> int:
    """Serves until it is interrupted.

    Raises:
        StorageError: the database cannot be opened, or the port is taken.
    """
    try:
        import grpc  # noqa: F401
    except ImportError:
        raise StorageError(
            "storage serve: the package grpcio is not installed, expected it beside quell; "
            "pip install 'quell-denoiser[grpc]'"
        ) from None
    storage = place.open_storage(create=True, connections=THREADS)
    if host not in LOOPBACK:
        console.print(f"quell: {host} asks nobody for a password; keep it inside a network that you trust")
    console.print(f"serving on grpc://{host}:{port}", highlight=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.run_grpc_proxy_server(
                storage, host=host, port=port, thread_pool=ThreadPoolExecutor(THREADS)
            )
    except RuntimeError as error:
        raise StorageError(f"{host}:{port}: {error}, expected a free port; name another one with --port") from error
    finally:
        storage.close()
    return 0
