"""`quell storage serve`: what it says, whom it serves, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from quell_tuning.errors import StorageError
from quell_tuning.sqlite_file import study_names
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.grpc_server import serve
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.workspace import Workspace
from rich.console import Console

pytest.importorskip("grpc")


OPEN = "quell: 127.0.0.1: every user of this machine may change the studies; give --token-file to keep them out"


class Proxy:
    """A proxy that has said that it serves, or has ended."""

    def __init__(self, url: str, port: int, *arguments: str) -> None:
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port), *arguments]
        self.process = subprocess.Popen(
            command,
            env=os.environ | {"QUELL_STORAGE": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if "serving on" in line:
                break

    def interrupt(self) -> None:
        """Ends it as Ctrl-C does, and checks how it leaves."""
        self.process.send_signal(signal.SIGINT)
        output, errors = self.process.communicate(timeout=5)
        assert (self.process.returncode, output) == (130, "")
        assert errors == "quell: interrupted\n"


@pytest.fixture
def start() -> Iterator[Callable[..., Proxy]]:
    started: list[Proxy] = []

    def start(*arguments: Any) -> Proxy:
        started.append(Proxy(*arguments))
        return started[-1]

    yield start
    for proxy in started:
        with proxy.process as process:
            process.kill()


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'q.db'}"


def test_a_proxy_names_its_address_and_serves_until_it_is_interrupted(
    start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    proxy = start(sqlite, port)
    assert proxy.said == [OPEN, f"serving on grpc://127.0.0.1:{port}"]
    client = open_storage(f"grpc://127.0.0.1:{port}")
    optuna.create_study(study_name="s", storage=client).enqueue_trial({"x": 0.5})
    client.close()
    proxy.interrupt()
    storage = open_storage(sqlite)
    (trial,) = optuna.load_study(study_name="s", storage=storage).trials
    storage.close()
    assert trial.system_attrs["fixed_params"] == {"x": 0.5}


def test_listening_beyond_this_machine_gives_a_warning(
    start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    proxy = start(sqlite, port, "--host", "0.0.0.0")
    assert proxy.said == [
        "quell: 0.0.0.0: the server asks for no password; give --token-file, or keep it in a network that you trust",
        f"serving on grpc://0.0.0.0:{port}",
    ]
    proxy.interrupt()


@pytest.mark.parametrize("by", ["another program", "another proxy"])
def test_a_port_in_use_is_named_in_one_line(
    by: str, start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    with socket.socket() as taken:
        if by == "another proxy":
            start(sqlite, port)
        else:
            taken.bind(("127.0.0.1", port))
            taken.listen()
        late = start(sqlite, port)
        assert late.process.wait(10) == 1
    (line,) = late.said
    assert line.startswith(f"quell: 127.0.0.1:{port}: ")
    assert "expected a free port" in line


@pytest.mark.parametrize("processes", ["1", "2"])
def test_processes_share_a_port_only_with_each_other(
    processes: str, start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    start(sqlite, port, "--processes", "2")
    late = start(sqlite, port, "--processes", processes)
    assert late.process.wait(20) == 1
    (line,) = late.said
    assert line.startswith(f"quell: 127.0.0.1:{port}: in use")


def test_clients_of_several_processes_read_each_others_writes_though_one_process_is_killed(
    start: Callable[..., Proxy],
    sqlite: str,
    free_port: Callable[[], int],
    wait_for: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import grpc

    own = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]  # or all share a connection
    monkeypatch.setattr(
        "optuna.storages._grpc.client.create_insecure_channel",
        lambda host, port: grpc.insecure_channel(f"{host}:{port}", options=own),
    )
    port = free_port()
    proxy = start(sqlite, port, "--processes", "2")
    assert proxy.said == [OPEN, f"serving on grpc://127.0.0.1:{port}"]
    clients = [open_storage(f"grpc://127.0.0.1:{port}") for _ in range(20)]  # all at one: once in half a million
    optuna.create_study(study_name="s", storage=clients[0])
    studies = [optuna.load_study(study_name="s", storage=client) for client in clients]
    for study in studies:
        study.enqueue_trial({"x": 0.5})
    running = [study.ask() for study in studies]
    serving = [child for child in psutil.Process(proxy.process.pid).children() if "spawn_main" in str(child.cmdline())]
    assert len(serving) == 2
    assert all(any(found.status == "ESTABLISHED" for found in child.net_connections()) for child in serving)
    serving[0].kill()
    for study, trial in zip(studies, running, strict=True):  # the clients of the killed one wait and go on
        study.tell(trial, trial.suggest_float("x", 0, 1))
    assert [[trial.value for trial in study.trials] for study in studies] == [[0.5] * 20] * 20
    errors = proxy.process.stderr
    assert errors is not None
    assert errors.readline().startswith(f"quell: process {serving[0].pid} ended with -9; another one")
    for client in clients:
        client.close()
    proxy.interrupt()
    wait_for(lambda: not any(child.is_running() for child in serving), 5)


def test_a_proxy_whose_first_process_is_killed_before_it_serves_ends_in_one_line(
    start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int], wait_for: Callable[..., Any]
) -> None:
    def serving() -> list[psutil.Process]:
        below = [child for one in psutil.Process().children() for child in one.children()]
        return [process for process in below if any("spawn_main" in word for word in process.cmdline())]

    killer = threading.Thread(target=lambda: wait_for(serving, 60, 0.01)[0].kill())
    killer.start()
    port = free_port()
    proxy = start(sqlite, port, "--processes", "2")
    killer.join()
    assert proxy.process.wait(20) == 1
    assert len(proxy.said) == 1, proxy.said
    (line,) = proxy.said
    ended = "a process ended (with -9 before it served|at its start)"  # killed before it has read its task
    needed = "expected it to serve; see its output above, or free memory"
    assert re.fullmatch(f"quell: 127.0.0.1:{port}: {ended}, {needed}", line)


def test_a_trial_continues_through_a_proxy_that_has_never_read_it(
    start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int]
) -> None:
    port = free_port()
    first = start(sqlite, port)
    client = open_storage(f"grpc://127.0.0.1:{port}")
    trial = optuna.create_study(study_name="s", storage=client).ask()
    trial.suggest_float("x", 0, 1)
    first.process.kill()
    first.process.wait()
    start(sqlite, port)
    assert 0 <= trial.suggest_float("y", 0, 1) <= 1
    with pytest.raises(ValueError):  # still the same space for all
        trial.study.ask().suggest_categorical("x", ["a", "b"])
    client.close()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_proxy_whose_database_is_deleted_tells_its_clients_and_ends(
    processes: str, start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int], tmp_path: Path
) -> None:
    port = free_port()
    proxy = start(sqlite, port, "--processes", processes)
    client = open_storage(f"grpc://127.0.0.1:{port}")
    study = optuna.create_study(study_name="s", storage=client)
    for part in ("", "-wal", "-shm"):
        (tmp_path / f"q.db{part}").unlink()
    with pytest.raises(StorageError, match=r"q\.db was deleted while it was in use, .* is in \S+/q-saved-1\.db"):
        study.enqueue_trial({})
    client.close()
    _, errors = proxy.process.communicate(timeout=20)
    assert proxy.process.returncode == 1
    assert "q.db was deleted while it was in use" in errors.splitlines()[0]
    assert study_names(tmp_path / "q-saved-1.db") == ["s"]
    assert not (tmp_path / "q.db").exists()


def test_a_killed_proxy_leaves_no_process(
    start: Callable[..., Proxy], sqlite: str, free_port: Callable[[], int], wait_for: Callable[..., Any]
) -> None:
    proxy = start(sqlite, free_port(), "--processes", "2")
    serving = psutil.Process(proxy.process.pid).children()
    proxy.process.kill()
    wait_for(lambda: not any(child.is_running() for child in serving), 5)


def test_a_database_that_cannot_be_opened_is_named_in_one_line(
    start: Callable[..., Proxy], free_port: Callable[[], int]
) -> None:
    proxy = start("postgresql://me:sesame@127.0.0.1:1/db", free_port())
    assert proxy.process.wait(10) == 1
    assert len(proxy.said) == 1, proxy.said
    (line,) = proxy.said
    assert line.startswith("quell: postgresql://me:***@127.0.0.1:1/db: ")
    assert "sesame" not in line


def test_without_the_package_the_command_that_installs_it_is_named(
    tmp_path: Path, sqlite: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "grpc", None)
    with pytest.raises(StorageError, match=r"^storage serve: .* not installed, .*; pip install 'quell-denoiser\[grpc"):
        serve(Workspace(RunFolder(tmp_path), sqlite, None), "127.0.0.1", 13000, 1, Console())
    assert list(tmp_path.iterdir()) == []


class StopRequested(BaseException):
    pass


def test_client_and_proxy_can_stop_while_the_database_is_away(
    start: Callable[..., Proxy], postgres: PostgresServer, free_port: Callable[[], int], wait_for: Callable[..., Any]
) -> None:
    port = free_port()
    proxy = start(postgres.url, port)
    client, left = open_storage(f"grpc://127.0.0.1:{port}"), threading.Event()
    asked = threading.Event()

    def unless() -> None:
        if asked.is_set():
            raise StopRequested

    def call() -> None:
        with suppress(StopRequested), client.waiting(unless=unless):
            client.get_all_studies()
        left.set()

    client.get_all_studies()
    postgres.stop()
    try:
        threading.Thread(target=call, daemon=True).start()
        assert not left.wait(1)
        asked.set()
        assert left.wait(5)
        asked.clear()
        left.clear()
        threading.Thread(target=call, daemon=True).start()
        assert not left.wait(1)
        proxy.interrupt()
        asked.set()
        assert left.wait(5)
    finally:
        postgres.start()
        client.close()
