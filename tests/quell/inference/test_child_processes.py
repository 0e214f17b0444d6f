"""A process that has denoised can fork children that denoise, and give models to processes that it spawns."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from quell.export.exported_model import TorchModel, load
from quell.export.exporter import export

NOISE = 0.1 * np.random.default_rng(0).standard_normal(32_000).astype(np.float32)
LIMIT_S = 120
SCRIPT = """
import multiprocessing, sys
import numpy as np, quell

noisy = (0.1 * np.random.default_rng(0).standard_normal(32_000)).astype(np.float32)

def denoise(model):
    return quell.denoise(noisy, 16_000, model)

if __name__ == "__main__":
    for path in sys.argv[2:]:
        model = quell.load(path) if path else None
        clean = denoise(model)
        with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
            answers = pool.map_async(denoise, [model] * 3).get(100)
        print(path, all(np.allclose(answer, clean, atol=1e-5) for answer in answers), flush=True)
"""


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory, tiny_denoiser):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export(tiny_denoiser(0, sample_rate=16_000), path, {}, "onnx")
    return path


@pytest.mark.parametrize(("method", "kinds"), [("fork", ("", "model", "onnx_file")), ("spawn", ("model",))])
def test_children_denoise_after_their_parent_has(tmp_path, request, method, kinds):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("no fork on this system")
    models = [str(request.getfixturevalue(kind)) if kind else "" for kind in kinds]
    script, output = tmp_path / "script.py", tmp_path / "output"
    script.write_text(SCRIPT)
    environment = os.environ | {"OMP_NUM_THREADS": "2"}  # more than one, also on a machine of one core
    with output.open("w") as file:  # a pipe would stay open as long as a child that hangs
        command = [sys.executable, str(script), method, *models]
        subprocess.run(command, stdout=file, stderr=file, timeout=LIMIT_S, env=environment, check=False)
    assert output.read_text().splitlines() == [f"{model} True" for model in models]


def test_a_pickled_model_is_loaded_from_its_file(loaded, model):
    again = pickle.loads(pickle.dumps(loaded))
    assert again.path == loaded.path == model
    assert again.metadata == loaded.metadata


def test_a_model_without_a_file_says_how_to_pass_it(loaded):
    unnamed = TorchModel(loaded.sample_rate, loaded.metadata, loaded.blocks, loaded.module)
    with pytest.raises(TypeError, match=r"a model without a file cannot be pickled; export it"):
        pickle.dumps(unnamed)


def test_a_model_given_by_a_relative_path_is_found_from_another_folder(model, tmp_path, monkeypatch):
    monkeypatch.chdir(model.parent)
    content = pickle.dumps(load(model.name))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(content).path == model
