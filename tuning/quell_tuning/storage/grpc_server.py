"""`quell storage serve`: Optuna's gRPC proxy, for more workers than a database has connections."""

from __future__ import annotations

import multiprocessing
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import optuna
from rich.console import Console

from quell.processes import follow_parent, undisturbed
from quell_tuning.errors import Interrupted, StorageError
from quell_tuning.storage.backends import open_storage, quiet_grpc
from quell_tuning.storage.retrying import RetryingStorage

# To the database; twice as many at times.
CONNECTIONS = 16
LEAST_CONNECTIONS = 4  # of one of several processes
AGAIN_S = 1.0  # before a process that died is started again
POLL_S = 0.2
LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Backend:
    """The database that is served."""

    url: str = field(repr=False)  # may hold a password
    local: Path  # folder of the server that `postgres` as URL starts

    def open(self, connections: int) -> RetryingStorage:
        return open_storage(self.url, self.local, create=True, connections=connections)


def serve(backend: Backend, host: str, port: int, processes: int, console: Console) -> int:
    """Serves until it is interrupted.

    Args:
        processes: that share the port and the clients: one Python process can use one core.

    Raises:
        StorageError: the database cannot be opened, or the port is taken.
    """
    try:
        quiet_grpc()
        import grpc  # noqa: F401
    except ImportError:
        raise StorageError(
            "storage serve: the package grpcio is not installed, expected it beside quell; "
            "pip install 'quell-denoiser[grpc]'"
        ) from None
    if host not in LOOPBACK:
        console.print(f"quell: {host} asks nobody for a password; keep it inside a network that you trust")
    said = f"serving on grpc://{host}:{port}"
    if processes > 1:
        _serve_together(backend, host, port, processes, lambda text: console.print(text, highlight=False), said)
    else:
        with _server(backend, host, port, CONNECTIONS, shared=False) as server:
            console.print(said, highlight=False)
            server.wait_for_termination()
    return 0


@contextmanager
def _server(backend: Backend, host: str, port: int, connections: int, *, shared: bool) -> Iterator[Any]:
    """A server that answers calls.

    Args:
        shared: others may listen on the same port; each new client goes to one of them.
    """
    from quell_tuning.storage.grpc_service import make_server

    storage = backend.open(connections=connections)
    # Not patient: a client that waits here could not be interrupted, nor could we. It waits itself.
    server = make_server(storage.backend, shared=shared)
    try:
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise _taken(host, port) from None
        server.start()
        yield server
    finally:
        server.stop(None)
        storage.close()


def _taken(host: str, port: int) -> StorageError:
    needed = "expected a free port of this machine; name another with --port"
    return StorageError(f"{host}:{port}: taken, or not ours, {needed}")


def _serve_together(
    backend: Backend, host: str, port: int, processes: int, say: Callable[[str], None], said: str
) -> None:
    backend.open(connections=1).close()  # or all of them would say what is wrong with it
    _check_free(host, port)
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    connections = max(LEAST_CONNECTIONS, CONNECTIONS // processes)

    def start() -> BaseProcess:
        process = context.Process(target=_serve_beside, args=(backend, host, port, connections, ready), daemon=True)
        with undisturbed():
            process.start()
        return process

    running: list[BaseProcess] = []
    with _noted() as asked:
        try:
            running += [start() for _ in range(processes)]
            while not asked and len(running) > ready.get_value():
                if wait([process.sentinel for process in running], POLL_S):
                    raise StorageError(f"{host}:{port}: a process ended before it served; see what it said above")
            if not asked:
                say(said)
            while not asked:
                wait([process.sentinel for process in running], POLL_S)
                for number, process in enumerate(running):
                    if not process.is_alive() and not asked:
                        say(f"quell: process {process.pid} ended with {process.exitcode}; another one starts")
                        time.sleep(AGAIN_S)
                        running[number] = start()
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.join()


@contextmanager
def _noted() -> Iterator[list[int]]:
    """Inside, Ctrl-C and SIGTERM are noted; it is for the block to leave. They must not cut the start of a process.

    Raises:
        Interrupted: at the end, when one was noted.
    """
    asked: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    heard = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in heard:
        signal.signal(number, lambda number, frame: asked.append(number))
    try:
        yield asked
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
    if asked:
        raise Interrupted(128 + asked[0])


def _serve_beside(backend: Backend, host: str, port: int, connections: int, ready: Any) -> None:
    follow_parent()
    quiet_grpc()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _server(backend, host, port, connections, shared=True) as server:
            ready.release()
            server.wait_for_termination()
    except StorageError as error:
        print(f"quell: {error}", file=sys.stderr)
        sys.exit(1)


def _check_free(host: str, port: int) -> None:
    """Several processes could share the port with somebody else's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # closed connections are no reason to wait
            tried.bind(address)
    except OSError:
        raise _taken(host, port) from None
