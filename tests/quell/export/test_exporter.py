"""An exported file equals the denoiser, without quell, in blocks and at any level, and is written atomically."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quell.errors import ExportError
from quell.export import exporter, torchscript
from quell.export.blocks import blocks_of
from quell.export.exported_model import load
from quell.export.torchscript import METADATA, BlockDenoiser

# One sample, 0.1 s, and a length that no hop divides.
LENGTHS = (1, 800, 8_001)


@pytest.fixture(scope="module")
def denoiser(tiny_denoiser):
    return tiny_denoiser(seed=5)


@pytest.fixture(scope="module")
def path(denoiser, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.pt"
    exporter.export(denoiser, path, {"study": "rainy", "score": 2.5})
    return path


def noisy(*shape, seed=1):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative_gap(found, expected):
    """Largest difference over the peak, or over 1e-3 (-50 dB of the input) where a random network gives silence."""
    return (found - expected).abs().max().item() / max(expected.abs().max().item(), 1e-3)


def test_a_file_equals_the_eager_denoiser_in_a_process_with_torch_only(denoiser, path, tmp_path):
    cases = [noisy(*shape) for length in LENGTHS for shape in ((length,), (1, length), (3, length))]
    with torch.inference_mode():
        answers = [denoiser(case.reshape(-1, case.shape[-1])).reshape(case.shape) for case in cases]
    torch.save([cases, answers], tmp_path / "cases.pt")
    script = (
        "import sys, torch; module = torch.jit.load(sys.argv[1]); cases, answers = torch.load(sys.argv[2])\n"
        "for case, answer in zip(cases, answers): print((module(case) - answer).abs().max().item())\n"
        "print(module.sample_rate, 'quell' in sys.modules)"
    )
    command = [sys.executable, "-I", "-W", "ignore", "-c", script, str(path), str(tmp_path / "cases.pt")]
    *gaps, last = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert last == "8000 False"
    assert len(gaps) == len(cases)
    assert max(map(float, gaps)) <= 1e-5  # folding BatchNorm into convolutions rounds anew; signals at rms 0.1
    # The outputs are not the input times a constant, which would be equal even without the network.
    ratio = answers[-1] / cases[-1]
    assert ratio.std() > 0.1 * ratio.mean().abs()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"time_stride": 1, "kernel_frames": 5},
        {"depth": 2, "win_length": 65, "hop_length": 21, "kernel_frames": 1},
        {"depth": 4, "win_length": 64, "hop_length": 32, "kernel_bins": 3},
        {"downsampling": "pool", "convolutions_per_level": 2},
        {"downsampling": "pool", "causal": True, "bottleneck": "forward", "normalisation": "frame"},
        {"causal": True, "bottleneck": "forward", "kernel_frames": 5},
        {"bottleneck": "forward", "time_stride": 1},
        {"bottleneck": "frequency", "causal": True, "convolution": "separable"},
    ],
)
def test_blocks_equal_one_pass(tiny_denoiser, settings):
    denoiser = tiny_denoiser(**settings)
    module = BlockDenoiser(denoiser)
    waveform = noisy(2, 4_007) * torch.linspace(0.01, 1, 4_007)  # a rising level: blocks differ in level
    with torch.inference_mode():
        whole = denoiser(waveform)
        for grids in (3, 11):
            module.blocks = module.blocks._replace(block=grids * denoiser.grid)
            # float32 sums over other lengths round otherwise: 1e-6 of a peak of 0.3 measured
            assert (module(waveform) - whole).abs().max().item() <= 1e-5


@pytest.mark.parametrize("number", range(40))
@torch.inference_mode()
def test_blocks_of_any_denoiser_equal_one_pass(tiny_denoiser, drawn_settings, number):
    denoiser = tiny_denoiser(number, **drawn_settings(number))
    module = BlockDenoiser(denoiser)
    grid, context = denoiser.grid, denoiser.context
    module.blocks = module.blocks._replace(block=max(3 * grid, context // 2 // grid * grid))
    length = 3 * context + 7  # so that some blocks contain neither end
    waveform = noisy(1, length) * torch.linspace(0.01, 1, length)
    whole = denoiser(waveform)
    assert relative_gap(module(waveform), whole) <= 1e-5  # float32 sums over other lengths round otherwise


@pytest.mark.parametrize("number", range(16))
@torch.inference_mode()
def test_frozen_torchscript_of_any_denoiser_equals_the_eager_one(tiny_denoiser, drawn_settings, number):
    denoiser = tiny_denoiser(number, **drawn_settings(number))
    scripted = torchscript.freeze(denoiser)
    for shape in ((2, 1_501), (1, 1)):
        # Folding BatchNorm into convolutions rounds anew
        assert relative_gap(scripted(noisy(*shape)), denoiser(noisy(*shape))) <= 1e-5


@pytest.mark.parametrize("settings", [{}, {"downsampling": "pool"}, {"causal": True}])
@torch.inference_mode()
def test_blocks_without_their_state_differ_from_one_pass(tiny_denoiser, settings, monkeypatch):
    denoiser = tiny_denoiser(bottleneck="forward", bottleneck_units=8, time_stride=1, depth=2, **settings)
    module = BlockDenoiser(denoiser)
    module.blocks = module.blocks._replace(block=4 * denoiser.grid)
    waveform = noisy(1, 4_000)
    whole = denoiser(waveform)
    assert relative_gap(module(waveform), whole) <= 1e-5  # as above
    forward_block = denoiser.forward_block

    def without_state(noisy, level, state, context_frames, state_frame):
        return forward_block(noisy, level, torch.zeros_like(state), context_frames, state_frame)

    monkeypatch.setattr(denoiser, "forward_block", without_state)
    assert relative_gap(module(waveform), whole) > 1e-3


def test_blocks_without_context_differ_from_one_pass(tiny_denoiser):
    module = BlockDenoiser(tiny_denoiser())
    waveform = noisy(1, 4_000)
    with torch.inference_mode():
        whole = module.denoiser(waveform)
        module.blocks = module.blocks._replace(block=4 * module.denoiser.grid, context=0)
        assert (module(waveform) - whole).abs().max().item() > 1e-3  # else the tests above would prove nothing


def test_an_exported_file_equals_one_pass_on_a_signal_of_several_blocks(denoiser, path):
    model = load(path)
    waveform = noisy(2 * blocks_of(denoiser).block + 1_234)
    with torch.inference_mode():
        gap = (model(waveform) - denoiser(waveform[None])[0]).abs().max().item()
    assert gap <= 1e-5


@pytest.mark.parametrize("gain_db", [-40, -12, 12])
def test_scaling_the_input_of_an_exported_file_scales_its_output(path, gain_db):
    model, gain = load(path), 10 ** (gain_db / 20)
    waveform = noisy(5_000)
    answer = model(waveform)
    # 1e-5 of the peak: the division by the level rounds in the last of 24 bits, and the network carries that on
    assert (model(gain * waveform) - gain * answer).abs().max() <= 1e-5 * gain * answer.abs().max()


def test_an_exported_file_gives_silence_for_silence_and_no_samples_for_none(path):
    model = load(path)
    assert torch.equal(model(torch.zeros(2, 500)), torch.zeros(2, 500))
    assert model(torch.zeros(0)).shape == (0,)


def test_an_exported_file_holds_its_metadata(path):
    model = load(path)
    assert model.sample_rate == 8_000
    assert model.metadata["study"] == "rainy" and model.metadata["score"] == 2.5
    assert model.metadata["denoiser"]["win_length"] == 128
    assert model.metadata["torch"] == torch.__version__


def test_a_missing_file_is_an_error_with_its_path(tmp_path):
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path / 'none.pt'}: no such file")):
        load(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [b"not a model\n", b""])
def test_a_file_that_is_not_torchscript_is_an_error_with_its_path(tmp_path, content):
    (tmp_path / "notes.pt").write_bytes(content)
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path / 'notes.pt'}: not an exported denoiser")):
        load(tmp_path / "notes.pt")


@pytest.mark.parametrize("damage", ["half", "bit", "zeros"])
def test_a_damaged_file_is_an_error_with_its_path(path, tmp_path, damage):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle] ^= 1
    damaged = tmp_path / "damaged.pt"
    damaged.write_bytes({"half": content[:middle], "bit": content, "zeros": content[:middle] + bytes(middle)}[damage])
    needed = "expected the bytes that were exported; get or export it again"
    with pytest.raises(ExportError, match=f"^{re.escape(f'{damaged}: damaged, {needed}')}$"):
        load(damaged)


@pytest.mark.parametrize("metadata", [None, "{}", "[8000]", "null"])
def test_torchscript_of_another_program_is_an_error_with_its_path(tmp_path, metadata):
    other = torch.jit.script(torch.nn.Identity())
    extra = {} if metadata is None else {METADATA: metadata}
    torch.jit.save(other, str(tmp_path / "other.pt"), _extra_files=extra)
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path / 'other.pt'}: not an exported denoiser")):
        load(tmp_path / "other.pt")


def test_a_failed_export_reports_the_difference_and_keeps_the_old_file(tiny_denoiser, tmp_path):
    broken = tiny_denoiser()
    torch.nn.init.constant_(broken.network.encoder[0][0][0].weight, np.nan)
    target = tmp_path / "model.pt"
    target.write_bytes(b"the old one")
    with pytest.raises(ExportError, match=re.escape(f"{target}: exported output is off by nan at 1 x 1 samples")):
        exporter.export(broken, target, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]
    assert target.read_bytes() == b"the old one"


def test_a_full_disk_keeps_the_old_file(denoiser, tmp_path, monkeypatch):
    def save_half(self, path, **_):
        Path(path).write_bytes(b"half")
        raise RuntimeError("disk full\nC++ stack")

    monkeypatch.setattr(exporter, "compare", lambda *_: None)
    monkeypatch.setattr(torch.jit.RecursiveScriptModule, "save", save_half)
    target = tmp_path / "model.pt"
    target.write_bytes(b"the old one")
    with pytest.raises(ExportError, match=re.escape(f"{target}: disk full, expected a path that can be written")):
        exporter.export(denoiser, target, {})
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"the old one"]


def test_a_target_that_cannot_be_written_is_an_error_with_its_path(denoiser, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "compare", lambda *_: None)
    target = tmp_path / "nowhere" / "model.pt"
    with pytest.raises(ExportError, match=re.escape(f"{target}: ")):
        exporter.export(denoiser, target, {})
