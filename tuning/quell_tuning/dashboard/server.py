"""`quell dashboard`: a web server for optuna-dashboard, behind access control and with its own artifact route."""

import logging
import os
import resource
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO
from wsgiref.types import WSGIApplication

import optuna
import optuna_dashboard
import waitress
from optuna.artifacts.exceptions import ArtifactNotFound
from rich.console import Console

from quell_tuning.artifacts.artifact_store import ArtifactStore
from quell_tuning.dashboard import page_refresh
from quell_tuning.dashboard.access_control import Guard
from quell_tuning.dashboard.artifact_route import Artifacts
from quell_tuning.dashboard.json_answers import JsonAnswers
from quell_tuning.dashboard.storage_view import DashboardStorage
from quell_tuning.errors import DatabaseGone, UsageError
from quell_tuning.loopback import is_loopback
from quell_tuning.optuna_private import storage_of, study_id_of
from quell_tuning.storage.retrying import RetryingStorage

log = logging.getLogger("quell")

# Requests answered at once: a page with 8 players asks for 6 things at a time.
THREADS = 8
# Uploads are held in memory, also before the password is checked.
LARGEST_UPLOAD_BYTES = 16 << 20
REFRESH_S = 30.0
# A connection that sends nothing is closed after so long. A browser keeps up to six, and opens new ones at no cost.
IDLE_S = 20
# Connections at once, idle ones included, where the system allows as many open files.
CONNECTIONS = 4096
FILES = 256  # that are open besides, at most
POLL_S = 0.5  # between two looks whether the server still runs
# At the end, requests that are being answered get so long.
SHUTDOWN_S = 1.0


@dataclass(frozen=True)
class Access:
    """Address of the dashboard, and who may do what there.

    Args:
        port: 0 for any that is free.
        password: for any user name; None where only this machine can reach the address (`access_control.check`).
    """

    host: str
    port: int
    password: str | None = field(repr=False)
    read_only: bool


def serve(study: optuna.Study, store: ArtifactStore, access: Access, console: Console) -> int:
    """Reads the study's trials, prints the address of its page on stdout, and serves until it is interrupted.

    Optuna takes 3 ms for each trial that it has not read before: 10,000 are read before anybody waits for an answer.
    The study's notes and plots are brought up to date at the start and every REFRESH_S. When nothing has changed that
    takes 0.1 s for 1000 trials.

    Raises:
        UsageError: the address is taken, or not this machine's.
        DatabaseGone: the file of the database was deleted, moved or replaced.
    """
    storage = storage_of(study)
    assert isinstance(storage, RetryingStorage), "a study of quell_tuning.storage.backends"
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of requests that wait for a thread
    with listen(access.host, access.port) as listener:
        app = application(storage, store, access.password, access.read_only)
        server = web_server(app, listener)
        # Not in this thread: waitress swallows KeyboardInterrupt in the main thread.
        serving = threading.Thread(target=server.run, daemon=True)
        ended = threading.Event()
        refresh = partial(page_refresh.refresh, study, storage)
        gone: list[DatabaseGone] = []

        def keep() -> None:
            try:
                keep_fresh(refresh, ended)
            except DatabaseGone as error:
                gone.append(error)
                ended.set()

        with console.status(f"reading the trials of study {study.study_name}"):
            storage.get_all_trials(study_id_of(study), deepcopy=False)  # kept by the storage, for all who ask
        threading.Thread(target=keep, daemon=True).start()
        if not is_loopback(access.host):
            console.print(
                f"quell: {access.host}: the password crosses the network unencrypted; use a network that you trust, or "
                "put HTTPS in front"
            )
        print(f"{_address(listener)}/dashboard/studies/{study_id_of(study)}", flush=True)
        try:
            serving.start()
            while serving.is_alive() and not ended.wait(POLL_S):
                pass
            if gone:
                raise gone[0]
        finally:
            ended.set()
            server.task_dispatcher.shutdown(timeout=SHUTDOWN_S)
            storage.close()
    return 1


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at the address.

    Raises:
        UsageError: the port is taken or not ours, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host.strip("[]"), port), family=family)
    except OSError as error:
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror  # unknown host names have numbers below 0
        text = f"{host}:{port}: {reason}, expected a free port of this machine"
        raise UsageError(f"{text}; name another with --port, 0 for any, or another --host") from None


def web_server(app: WSGIApplication, listener: socket.socket) -> Any:
    """A server of an application, not yet started, which idle connections do not keep from answering others."""
    return waitress.create_server(
        app,
        sockets=[listener],
        threads=THREADS,
        ident="",
        max_request_body_size=LARGEST_UPLOAD_BYTES,
        connection_limit=_connections(),
        channel_timeout=IDLE_S,
        cleanup_interval=IDLE_S // 2,
        asyncore_use_poll=True,  # select takes no more than 1024
    )


def _connections() -> int:
    """How many connections may be open at once; raises this process's limit of open files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = CONNECTIONS + FILES if hard == resource.RLIM_INFINITY else min(hard, CONNECTIONS + FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return max(most - FILES, FILES)


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # listening on all addresses includes this one
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def application(
    storage: RetryingStorage, store: ArtifactStore, password: str | None, read_only: bool
) -> WSGIApplication:
    """The whole application, from the access control to optuna-dashboard."""
    view = DashboardStorage(storage)
    page = optuna_dashboard.wsgi(view, artifact_store=_WriteOnlyStore(store))
    return Guard(Artifacts(JsonAnswers(page), view, store), password, read_only)


class _WriteOnlyStore:
    """The artifact store for the dashboard's own routes, which write and remove; only `Artifacts` reads."""

    def __init__(self, store: ArtifactStore) -> None:
        self.store = store
        self.write = store.write

    def remove(self, artifact_id: str) -> None:
        """Ignores a missing artifact: deleting a study removes the clips that its trials share once for each trial."""
        with suppress(ArtifactNotFound):
            self.store.remove(artifact_id)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        raise ArtifactNotFound(artifact_id)


def keep_fresh(refresh: Callable[[], None], ended: threading.Event) -> None:
    """Calls `refresh` now and every REFRESH_S; an error is logged, and it is called again. Raises DatabaseGone."""
    while True:
        try:
            refresh()
        except DatabaseGone:
            raise
        except Exception as error:
            log.warning("notes and plots were not updated: %s: %s", type(error).__name__, " ".join(str(error).split()))
        if ended.wait(REFRESH_S):
            return
