"""A denoiser as one graph equals the eager one, in ONNX Runtime and by torch.export, at any length."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from quell.errors import ExportError
from quell.export import exporter
from quell.export.exported_model import load
from quell.export.onnx_graph import onnx_bytes, program

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TOLERANCE = 1e-5


def session(denoiser):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx_bytes(denoiser, {}), options)


def noisy(batch, length, seed=1):
    """Noise with silence in the middle, where a floor that an exporter removed would cause a division by zero."""
    waveform = 0.1 * torch.randn(batch, length, generator=torch.Generator().manual_seed(seed))
    waveform[:, length // 2 : length // 2 + 400] = 0
    return waveform


def relative_gap(found, expected):
    """Largest difference over the peak, or over 1e-3 (-50 dB of the input) where a random network gives silence."""
    return (found - expected).abs().max().item() / max(expected.abs().max().item(), 1e-3)


def gaps(run, denoiser):
    with torch.inference_mode():
        for batch, length in ((1, 1), (1, 2), (3, 1_501), (2, 8_001)):
            waveform = noisy(batch, length)
            yield relative_gap(run(waveform), denoiser(waveform))


@pytest.mark.parametrize(
    "settings",
    [
        {"bottleneck": "both", "bottleneck_units": 4},
        {"bottleneck": "both", "bottleneck_units": 4, "time_stride": 1},
        {"bottleneck": "forward", "bottleneck_units": 4, "causal": True},
        {"bottleneck": "frequency", "bottleneck_units": 4},
        {"downsampling": "pool", "causal": True},  # whose padding ONNX Runtime would ignore
        {"representation": "log", "target": "direct", "normalisation": "frame"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_in_onnx_runtime_a_denoiser_equals_the_eager_one(tiny_denoiser, settings):
    denoiser = tiny_denoiser(seed=3, depth=2, **settings)  # the time of an export grows with it
    model = session(denoiser)
    assert max(gaps(lambda x: torch.from_numpy(model.run(["clean"], {"noisy": x.numpy()})[0]), denoiser)) <= TOLERANCE


@pytest.mark.parametrize("number", range(3))
def test_in_onnx_runtime_any_denoiser_equals_the_eager_one(tiny_denoiser, drawn_settings, number):
    denoiser = tiny_denoiser(number, **drawn_settings(100 + number))
    model = session(denoiser)
    assert max(gaps(lambda x: torch.from_numpy(model.run(["clean"], {"noisy": x.numpy()})[0]), denoiser)) <= TOLERANCE


@pytest.fixture(scope="module")
def recurrent(tiny_denoiser):
    """A denoiser with a state."""
    return tiny_denoiser(seed=6, bottleneck="forward", bottleneck_units=4)


@pytest.fixture(scope="module")
def exported(recurrent, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    exporter.export(recurrent, path, {"study": "rainy"}, "onnx")
    return path


def test_an_onnx_denoiser_uses_the_level_that_is_given(recurrent, exported):
    denoiser, model = recurrent, load(exported).session
    waveform, level = noisy(1, 2_000), torch.full((1, 1), 0.3)
    (found,) = model.run(["clean"], {"noisy": waveform.numpy(), "level": level.numpy()})
    with torch.inference_mode():
        assert relative_gap(torch.from_numpy(found), denoiser(waveform, level)) <= TOLERANCE
        assert relative_gap(torch.from_numpy(found), denoiser(waveform)) > 1e-3  # else the above would prove nothing


def test_torch_export_supports_a_denoiser_without_recurrence(tiny_denoiser, tmp_path):
    denoiser = tiny_denoiser(seed=5, convolution="separable", time_stride=2)
    metadata = exporter.export(denoiser, tmp_path / "model.pt2", {"study": "rainy"}, "pt2")
    extra = {"quell.json": ""}
    model = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert json.loads(extra["quell.json"]) == metadata and metadata["study"] == "rainy"
    assert max(gaps(lambda x: model(x)[0], denoiser)) <= TOLERANCE


@pytest.mark.parametrize("over", ["frequency", "forward", "both"])
def test_torch_export_of_a_recurrence_is_refused(tiny_denoiser, over):
    with pytest.raises(ExportError, match=f"bottleneck: '{over}', expected 'none' for torch.export"):
        program(tiny_denoiser(bottleneck=over, bottleneck_units=4), onnx=False)


def test_an_onnx_file_is_loaded_with_its_metadata_and_accepts_any_shape(recurrent, exported):
    denoiser, model = recurrent, load(exported)
    assert (model.sample_rate, model.metadata["study"]) == (8_000, "rainy")
    waveform = noisy(2, 3_000)
    with torch.inference_mode():
        whole = denoiser(waveform)
    assert relative_gap(model(waveform), whole) <= TOLERANCE
    assert relative_gap(model(waveform[0]), whole[0]) <= TOLERANCE
    assert model(torch.zeros(0)).shape == (0,) and model(torch.zeros(2, 0)).shape == (2, 0)
    assert not model(torch.zeros(500)).any()


@pytest.mark.parametrize("content", [b"", b"not a model", None])
def test_an_onnx_file_of_another_program_is_an_error_with_its_path(tmp_path, content):
    if content is None:
        import onnx
        from onnx import TensorProto, helper

        value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
        opset = [helper.make_opsetid("", 20)]
        content = helper.make_model(graph, opset_imports=opset, ir_version=10).SerializeToString()
        assert onnx.load_from_string(content)
    (tmp_path / "other.onnx").write_bytes(content)
    with pytest.raises(ExportError, match=r"other\.onnx: not an exported denoiser, expected a file made by"):
        load(tmp_path / "other.onnx")


@pytest.mark.parametrize("damage", ["weight", "cut", "zeros"])
def test_a_damaged_onnx_file_is_an_error_with_its_path(recurrent, exported, tmp_path, damage):
    content, path = bytearray(exported.read_bytes()), tmp_path / "damaged.onnx"
    middle = len(content) // 2
    if damage == "weight":  # ONNX Runtime would accept it
        weight = recurrent.network.bottleneck.gru.weight_hh_l0.detach().chunk(3)[1].numpy().tobytes()
        content[content.index(weight)] ^= 1
    path.write_bytes(
        content[:-middle] if damage == "cut" else content[:middle] + bytes(middle) if damage == "zeros" else content
    )
    found = "damaged" if damage == "weight" else "not an exported denoiser"
    with pytest.raises(ExportError, match=rf"damaged\.onnx: {found}, expected"):
        load(path)


def test_an_onnx_export_that_differs_from_the_denoiser_keeps_the_old_file(
    tiny_denoiser, exported, tmp_path, monkeypatch
):
    monkeypatch.setattr("quell.export.onnx_graph.onnx_bytes", lambda *_: exported.read_bytes())
    target = tmp_path / "model.onnx"
    target.write_bytes(b"the old one")
    with pytest.raises(ExportError, match=r"exported output is off by \d\.\de-\d\d at"):
        exporter.export(tiny_denoiser(seed=7), target, {}, "onnx")
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"the old one"]


def test_each_channel_of_a_stream_has_its_own_state(exported):
    model = load(exported)
    waveform = noisy(2, model.blocks.block + model.blocks.context + 100)
    waveform[1] = waveform[1].flip(0)
    found = model(waveform)
    assert found.dtype == torch.float32
    for channel in (0, 1):
        np.testing.assert_array_equal(model(waveform[channel]).numpy(), found[channel].numpy())
