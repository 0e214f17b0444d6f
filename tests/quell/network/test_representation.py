"""Representations are invertible, and the ideal output of each target gives the clean magnitude."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from quell.config import CHOICES
from quell.levels import rms
from quell.network.denoiser import clean_spectrum, load_weights, save_weights
from quell.network.representation import HIGHEST, Representation, Target
from quell.network.stft import FLOOR, Spectrogram, magnitude

# Every representation, "power" with several exponents.
SCALES = [("linear", 0.3), ("log", 0.3), *(("power", power) for power in (0.1, 0.3, 0.5, 1.0))]
BOTTOM = {"linear": -1.0, "log": 0.0, "power": 0.0}
ROUNDING = 1e-6  # of features: some last bits of float32; powers differ by one between vectors and single values
NAMES = list(itertools.product(CHOICES["target"], CHOICES["output"]))


@pytest.fixture(scope="module")
def spectra(speech, noise):
    """Noisy and clean, of a signal whose noisy side has rms 1."""
    clean, rumble = torch.from_numpy(speech(1.0))[None], torch.from_numpy(noise(1.0, kind="rumble"))[None]
    level = rms(clean + rumble)
    return tuple(Spectrogram(128, 32)(side / level) for side in (clean + rumble, clean))


@pytest.fixture(scope="module")
def magnitudes(spectra):
    return tuple(map(magnitude, spectra))


def fitted(name, power, magnitudes):
    representation = Representation(name, power)
    representation.fit(torch.cat(magnitudes))
    return representation


def slack(representation):
    """Magnitude that is 0 to float32: on a linear scale a few of the last bits of its largest value, none on the
    others."""
    return 1e-6 * representation.high.item() if representation.name == "linear" else 0.0


@pytest.mark.parametrize(("name", "power"), SCALES)
@pytest.mark.parametrize("is_fitted", [False, True])
def test_inverse_of_features_is_the_magnitude(name, power, is_fitted, magnitudes):
    representation = fitted(name, power, magnitudes) if is_fitted else Representation(name, power)
    noisy = torch.cat(magnitudes)
    gap = (representation.inverse(representation(noisy)) - noisy).abs()
    # Features are rounded to 6e-8 of the scale, which a power of 1 / 0.1 or 140 dB make some 1e-6 of the magnitude.
    assert (gap <= 1e-4 * noisy + slack(representation)).all()


@pytest.mark.parametrize(("name", "power"), SCALES)
def test_features_of_the_fitted_magnitudes_fill_the_scale(name, power, magnitudes):
    features = fitted(name, power, magnitudes)(torch.cat(magnitudes))
    assert features.min() >= BOTTOM[name] - ROUNDING
    assert features.max().item() == pytest.approx(1.0, abs=ROUNDING)
    if name == "log":
        assert features.min().item() == pytest.approx(0.0, abs=ROUNDING)


@pytest.mark.parametrize(("name", "power"), SCALES)
def test_a_greater_magnitude_has_a_greater_feature(name, power, magnitudes):
    features = fitted(name, power, magnitudes)(torch.logspace(-3, 1, 50))
    assert (features.diff() > 0).all()


def test_features_equal_their_formulas():
    representations = {name: Representation(name, 0.5) for name in CHOICES["representation"]}
    for representation in representations.values():
        representation.fit(torch.tensor([0.01, 4.0]))
    values = torch.tensor([0.01, 1.0, 4.0])
    assert representations["linear"](values).tolist() == pytest.approx([-0.995, -0.5, 1.0], rel=1e-6)  # float32
    assert representations["power"](values).tolist() == pytest.approx([0.05, 0.5, 1.0], rel=1e-6)
    wide = 20 * math.log10(400)
    assert representations["log"](values).tolist() == pytest.approx([0.0, 40 / wide, 1.0], rel=1e-6)


@pytest.mark.parametrize("level", [FLOOR, 1e-3, 1.0, 100.0])
@pytest.mark.parametrize(("name", "power"), SCALES)
def test_silence_and_a_single_magnitude_have_finite_features(name, power, level, magnitudes):
    single = torch.full((2, 9, 5), level)
    representation = Representation(name, power)
    representation.fit(single)
    assert (representation(single) - 1).abs().max() <= ROUNDING
    for values in (*magnitudes, torch.full((3,), FLOOR)):
        assert torch.isfinite(representation(values)).all()
        assert torch.isfinite(representation.inverse(representation(values))).all()


@pytest.mark.parametrize("name", CHOICES["representation"])
def test_an_output_beyond_the_scale_has_a_gradient_towards_it(name, magnitudes):
    # Without one a network whose output is silence everywhere would stay so: its gradient would be 0.
    representation = fitted(name, 1.0, magnitudes)
    features = torch.tensor([BOTTOM[name] - 0.5, 4.0], requires_grad=True)
    representation.inverse(features).sum().backward()
    assert (features.grad > 0).all()


@pytest.mark.parametrize(("name", "power"), SCALES)
def test_inverse_is_clamped_at_both_ends(name, power, magnitudes):
    representation = fitted(name, power, magnitudes)
    bottom = BOTTOM[name]
    top = bottom + HIGHEST * (1 - bottom)
    far = representation.inverse(torch.tensor([top, top + 1, 1e30, bottom, bottom - 1, -1e30]))
    assert torch.isfinite(far).all()
    assert far[0] == far[1] == far[2] > torch.cat(magnitudes).max()
    assert far[3] == far[4] == far[5]
    lowest = torch.cat(magnitudes).min().item() if name == "log" else 0.0
    assert far[3].item() == pytest.approx(lowest, rel=1e-4)  # as above


@pytest.mark.parametrize("name", CHOICES["representation"])
def test_the_fitted_scale_is_saved_with_the_weights(tiny_denoiser, tmp_path, name, magnitudes):
    denoiser = tiny_denoiser(representation=name)
    before = denoiser.target.representation(magnitudes[0])
    denoiser.target.representation.fit(torch.cat(magnitudes))
    save_weights(denoiser, tmp_path / "best.pt")
    stored, loaded = denoiser.target.representation, load_weights(tmp_path / "best.pt").target.representation
    assert torch.equal(loaded.low, stored.low) and torch.equal(loaded.high, stored.high)
    assert torch.equal(loaded(magnitudes[0]), stored(magnitudes[0]))
    assert not torch.equal(stored(magnitudes[0]), before)


@pytest.mark.parametrize(("target", "output"), NAMES)
@pytest.mark.parametrize(("name", "power"), SCALES)
def test_the_ideal_output_gives_the_clean_magnitude(name, power, target, output, magnitudes):
    noisy, clean = magnitudes
    representation = fitted(name, power, magnitudes)
    meaning = Target(target, output, representation)
    found = meaning(meaning.ideal(noisy, clean), noisy, representation(noisy))
    expected = torch.minimum(clean, noisy) if target == "mask" else clean
    assert (clean > noisy).any()  # where speech and noise have opposite phases
    # Mapped to [-1, 1], a share near 0 keeps 6e-8 of the whole: of the noisy magnitude, or of the scale.
    coarse = 2e-7 * noisy if target == "mask" else slack(representation)
    if target == "noise" or (target == "direct" and output == "tanh"):
        # Likewise a small difference of features, which a curved scale magnifies.
        assert ((representation(found) - representation(expected)).abs() <= ROUNDING).all()
    else:
        assert ((found - expected).abs() <= 1e-4 * expected + coarse).all()
    assert ((found - expected).abs() <= 1e-4 * expected + 1e-6 * noisy.max()).all()


@pytest.mark.parametrize(("target", "output"), NAMES)
@pytest.mark.parametrize("name", CHOICES["representation"])
def test_the_ideal_output_lies_in_the_range_of_the_output(name, target, output, magnitudes):
    noisy, clean = magnitudes
    ideal = Target(target, output, fitted(name, 0.3, magnitudes)).ideal(noisy, torch.minimum(clean, noisy))
    assert ideal.max() <= 1 + ROUNDING
    assert ideal.min() >= (-1 if output == "tanh" and target != "noise" else 0) - ROUNDING


def test_ideal_outputs_equal_the_definitions_of_their_targets():
    noisy, clean = torch.tensor([4.0]), torch.tensor([1.0])
    linear = Representation("linear", 1.0)
    linear.fit(noisy)  # 4 is 1, 1 is -0.5, 0 is -1
    expected = {
        ("mask", "sigmoid"): 0.25,
        ("mask", "tanh"): -0.5,
        ("direct", "sigmoid"): 0.25,
        ("direct", "tanh"): -0.5,
    }
    expected |= {("noise", "sigmoid"): 0.75, ("noise", "tanh"): 0.75}
    for (target, output), value in expected.items():
        assert Target(target, output, linear).ideal(noisy, clean).item() == pytest.approx(value, rel=1e-6)  # float32


def test_a_negative_mask_gives_silence():
    mask = Target("mask", "linear", Representation("log", 0.3))
    assert mask(torch.tensor([-3.0, 0.0, 2.0]), torch.ones(3), torch.ones(3)).tolist() == [0.0, 0.0, 2.0]


class Oracle(torch.nn.Module):
    """A network with a constant output."""

    def __init__(self, output):
        super().__init__()
        self.output = output

    def first_state(self, like):
        return torch.zeros(1, len(like), 0)

    def forward_block(self, features, state, lead, mark):
        return self.output.unsqueeze(1), state


@pytest.mark.parametrize(("target", "output"), NAMES)
@pytest.mark.parametrize("name", CHOICES["representation"])
def test_a_denoiser_with_ideal_outputs_gives_clean_magnitudes_and_noisy_phases(
    tiny_denoiser, spectra, magnitudes, name, target, output
):
    noisy, clean = magnitudes
    denoiser = tiny_denoiser(representation=name, target=target, output=output)
    denoiser.target.representation.fit(torch.cat(magnitudes))
    denoiser.network = Oracle(denoiser.target.ideal(noisy, clean))
    estimate, _ = denoiser.estimate(spectra[0])
    assert torch.equal(estimate.noisy, noisy)
    denoised = clean_spectrum(estimate, spectra[0])
    expected = torch.minimum(clean, noisy) if target == "mask" else clean
    loud = noisy > 100 * FLOOR  # the floor adds to a magnitude that has no phase: below 1e-4 from here on
    assert loud.float().mean() > 0.9
    gap = (denoised.abs() - expected).abs()[loud]
    assert gap.max() <= 1e-4 * expected.max()
    ratio = denoised * spectra[0].conj() / noisy.square()  # its angle is the difference of phases
    assert (ratio.imag.abs() <= 1e-4 * ratio.abs() + 1e-7).all() and (ratio.real >= 0).all()


@pytest.mark.parametrize(("target", "output"), NAMES)
@pytest.mark.parametrize("name", CHOICES["representation"])
@torch.inference_mode()
def test_a_denoiser_with_ideal_outputs_for_clean_input_gives_its_input(tiny_denoiser, speech, name, target, output):
    waveform = torch.from_numpy(speech(0.5))[None]
    denoiser = tiny_denoiser(representation=name, target=target, output=output)
    noisy = magnitude(denoiser.spectrogram(waveform / rms(waveform)))
    denoiser.target.representation.fit(noisy)
    denoiser.network = Oracle(denoiser.target.ideal(noisy, noisy))
    assert (denoiser(waveform) - waveform).abs().max() <= 1e-5 * waveform.abs().max()  # float32, as the inverse


@pytest.mark.parametrize(
    ("name", "power", "message"),
    [
        ("mel", 0.3, "^representation: 'mel', expected one of power, linear, log$"),
        ("power", 0.0, r"^power: 0\.0, expected above 0 up to 1$"),
        ("power", 1.5, r"^power: 1\.5, expected above 0 up to 1$"),
        ("power", math.nan, "^power: nan, expected above 0 up to 1$"),
    ],
)
def test_an_unknown_representation_or_power_is_refused(tiny_denoiser, name, power, message):
    with pytest.raises(ValueError, match=message):
        tiny_denoiser(representation=name, power=power)


def test_an_unknown_target_is_refused(tiny_denoiser):
    with pytest.raises(ValueError, match=r"^target: 'phase', expected one of mask, noise, direct$"):
        tiny_denoiser(target="phase")
