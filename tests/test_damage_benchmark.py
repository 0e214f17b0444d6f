"""Damage of any amount to any file that Quell reads again is noticed, as the benchmark counts it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])


def test_every_damaged_version_of_every_file_is_noticed(tmp_path: Path) -> None:
    from damage import DAMAGES, kinds, noticed

    found = {
        (kind.name, name): noticed(kind, damage, 3)
        for kind in kinds(tmp_path, ["torchscript"])  # the others take long to export, and have tests of their own
        for name, damage in DAMAGES.items()
    }
    assert {kind for kind, _ in found} == {
        "weights", ".pt", "checkpoint", "store, train.int16", "store, index.json", "held-out set", "digests.json",
    }  # fmt: skip
    assert {place: count for place, count in found.items() if count < 3} == {}
