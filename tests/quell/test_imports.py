"""What importing loads: neither the search, nor torch where sound is read, nor anything that reports home."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import quell

MODULES = sorted(module.name for module in pkgutil.walk_packages(quell.__path__, "quell."))
# Reading sound, decoding and auditing a corpus and computing PESQ or STOI do without torch.
WITHOUT_TORCH = ("audio", "audit", "corpus", "datasets", "metrics")


def loaded_after(modules: list[str]) -> set[str]:
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in found.stdout.split()}


def test_importing_every_module_loads_neither_optuna_nor_the_search():
    assert loaded_after(MODULES) & {"quell", "torch", "optuna", "quell_tuning", "tests"} == {"quell", "torch"}


def test_sound_corpus_and_metrics_do_without_torch():
    modules = [module for module in MODULES if module.split(".")[1] in WITHOUT_TORCH]
    assert len(modules) > 3 * len(WITHOUT_TORCH)
    assert loaded_after(modules) & {"quell", "torch"} == {"quell"}


def test_onnxruntime_writes_no_device_id_and_no_events(tmp_path):
    pytest.importorskip("onnxruntime")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import quell, onnxruntime, time; time.sleep(1)"
    subprocess.run([sys.executable, "-c", code], check=True, env=bare | places)
    assert list(tmp_path.iterdir()) == []
