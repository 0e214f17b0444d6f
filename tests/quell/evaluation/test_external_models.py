"""Models of others take waveforms of one of three shapes, at a rate that is stated in the file or given."""

from __future__ import annotations

import re
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quell.audio import resample
from quell.errors import ExportError
from quell.evaluation import external_models

RATE = 8_000


class Halved(nn.Module):
    """Half of a waveform of one shape, cut to whole frames as an STFT would; other shapes fail."""

    def __init__(self, rank: int, frame: int = 1, sample_rate: int = 0) -> None:
        super().__init__()
        self.rank, self.frame = rank, frame
        if sample_rate:
            self.sample_rate = sample_rate

    def forward(self, noisy: Tensor) -> Tensor:
        if noisy.dim() != self.rank:
            raise ValueError("another shape")
        return 0.5 * noisy[..., : noisy.size(-1) // self.frame * self.frame]


@pytest.fixture
def scripted(tmp_path):
    """Writes a module as TorchScript."""

    def write(module: nn.Module):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(module).save(str(tmp_path / "theirs.pt"))
        return tmp_path / "theirs.pt"

    return write


def onnx_of(path, shape, inputs=1, **metadata):
    """A graph that halves a float tensor of such a shape."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    given = [helper.make_tensor_value_info(f"in{i}", kind, shape) for i in range(inputs)]
    half = helper.make_tensor("half", kind, [], [0.5])
    node = helper.make_node("Mul", ["in0", "half"], ["out"])
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("out", kind, shape)], [half])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_a_torchscript_model_of_any_shape_runs_at_the_given_rate(scripted, noise, rank):
    system, signal = external_models.system(scripted(Halved(rank)), RATE), noise(0.5, RATE)
    assert np.array_equal(system(signal, RATE), 0.5 * signal)
    wide = noise(0.5, 2 * RATE)
    there_and_back = 0.5 * resample(resample(wide, 2 * RATE, RATE), RATE, 2 * RATE)
    assert np.abs(system(wide, 2 * RATE) - there_and_back).max() < 1e-6


@pytest.mark.parametrize("shape", [["T"], [1, "T"], ["B", "T"], [1, 1, "T"]])
def test_an_onnx_model_of_any_shape_runs(tmp_path, noise, shape):
    system = external_models.system(onnx_of(tmp_path / "theirs.onnx", shape), RATE)
    signal = noise(0.5, RATE)
    assert np.array_equal(system(signal, RATE), 0.5 * signal)


def test_the_rate_stated_in_a_file_holds_unless_another_is_given(scripted, tmp_path, noise):
    signal = noise(0.5, 2 * RATE)
    narrow = 0.5 * resample(resample(signal, 2 * RATE, RATE), RATE, 2 * RATE)
    for path in (scripted(Halved(2, sample_rate=RATE)), onnx_of(tmp_path / "x.onnx", [1, "T"], sample_rate=RATE)):
        assert np.abs(external_models.system(path)(signal, 2 * RATE) - narrow).max() < 1e-6
        assert np.array_equal(external_models.system(path, 2 * RATE)(signal, 2 * RATE), 0.5 * signal)


def test_an_output_of_whole_frames_is_cut_to_its_input(scripted, noise):
    signal = noise(0.5, RATE)[:3_999]
    answer = external_models.system(scripted(Halved(2, frame=160)), RATE)(signal, RATE)
    assert np.array_equal(answer[:3_840], 0.5 * signal[:3_840]) and not answer[3_840:].any() and len(answer) == 3_999


def test_a_file_that_is_no_denoiser_is_refused_with_the_reason(scripted, tmp_path, noise):
    broken = tmp_path / "broken.pt"
    broken.write_text("no model")
    for path, rate, problem in [
        (tmp_path / "none.pt", RATE, "no such file, expected a denoiser"),
        (broken, RATE, "not a model, expected TorchScript, ONNX, or a file made by `quell export`"),
        (scripted(Halved(4)), RATE, r"returns no waveform, expected one for one of \(1, T\) or \(T,\) or \(1, 1, T\)"),
        (
            onnx_of(tmp_path / "two.onnx", [1, "T"], inputs=2),
            RATE,
            r"takes in0 \[1, 'T'\], in1 \[1, 'T'\], expected one",
        ),
        (onnx_of(tmp_path / "image.onnx", [1, 1, 8, "T"]), RATE, r"takes in0 \[1, 1, 8, 'T'\], expected one waveform"),
        (
            onnx_of(tmp_path / "mute.onnx", [1, "T"]),
            None,
            "states no sample rate, expected one; add it, as in .*@16000$",
        ),
    ]:
        with pytest.raises(ExportError, match=f"^{re.escape(str(path))}: {problem}"):
            external_models.system(path, rate)
    path = scripted(Halved(2, frame=2_000))
    with pytest.raises(ExportError, match=r"theirs\.pt: 2000 samples for 3999, expected as many"):
        external_models.system(path, RATE)(noise(0.5, RATE)[:3_999], RATE)
    path = onnx_of(tmp_path / "fixed.onnx", [1, 160])
    with pytest.raises(ExportError, match=r"fixed\.onnx: .*expected to run; leave it out$"):
        external_models.system(path, RATE)(noise(0.5, RATE), RATE)


def test_a_damaged_torchscript_model_is_refused(scripted):
    path = scripted(nn.Sequential(nn.Linear(4, 4), Halved(2)))
    content = bytearray(path.read_bytes())
    content[content.index(torch.jit.load(str(path)).state_dict()["0.weight"].numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(ExportError, match=r"theirs\.pt: damaged, expected the bytes that were written; get it again"):
        external_models.system(path, RATE)


def test_a_missing_onnxruntime_names_its_extra(tmp_path, monkeypatch):
    path = onnx_of(tmp_path / "theirs.onnx", [1, "T"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'quell-denoiser\[onnx\]'$"):
        external_models.system(path, RATE)
