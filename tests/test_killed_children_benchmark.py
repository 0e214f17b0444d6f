"""The benchmark of killed child processes, with one command and a few kills."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("psutil")
SCRIPT = Path(__file__).parents[1] / "benchmarks" / "killed_children.py"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes through /proc")
def test_a_command_whose_children_are_killed_ends_right_or_in_one_line() -> None:
    options = ["--only", "corpus check", "--kills", "2", "--planted", "1", "--limit", "300"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUELL_")}
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| corpus check"))
    _, _, runs, at_random, inside, right, one_line, wrong, hung, *_ = (cell.strip() for cell in row.split("|"))
    assert int(at_random) >= 2 and int(inside) >= 1
    assert int(right) + int(one_line) == int(runs)
    assert (wrong, hung) == ("0", "0")
