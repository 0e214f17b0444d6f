"""Scaling the input scales the output, silence gives silence, and saved weights are the same denoiser."""

from __future__ import annotations

import itertools
import re
from dataclasses import asdict

import pytest
import torch

from quell.config import CHOICES, DenoiserConfig
from quell.errors import ExportError
from quell.levels import rms
from quell.network.denoiser import Denoiser, load_weights, save_weights

MEANINGS = [
    {"representation": representation, "target": target, "output": output}
    for representation, target, output in itertools.product(
        *(CHOICES[name] for name in ("representation", "target", "output"))
    )
]


def noisy(*shape, seed=1):
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("gain_db", [-40, -20, -6, 3, 12])
@torch.inference_mode()
def test_g_times_the_input_gives_g_times_the_output(tiny_denoiser, gain_db):
    denoiser, gain = tiny_denoiser(), 10 ** (gain_db / 20)
    answer = denoiser(noisy(2, 3_000))
    gap = denoiser(gain * noisy(2, 3_000)) - gain * answer
    # 1e-5 of the peak: the division by the level rounds in the last of 24 bits, and the network carries that on
    assert gap.abs().max() <= 1e-5 * gain * answer.abs().max()


@torch.inference_mode()
def test_a_given_level_replaces_the_signals_own(tiny_denoiser):
    denoiser, waveform = tiny_denoiser(), noisy(2, 3_000)
    own = denoiser(waveform)
    assert torch.equal(denoiser(waveform, rms(waveform)), own)
    assert (denoiser(waveform, 10 * rms(waveform)) - own).abs().max() > 1e-3  # the network's input is soft


@pytest.mark.parametrize("settings", MEANINGS)
@torch.inference_mode()
def test_gain_silence_and_single_samples_are_handled_for_every_representation_target_and_output(
    tiny_denoiser, settings
):
    denoiser = tiny_denoiser(**settings)
    answer = denoiser(noisy(2, 2_001))
    assert torch.isfinite(answer).all() and answer.any()
    for gain in (0.01, 4.0):
        gap = denoiser(gain * noisy(2, 2_001)) - gain * answer
        # As above; on the way back from 140 dB an error of an output counts 16 times
        assert gap.abs().max() <= 1e-4 * gain * answer.abs().max()
    for length in (1, 100, 2_001):
        assert torch.equal(denoiser(torch.zeros(2, length)), torch.zeros(2, length))
    assert torch.isfinite(denoiser(torch.tensor([[0.5], [-0.25]]))).all()


@pytest.mark.parametrize("number", range(24))
@torch.inference_mode()
def test_every_denoiser_gives_finite_output_for_every_signal(tiny_denoiser, drawn_settings, number):
    denoiser = tiny_denoiser(number, **drawn_settings(number))
    click = torch.zeros(1_500)
    click[700] = 1.0
    tone = torch.sin(torch.arange(1_500) * 0.3)
    signals = torch.stack([click, tone, torch.ones(1_500), 1e4 * tone, 1e-6 * tone, 1e-20 * tone, 0 * tone])
    for length in (1, 2, 63, 1_500):
        answer = denoiser(signals[:, -length:])
        assert answer.shape == (7, length)
        assert torch.isfinite(answer).all()


def test_drawn_settings_take_every_value_of_every_option(drawn_settings):
    draws = [drawn_settings(number) for number in range(24)]
    fields = {name for name in asdict(DenoiserConfig()) if name != "sample_rate"}
    for draw in draws:
        assert set(draw) == fields
    for name in ("output", "representation", "target"):
        assert {draw[name] for draw in draws} == set(CHOICES[name])
    assert {(draw["bottleneck"], draw["causal"]) for draw in draws} == {
        *itertools.product(("none", "frequency", "forward"), (False, True)),
        ("both", False),
    }


@pytest.mark.parametrize("length", [1, 100, 3_000])
@torch.inference_mode()
def test_silence_gives_silence(tiny_denoiser, length):
    assert torch.equal(tiny_denoiser()(torch.zeros(2, length)), torch.zeros(2, length))


@torch.inference_mode()
def test_one_sample_gives_one_sample_of_at_most_its_magnitude(tiny_denoiser):
    answer = tiny_denoiser()(torch.tensor([[0.5], [-0.25]]))
    assert answer.shape == (2, 1)
    assert 0 < answer[0].item() <= 0.5 and -0.25 <= answer[1].item() < 0


@torch.inference_mode()
def test_a_batch_equals_its_signals_one_by_one(tiny_denoiser):
    denoiser = tiny_denoiser()
    batch = noisy(3, 2_001) * torch.tensor([[0.01], [1.0], [5.0]])
    singles = torch.cat([denoiser(waveform[None]) for waveform in batch])
    assert ((denoiser(batch) - singles).abs() / rms(batch)).max() <= 1e-5  # float32, signals at rms 1 inside


@torch.inference_mode()
def test_a_mask_of_one_gives_the_input_and_of_one_half_half_of_it(tiny_denoiser):
    denoiser, waveform = tiny_denoiser(), noisy(2, 2_001)
    last = denoiser.network.decoder[-1][0]
    torch.nn.init.zeros_(last.weight)
    for bias, share in ((20.0, 1.0), (0.0, 0.5)):
        torch.nn.init.constant_(last.bias, bias)
        assert (denoiser(waveform) - share * waveform).abs().max() < 1e-6  # the spectrogram's own rounding


@pytest.mark.parametrize("settings", [{}, {"time_stride": 1, "depth": 2}, {"win_length": 66, "hop_length": 22}])
def test_context_is_a_multiple_of_the_grid_and_covers_the_receptive_field(tiny_denoiser, settings):
    denoiser = tiny_denoiser(**settings)
    config = denoiser.config
    assert denoiser.grid == config.hop_length * config.time_stride ** (config.depth - 1)
    assert denoiser.context % denoiser.grid == 0
    past, ahead = map(sum, zip(denoiser.network.encoder_reach, denoiser.network.decoder_reach, strict=True))
    assert denoiser.context >= max(past, ahead) * config.hop_length + 2 * config.win_length


@torch.inference_mode()
def test_a_window_of_odd_length_has_the_bins_and_frames_of_the_papers_planes(tiny_denoiser):
    denoiser = tiny_denoiser(win_length=255, hop_length=63, depth=5)
    for length, frames in ((7_872, 128), (8_064, 132)):
        estimate, _ = denoiser.estimate(denoiser.spectrogram(noisy(1, length)))
        assert estimate.output.shape == estimate.noisy.shape == estimate.clean.shape == (1, 128, frames)
        assert denoiser(noisy(1, length)).shape == (1, length)


@pytest.fixture(params=range(24))
def estimated(request, tiny_denoiser, drawn_settings):
    """For a phase: a denoiser with drawn settings, its input spectrum of `noisy(2, 1_501)`, and its estimate."""

    def run(phase):
        denoiser = tiny_denoiser(request.param, **drawn_settings(request.param, phase=phase))
        waveform = noisy(2, 1_501)
        spectrum = denoiser.spectrogram(waveform / rms(waveform))
        return denoiser, spectrum, denoiser.estimate(spectrum)[0]

    return run


def is_output_of(denoiser, spectrum):
    waveform = noisy(2, 1_501)
    synthesis = denoiser.spectrogram.inverse(spectrum, 1_501) * rms(waveform)
    return (synthesis - denoiser(waveform)).abs().max() <= 1e-4 * synthesis.abs().max()


@torch.inference_mode()
def test_the_output_is_the_estimate_with_the_noisy_phase(estimated):
    denoiser, spectrum, (output, magnitude, _, clean, _) = estimated("noisy")
    features = denoiser.target.representation(magnitude)
    assert torch.equal(output, denoiser.network(features.unsqueeze(1))[:, 0])
    assert torch.equal(clean, denoiser.target(output, magnitude, features))
    assert (clean >= 0).all()
    # The floor of the magnitudes: a bin at 1e-5 has no phase to take
    assert is_output_of(denoiser, torch.polar(clean, spectrum.angle()))


@torch.inference_mode()
def test_an_estimated_phase_is_the_noisy_one_plus_the_networks_angle(estimated):
    denoiser, spectrum, estimate = estimated("estimated")
    angle = torch.atan2(estimate.rotation[:, 1], estimate.rotation[:, 0])
    assert (estimate.rotation.square().sum(1) < 1 + 1e-6).all() and angle.std() > 0
    length = estimate.rotation.square().sum(1).sqrt()  # near 1 unless the network's vector is short
    assert is_output_of(denoiser, torch.polar(estimate.clean * length, spectrum.angle() + angle))


@torch.inference_mode()
def test_an_angle_of_zero_keeps_the_phase(tiny_denoiser):
    denoiser, waveform = tiny_denoiser(phase="estimated"), noisy(2, 2_001)
    last = denoiser.network.decoder[-1][0]
    torch.nn.init.zeros_(last.weight)
    last.bias.copy_(torch.tensor([20.0, 0.0, 0.0]))
    # The constant under the root costs 5e-5.
    assert (denoiser(waveform) - waveform).abs().max() < 1e-4 * waveform.abs().max()


@pytest.mark.parametrize("number", range(24))
@torch.inference_mode()
def test_before_any_training_an_estimated_phase_is_the_noisy_one(drawn_settings, number):
    settings = {"base_channels": 4} | drawn_settings(number, phase="estimated")
    denoiser = Denoiser(DenoiserConfig(sample_rate=8000, **settings)).eval()
    rotation = denoiser.estimate(denoiser.spectrogram(noisy(1, 1_501)))[0].rotation
    assert (rotation[:, 1] == 0).all() and (rotation[:, 0] > 0.9999).all()


def test_the_networks_output_depends_on_the_phase_only_if_it_is_estimated(tiny_denoiser):
    spectrum = tiny_denoiser().spectrogram(noisy(1, 2_001))
    rotated = spectrum * torch.polar(torch.ones(()), torch.tensor(1.0))
    for phase, depends in (("noisy", False), ("estimated", True)):
        denoiser = tiny_denoiser(phase=phase)
        one, other = (denoiser.estimate(side)[0].output for side in (spectrum, rotated))
        assert torch.allclose(one, other, atol=1e-5) != depends


@pytest.mark.parametrize("number", range(4))
def test_saved_weights_give_the_same_outputs(tiny_denoiser, drawn_settings, tmp_path, number):
    denoiser = tiny_denoiser(seed=4, **drawn_settings(number))
    save_weights(denoiser, tmp_path / "best.pt")
    loaded = load_weights(tmp_path / "best.pt")
    assert loaded.config == denoiser.config
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(noisy(2, 999)), denoiser(noisy(2, 999)))


@pytest.mark.parametrize("damage", ["text", "half", "bit", "another config", "other keys", "missing"])
def test_weights_that_cannot_be_loaded_are_an_error_with_the_path(tiny_denoiser, tmp_path, damage):
    path, denoiser = tmp_path / "best.pt", tiny_denoiser()
    save_weights(denoiser, path)
    stored = torch.load(path)
    if damage == "text":
        path.write_text("weights")
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "bit":  # of a weight: torch.load would accept it
        content = bytearray(path.read_bytes())
        weight = stored["weights"]["network.encoder.1.0.0.weight"]
        content[content.index(weight.numpy().tobytes())] ^= 1
        path.write_bytes(content)
    elif damage == "another config":
        torch.save(stored | {"config": stored["config"] | {"depth": 2}}, path)
    elif damage == "other keys":
        torch.save([1, 2], path)
    else:
        path.unlink()
    reason = {"missing": "no such file", "half": "damaged", "bit": "damaged"}.get(damage, r"\w+")
    with pytest.raises(ExportError, match=f"{re.escape(str(path))}: {reason}, expected the weights of a trial"):
        load_weights(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample_rate": 999}, "sample_rate: 999, expected at least 1000 Hz"),
        ({"power": 0.0}, r"power: 0\.0, expected above 0 up to 1"),
        ({"power": 1.5}, r"power: 1\.5, expected above 0 up to 1"),
        ({"hop_length": 300}, "hop_length: 300, expected 1 to 256 for win_length 512"),
        ({"depth": 9}, "depth: 9, expected 2 to 7"),
        ({"representation": "mel"}, "representation: 'mel', expected one of power, linear, log"),
        ({"target": "phase"}, "target: 'phase', expected one of mask, noise, direct"),
        ({"phase": "kept"}, "phase: 'kept', expected one of noisy, estimated"),
        ({"output": "relu"}, "output: 'relu', expected one of sigmoid, tanh, softplus, linear"),
        ({"causal": True, "bottleneck": "both"}, "bottleneck: 'both' with causal, expected none, frequency or forward"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused_with_its_value(settings, message):
    with pytest.raises(ValueError, match=message):
        Denoiser(DenoiserConfig(**settings))
