"""The benchmark of denoisers prints the results of `quell evaluate`, and checks with target values."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from quell.corpus.recordings import CorpusConfig

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "denoising.py"


def printed(*arguments: str | Path) -> tuple[str, str]:
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("QUELL_")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.fixture
def unchanged(tmp_path: Path) -> str:
    """A third-party model whose output is its input."""
    torch.jit.trace(torch.nn.Identity(), torch.zeros(1, 100)).save(str(tmp_path / "same.pt"))
    return f"{tmp_path / 'same.pt'}@8000"


def test_an_identity_gains_nothing_and_passes_every_check(
    small_config: CorpusConfig, unchanged: str, tmp_path: Path
) -> None:
    corpus = ["--corpus", small_config.clean.parent, "--sample-rate", "8000", "--group-noise", small_config.group_noise]
    few = ["--mixtures", "6", "--runs", tmp_path, "--baselines"]
    out, _ = printed(*corpus, *few, "--model", unchanged)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    noisy, same = rows[2:4]
    assert [cell.split(",")[0] for cell in same[1:4]] == noisy[1:4]
    assert [cell.split()[1] for cell in same[1:4]] == ["+0.00", "+0.000", "+0.00"]
    assert same[4:7] == ["0%", "0%", "+0.00"]
    by_snr = [row for row in rows if row[0] in ("-5", "0", "5", "10", "15", "20")]
    assert [row[1] for row in by_snr] == ["1"] * 6 and all(row[2] == row[3] for row in by_snr)
    assert len([row for row in rows if row[1].startswith((">", "<"))]) == 7
    assert "**" not in out


def test_a_baseline_that_is_not_installed_is_left_out_with_one_line(
    small_config: CorpusConfig, unchanged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "noisereduce.py").write_text("raise ImportError('No module named noisereduce')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "pairs").mkdir()
    shutil.copy(small_config.clean / "speaker0" / "0.wav", tmp_path / "pairs")
    folders = ["--noisy", tmp_path / "pairs", "--clean", tmp_path / "pairs"]
    out, err = printed(*folders, "--model", unchanged, "--baselines", "spectral-gate")
    (line,) = err.splitlines()
    assert line.startswith("left out: spectral-gate: No module named noisereduce, expected its package")
    assert "1 pairs of recordings" in out and "spectral-gate" not in out.split("\n\n", 1)[1]
