"""Imports point one way: the package knows nothing of the search that uses it."""

from __future__ import annotations

import ast
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import quell

MODULES = sorted(f"quell.{module.name}" for module in pkgutil.iter_modules(quell.__path__))
# Reading sound, splitting a corpus and computing PESQ or STOI do without torch.
WITHOUT_TORCH = [
    "quell.atomic",
    "quell.audio",
    "quell.corpus.memory_map",
    "quell.datasets.synthetic_corpus",
    "quell.errors",
    "quell.metrics.intrusive",
]


def loaded_after(modules: list[str]) -> set[str]:
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in found.stdout.split()}


def test_importing_every_module_loads_neither_optuna_nor_the_search():
    assert loaded_after(MODULES) & {"quell", "torch", "optuna", "quell_tuning", "tests"} == {"quell", "torch"}


def test_sound_corpus_and_metrics_do_without_torch():
    assert loaded_after(WITHOUT_TORCH) & {"quell", "torch"} == {"quell"}


@pytest.mark.parametrize("module", ["quell", *MODULES])
def test_no_module_names_the_search_in_an_import(module):
    name = module.removeprefix("quell").removeprefix(".") or "__init__"
    tree = ast.parse((Path(quell.__path__[0]) / f"{name}.py").read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: line {node.lineno} imports relatively"
            imported.add(node.module.split(".")[0])
    assert imported.isdisjoint({"optuna", "quell_tuning", "tests"})


def test_onnxruntime_writes_no_device_id_and_no_events(tmp_path):
    pytest.importorskip("onnxruntime")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import quell, onnxruntime, time; time.sleep(1)"
    subprocess.run([sys.executable, "-c", code], check=True, env=bare | places)
    assert list(tmp_path.iterdir()) == []
