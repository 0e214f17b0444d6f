"""The public interface, and what importing a module loads: no search, no torch for sound, no telemetry."""

from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import pytest

import quell
from quell import errors

MODULES = sorted(module.name for module in pkgutil.walk_packages(quell.__path__, "quell."))
# Packages that need no torch: they read sound, decode and audit a corpus, compute PESQ or STOI.
WITHOUT_TORCH = ("audio", "audit", "corpus", "datasets", "metrics")


PUBLIC = {
    "__version__",
    "load",
    "denoise",
    "Model",
    "DenoiseOptions",
    *(name for name, value in vars(errors).items() if isinstance(value, type)),
}


def loaded_after(modules: list[str]) -> set[str]:
    script = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in found.stdout.split()}


def test_the_public_interface_is_load_denoise_model_options_and_errors():
    assert set(quell.__all__) == PUBLIC
    assert len(quell.__all__) == len(PUBLIC) == 15
    assert all(hasattr(quell, name) for name in quell.__all__)
    with pytest.raises(AttributeError, match="module 'quell' has no attribute 'train'"):
        _ = quell.train


def test_importing_quell_loads_no_other_package_than_its_own():
    assert loaded_after(["quell"]) & {"quell", "torch", "numpy", "soundfile", "onnxruntime"} == {"quell"}


def test_importing_every_module_loads_neither_optuna_nor_the_search():
    assert loaded_after(MODULES) & {"quell", "torch", "optuna", "quell_tuning", "tests"} == {"quell", "torch"}


def test_importing_audio_corpus_datasets_metrics_and_audit_loads_no_torch():
    modules = [module for module in MODULES if module.split(".")[1] in WITHOUT_TORCH]
    assert len(modules) > 3 * len(WITHOUT_TORCH)
    assert loaded_after(modules) & {"quell", "torch"} == {"quell"}


def test_importing_onnxruntime_after_quell_writes_no_device_id_and_no_events(tmp_path):
    pytest.importorskip("onnxruntime")
    bare = {key: value for key, value in os.environ.items() if not key.startswith("ORT_")}
    places = {"HOME": str(tmp_path), "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    code = "import quell, onnxruntime, time; time.sleep(1)"
    subprocess.run([sys.executable, "-c", code], check=True, env=bare | places)
    assert list(tmp_path.iterdir()) == []
