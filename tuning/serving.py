"""`quell storage serve`: Optuna's gRPC proxy, for more workers than a database has connections."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Console

from tuning.errors import StorageError
from tuning.patience import absence
from tuning.place import Place
from tuning.storage import quiet_grpc

# Calls served at once; each has a connection to the database.
THREADS = 16
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(place: Place, host: str, port: int, console: Console) -> int:
    """Serves until it is interrupted.

    Raises:
        StorageError: the database cannot be opened, or the port is taken.
    """
    quiet_grpc()
    try:
        import grpc
    except ImportError:
        raise StorageError(
            "storage serve: the package grpcio is not installed, expected it beside quell; "
            "pip install 'quell-denoiser[grpc]'"
        ) from None
    from optuna.storages._grpc.auto_generated.api_pb2_grpc import add_StorageServiceServicer_to_server
    from optuna.storages._grpc.servicer import OptunaStorageProxyService

    storage = place.open_storage(create=True, connections=THREADS)
    # Not Optuna's run_grpc_proxy_server, which takes no options: two proxies would share a port and its calls.
    server = grpc.server(ThreadPoolExecutor(THREADS), interceptors=[_candid()], options=[("grpc.so_reuseport", 0)])
    # Not patient: a client that waits here could not be interrupted, nor could we. It waits itself.
    add_StorageServiceServicer_to_server(OptunaStorageProxyService(storage.backend), server)
    try:
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            text = f"{host}:{port}: taken, or not ours, expected a free port of this machine; name another with --port"
            raise StorageError(text) from None
        server.start()
        if host not in LOOPBACK:
            console.print(f"quell: {host} asks nobody for a password; keep it inside a network that you trust")
        console.print(f"serving on grpc://{host}:{port}", highlight=False)
        server.wait_for_termination()
    finally:
        server.stop(None)
        storage.close()
    return 0


def _candid() -> Any:
    """Answers UNAVAILABLE for a database that is away, where Optuna's servicer would answer UNKNOWN."""
    import grpc

    class Candid(grpc.ServerInterceptor):  # type: ignore[misc]
        def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
            handler = continuation(details)

            def handle(request: Any, context: Any) -> Any:
                try:
                    return handler.unary_unary(request, context)
                except Exception as error:
                    reason = absence(error)
                    if reason is not None:
                        context.abort(grpc.StatusCode.UNAVAILABLE, reason)
                    raise

            return grpc.unary_unary_rpc_method_handler(
                handle, handler.request_deserializer, handler.response_serializer
            )

    return Candid()
