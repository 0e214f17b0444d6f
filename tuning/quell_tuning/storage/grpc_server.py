"""`quell storage serve`: a gRPC server in front of a database, for more workers than that has connections."""

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
from quell_tuning.errors import DatabaseGone, Interrupted, StorageError
from quell_tuning.loopback import is_loopback
from quell_tuning.storage.backends import import_grpc, open_storage
from quell_tuning.storage.retrying import RetryingStorage

# To the database; twice as many under load.
CONNECTIONS = 16
LEAST_CONNECTIONS = 4  # of one of several processes
END_S = 10.0  # for a process that was asked to end
RESTART_S = 1.0  # before a process that died is started again
POLL_S = 0.2
LAST_ANSWERS_S = 1.0  # to say to all clients why this server ends
DATABASE_GONE = 3  # exit code of one of several processes


@dataclass(frozen=True)
class Backend:
    """The database that is served."""

    url: str = field(repr=False)  # may hold a password
    token: str | None = field(repr=False)  # that every call must send; None where all calls are answered
    local: Path  # folder of the server that `postgres` as URL starts

    def open(self, connections: int, *, create: bool = True) -> RetryingStorage:
        return open_storage(self.url, self.local, create=create, connections=connections)


def serve(backend: Backend, host: str, port: int, processes: int, console: Console) -> int:
    """Serves a database until this process is interrupted.

    Args:
        processes: that share the port and the clients, since one Python process can use one core only.

    Raises:
        StorageError: the database cannot be opened, or the port is taken; or the database's file is gone.
    """
    import_grpc("storage serve")
    warning = _warning(host, backend.token)
    address = f"quell: {host}: {warning}\n" * bool(warning) + f"serving on grpc://{host}:{port}"
    if processes > 1:
        _serve_together(backend, host, port, processes, lambda text: console.print(text, highlight=False), address)
    else:
        with _server(backend, host, port, CONNECTIONS, shared=False) as server:
            console.print(address, highlight=False)
            server.wait_for_termination()
    return 0


@contextmanager
def _server(backend: Backend, host: str, port: int, connections: int, *, shared: bool) -> Iterator[Any]:
    """A server that answers calls; `shared` as in `make_server`."""
    from quell_tuning.storage.grpc_service import make_server

    storage = backend.open(connections, create=not shared)  # those that share were preceded by their parent
    gone: list[DatabaseGone] = []

    def check() -> None:
        try:
            storage.check()
        except DatabaseGone as error:
            gone.append(error)
            server.stop(LAST_ANSWERS_S)
            raise

    server = make_server(storage.backend, check, shared=shared, token=backend.token)
    try:
        try:
            server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            raise _taken(host, port) from None
        server.start()
        yield server
        if gone:
            raise gone[0]
    finally:
        server.stop(None)
        storage.close()


def _warning(host: str, token: str | None) -> str | None:
    """What the user of a proxy should know about who can use it."""
    if is_loopback(host):
        return (
            None if token else "every user of this machine may change the studies; give --token-file to keep them out"
        )
    if token:
        return "the token crosses the network unencrypted; keep it inside a network that you trust"
    return "the server asks for no password; give --token-file, or keep it in a network that you trust"


def _taken(host: str, port: int) -> StorageError:
    needed = "expected a free port of this machine; name another with --port"
    return StorageError(f"{host}:{port}: in use, or no address of this machine, {needed}")


def _serve_together(
    backend: Backend, host: str, port: int, processes: int, say: Callable[[str], None], address: str
) -> None:
    backend.open(connections=1).close()  # an error here is told once, not by every process
    _check_free(host, port)
    context = multiprocessing.get_context("spawn")
    ready = context.Semaphore(0)
    connections = max(LEAST_CONNECTIONS, CONNECTIONS // processes)

    def start() -> BaseProcess:
        process = context.Process(target=_serve_beside, args=(backend, host, port, connections, ready), daemon=True)
        try:
            with undisturbed():
                process.start()
        except BrokenPipeError:  # it was killed before it had read what it is to do
            found = "a process ended at its start, expected it to serve"
            raise StorageError(f"{host}:{port}: {found}; see its output above, or free memory") from None
        return process

    running: list[BaseProcess] = []
    with _stop_signals() as signals:
        try:
            running += [start() for _ in range(processes)]
            while not signals and len(running) > ready.get_value():
                if ended := wait([process.sentinel for process in running], POLL_S):
                    dead = next(process for process in running if process.sentinel in ended)
                    raise StorageError(f"{host}:{port}: {_end_of(dead)}; see its output above, or free memory")
            if not signals:
                say(address)
            while not signals:
                wait([process.sentinel for process in running], POLL_S)
                for number, process in enumerate(running):
                    if process.exitcode == DATABASE_GONE:
                        raise DatabaseGone(f"{host}:{port}: its database is gone, expected it to stay; see above")
                    if not process.is_alive() and not signals:
                        say(f"quell: process {process.pid} ended with {process.exitcode}; another one starts")
                        time.sleep(RESTART_S)
                        running[number] = start()
        finally:
            for process in running:
                process.terminate()
            for process in running:
                process.join(END_S)
                process.kill()
                process.join()


def _end_of(process: BaseProcess) -> str:
    process.join()  # it has ended, but the system may not say how yet
    return f"a process ended with {process.exitcode} before it served, expected it to serve"


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM, so that they do not interrupt the start of a process; the block must look.

    Raises:
        Interrupted: at the end, when there was one.
    """
    signals: list[int] = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handlers = {number: handler for number, handler in handlers.items() if handler != signal.SIG_IGN}
    for number in handlers:
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        yield signals
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if signals:
        raise Interrupted(128 + signals[0])


def _serve_beside(backend: Backend, host: str, port: int, connections: int, ready: Any) -> None:
    follow_parent()
    import_grpc("storage serve")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _server(backend, host, port, connections, shared=True) as server:
            ready.release()
            server.wait_for_termination()
    except DatabaseGone as error:
        print(f"quell: {error}", file=sys.stderr)
        sys.exit(DATABASE_GONE)
    except StorageError as error:
        sys.exit(f"quell: {error}")


def _check_free(host: str, port: int) -> None:
    """Refuses a port of another program, which several processes of ours would otherwise share with it."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        socket.create_server(address[:2], family=family).close()
    except OSError:
        raise _taken(host, port) from None
