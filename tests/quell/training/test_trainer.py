"""A training step changes the weights, stays finite for any input, and adapts to the memory."""

from __future__ import annotations

import errno
import io
import json
import math
import resource
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from quell.config import CHOICES, FIX_GAIN, DenoiserConfig, TrainingConfig, loss_problem
from quell.errors import TrainingError
from quell.levels import rms
from quell.mixing.training_mixtures import Mixtures
from quell.network.stft import magnitude
from quell.training import trainer as trainer_module
from quell.training.losses import Loss, Signals
from quell.training.memory import is_memory_error
from quell.training.trainer import AVERAGING, Trainer

CPU = torch.device("cpu")
MODEL = DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, kernel_bins=3)
# Steps of 4 x 0.5 s: 2 s of audio each; 8 in all.
CONFIG = TrainingConfig(
    precision="float32", learning_rate=1e-2, batch_size=4, segment_s=0.5, rungs_audio_hours=(16 / 3600,)
)
SUMS = ["compressed+si_sdr", "huber+si_sdr", "bce+multi_resolution+si_sdr", "l1+l2+huber"]
# representation, target, output
PAIRS = [
    ("power", "mask", "sigmoid"),
    ("power", "noise", "sigmoid"),
    ("power", "direct", "softplus"),
    ("linear", "mask", "tanh"),
    ("linear", "noise", "tanh"),
    ("linear", "direct", "tanh"),
    ("log", "mask", "sigmoid"),
    ("log", "noise", "linear"),
    ("log", "direct", "sigmoid"),
]
SHAPES = [
    *({"bottleneck": over, "bottleneck_units": 4} for over in ("frequency", "forward", "both")),
    {"convolution": "separable", "depth": 3},
    {"downsampling": "pool", "convolutions_per_level": 2},
    {"normalisation": "frame", "causal": True},
    {"causal": True, "bottleneck": "forward", "bottleneck_units": 4},
    {"normalisation": "none", "skips": False, "activation": "elu", "dropout": 0.3},
]


def model(representation="power", target="mask", output="sigmoid", **shape):
    return replace(MODEL, representation=representation, target=target, output=output, **shape)


class Comparison(NamedTuple):
    """Both arguments of a loss."""

    estimate: tuple
    target: tuple


class StandIn(nn.Module):
    """A loss that is a factor times the mean magnitude, and records its arguments."""

    def __init__(self, factor=1.0, needs=Signals._fields):
        super().__init__()
        self.factor = factor
        self.needs = set(needs)
        self.calls = []

    def forward(self, estimate, target):
        self.calls.append(Comparison(estimate, target))
        return self.factor * estimate.magnitude.mean()


class Tight(Loss):
    """A loss with memory for `room` mixtures, which records the sizes of its batches."""

    room = 1

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.sizes = []

    def forward(self, estimate, target):
        self.sizes.append(len(estimate.magnitude))
        if self.sizes[-1] > self.room:
            raise torch.OutOfMemoryError("no room")
        return super().forward(estimate, target)


@pytest.fixture
def build(small_corpus):
    def build(model=MODEL, config=CONFIG, **changes):
        return Trainer(model, replace(config, **changes), small_corpus, CPU)

    return build


@pytest.fixture
def trainer(build):
    return build()


def gradients(trainer):
    return torch.cat([parameter.grad.flatten() for parameter in trainer.denoiser.parameters()])


def weights(trainer):
    return torch.cat([parameter.detach().flatten() for parameter in trainer.denoiser.parameters()])


def first_state(trainer, batch):
    return trainer.denoiser.network.first_state(batch.noisy)


def hard_cases():
    """Silence, square waves, single samples and tiny levels as mixtures, with the levels that a sampler would give."""
    generator = torch.Generator().manual_seed(0)
    sound, silence = 0.1 * torch.randn(2, 300, generator=generator), torch.zeros(2, 300)
    square = torch.ones(2, 300)
    square[:, ::7] = -1.0
    halves = torch.stack([sound[0], silence[0]])
    cases = [(sound, silence), (silence, sound), (silence, silence), (square, square), (square, sound), (sound, square)]
    cases += [(halves, sound), (sound, halves), (sound, sound), (1e-5 * sound, 1e-5 * sound)]
    cases += [(noisy[:, :1], clean[:, :1]) for noisy, clean in cases]
    return [Mixtures(noisy, clean, rms(noisy)) for noisy, clean in cases]


@pytest.mark.parametrize(
    ("pair", "name"),
    [(pair, name) for pair in PAIRS for name in (*FIX_GAIN, *SUMS) if loss_problem(name, pair[2], pair[1]) is None],
)
def test_silence_clipping_and_single_samples_give_finite_losses_and_gradients(build, pair, name):
    trainer = build(model(*pair), loss=name)
    for i, batch in enumerate(hard_cases()):
        trainer.denoiser.zero_grad()
        loss, _ = trainer._loss(batch, first_state(trainer, batch))
        loss.backward()
        assert torch.isfinite(loss), i
        assert torch.isfinite(gradients(trainer)).all(), i


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("power", "mask", "tanh"), "loss: 'bce' with output 'tanh', expected output sigmoid"),
        (("power", "noise", "sigmoid"), "loss: 'bce' with target 'noise', expected target mask or direct"),
    ],
)
def test_cross_entropy_of_outputs_outside_0_to_1_is_refused(build, pair, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        build(model(*pair), loss="bce")


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape))
def test_hard_cases_are_finite_for_every_shape_of_the_network(build, shape):
    trainer = build(model(**shape), loss="compressed+multi_resolution")
    for i, batch in enumerate(hard_cases()):
        trainer.denoiser.zero_grad()
        trainer._loss(batch, first_state(trainer, batch))[0].backward()
        assert torch.isfinite(gradients(trainer)).all(), i


def changes_weights(trainer):
    before = weights(trainer)
    assert all(math.isfinite(trainer.step()) for _ in range(2))
    return not torch.equal(weights(trainer), before) and torch.isfinite(weights(trainer)).all()


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_every_representation_and_target_can_be_trained(build, pair):
    assert changes_weights(build(model(*pair)))


@pytest.mark.parametrize("name", [*FIX_GAIN, *SUMS])
def test_every_loss_can_be_trained_with(build, name):
    assert changes_weights(build(model("log", "direct"), loss=name))


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape))
def test_every_shape_of_the_network_can_be_trained(build, shape):
    assert changes_weights(build(model(**shape)))


@pytest.mark.parametrize(
    ("pair", "loss", "share"),
    [
        (("power", "mask", "sigmoid"), "compressed+si_sdr", 0.75),
        (("log", "direct", "sigmoid"), "bce", 0.95),  # most of it is the entropy of the targets
        (("linear", "noise", "tanh"), "huber", 0.75),
    ],
)
def test_training_lowers_the_loss(build, pair, loss, share):
    trainer = build(model(*pair), loss=loss, rungs_audio_hours=(300 / 3600,), snr_db=(0.0, 5.0))  # 150 steps
    losses = [trainer.step() for _ in range(trainer.total)]
    # Losses of mixtures differ by some 20 %, means of 10 of them by 7 %.
    assert np.mean(losses[-10:]) < share * np.mean(losses[:10])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_an_error_with_step_learning_rate_and_configuration(trainer, value):
    trainer.step()
    trainer.loss = StandIn(value)
    before = weights(trainer)
    # Step 1 of 8 is past the warm-up, 2 % of 8, and before the fall.
    with pytest.raises(
        TrainingError, match=rf"^step 1: loss {value}, gradient \S+ at learning rate 1.0e-02, expected finite"
    ) as error:
        trainer.step()
    assert torch.equal(weights(trainer), before)
    text = str(error.value)
    assert text.endswith("})")
    assert json.loads(text[text.index("({") + 1 : -1]) == json.loads(json.dumps(asdict(MODEL) | asdict(CONFIG)))


def test_the_learning_rate_warms_up_stays_constant_and_falls_to_almost_zero(build):
    trainer, rates = build(rungs_audio_hours=(2_000 / 3600,)), []
    assert trainer.total == 1_000
    for trainer.steps_done in range(1_000):
        rates.append(trainer.learning_rate() / CONFIG.learning_rate)
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[19:750] == pytest.approx([1.0] * 731)
    assert rates[750:] == pytest.approx([1 - i / 250 for i in range(250)])
    assert rates[-1] == pytest.approx(1 / 250)


def test_every_step_uses_its_own_learning_rate(trainer):
    rates = []
    step = trainer.optimisers[0].step
    trainer.optimisers[0].step = lambda: (rates.append(trainer.optimisers[0].param_groups[0]["lr"]), step())
    for _ in range(8):
        trainer.step()
    assert rates == pytest.approx([1e-2] * 7 + [0.5e-2])  # 8 steps: the last quarter falls from 1 to 1/2


def test_the_average_of_a_constant_network_is_the_network(build):
    trainer = build(learning_rate=0.0)
    trainer.denoiser.eval()  # BatchNorm's statistics stay constant, too
    for _ in range(5):
        trainer.step()
    for name, value in trainer.denoiser.state_dict().items():
        assert torch.equal(trainer.averaged.state_dict()[name], value), name


def test_the_average_of_weights_that_grow_by_1_a_step_lags_by_a_tenth(trainer):
    # With w = n after step n, a = w_avg - n * 9 / 10 obeys the recursion only as a = 1 / 10.
    assert AVERAGING == 8
    names = [name for name, value in trainer.denoiser.network.state_dict().items() if value.is_floating_point()]
    assert any("running_var" in name for name in names)  # BatchNorm's statistics are averaged like weights

    def count_up():
        for name in names:
            trainer.denoiser.network.state_dict()[name].fill_(trainer.steps_done + 1.0)

    trainer.optimisers[0].step = count_up
    trainer.denoiser.eval()
    for n in range(1, 8):
        trainer.step()
        for name in names:
            value = trainer.averaged.network.state_dict()[name].flatten()[0].item()
            assert value == pytest.approx(0.9 * n + 0.1, rel=1e-5)  # float32


def test_audio_hours_are_rounded_to_steps():
    config = TrainingConfig(batch_size=16, segment_s=2.0)
    assert config.steps(1.0) == round(3600 / 32)
    assert config.steps(0.0) == 1


def test_gradients_are_clipped(trainer):
    norms = []
    step = trainer.optimisers[0].step
    trainer.optimisers[0].step = lambda: (norms.append(gradients(trainer).norm().item()), step())
    trainer.loss = StandIn(1e4)
    trainer.step()
    assert norms == pytest.approx([trainer_module.LARGEST_GRADIENT], rel=1e-3)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_loss_compares_the_denoisers_estimate_with_the_clean_speech(build, pair):
    trainer = build(model(*pair))
    trainer.denoiser.eval()
    trainer.loss, batch = StandIn(), trainer.mixtures.draw(4)
    trainer._loss(batch, first_state(trainer, batch))
    denoiser, ((estimate, target),) = trainer.denoiser, trainer.loss.calls
    represent, clean = denoiser.target.representation, batch.clean / batch.level
    assert torch.equal(target.waveform, clean)
    assert torch.equal(target.spectrum, denoiser.spectrogram(clean))
    assert torch.equal(denoiser.spectrogram.inverse(estimate.spectrum, clean.shape[-1]), estimate.waveform)
    # Sums of up to 64 squares at levels near 1, float32.
    torch.testing.assert_close(target.magnitude, denoiser.spectrogram(clean).abs().clamp_min(1e-5), rtol=0, atol=1e-4)
    torch.testing.assert_close(estimate.waveform * batch.level, denoiser(batch.noisy, batch.level), rtol=0, atol=1e-5)
    answer, _ = denoiser.estimate(denoiser.spectrogram(batch.noisy / batch.level))
    assert torch.equal(estimate.magnitude, answer.clean) and torch.equal(estimate.output, answer.output)
    assert torch.equal(target.feature, represent(target.magnitude))
    # The feature may lie beyond the ends of the scale, where the magnitude stays at them.
    torch.testing.assert_close(represent.inverse(estimate.feature), estimate.magnitude, rtol=1e-3, atol=1e-4)
    # The ideal output leads to the clean magnitude, or to the noisy one where a mask would have to be above 1; a
    # feature in dB takes 1e-5 of the scale for 1e-3 of the magnitude.
    ideal = denoiser.target(target.output, answer.noisy, represent(answer.noisy))
    expected = torch.minimum(target.magnitude, answer.noisy) if pair[1] == "mask" else target.magnitude
    torch.testing.assert_close(ideal, expected, rtol=1e-3, atol=1e-4)


def test_signals_that_the_loss_does_not_need_are_not_computed(trainer):
    trainer.loss = StandIn(needs=())
    trainer.step()
    assert all(side[1:] == (None,) * 4 for side in trainer.loss.calls[0])


@pytest.mark.parametrize("representation", ["power", "linear", "log"])
def test_the_scale_is_fitted_to_the_first_mixtures_of_the_seed(build, representation):
    def scale(trainer):
        return [
            [d.target.representation.low.item(), d.target.representation.high.item()]
            for d in (trainer.denoiser, trainer.averaged)
        ]

    one, again, other = (build(model(representation), seed=seed) for seed in (1, 1, 2))
    assert scale(one) == scale(again) != scale(other)
    assert scale(one)[0] == scale(one)[1]
    before = scale(one)
    one.step()
    assert scale(one) == before
    # Noisy and clean sides of the first mixtures that this seed draws reach from one end to the other.
    one.generator.manual_seed(1)
    batch, represent = one.mixtures.draw(round(trainer_module.FITTED_S / 0.5)), one.denoiser.target.representation
    spectra = one.denoiser.spectrogram(torch.cat([batch.noisy / batch.level, batch.clean / batch.level]))
    features = represent(magnitude(spectra))
    # Magnitudes above 0 do not quite reach the bottom of the scales that begin at 0; float32.
    assert features.max().item() == pytest.approx(1.0, abs=1e-5)
    bottom = {"power": 0.1, "linear": -0.999, "log": 1e-5}[representation]
    assert represent.bottom - 1e-5 <= features.min() <= bottom


@pytest.mark.parametrize("normalisation", ["none", "frame"])
@pytest.mark.parametrize("loss", ["compressed+si_sdr", "huber+multi_resolution"])
def test_micro_batches_give_the_gradients_of_the_whole_batch(build, normalisation, loss):
    trainer = build(model(normalisation=normalisation), loss=loss)
    batch = trainer.mixtures.draw(4)
    whole = trainer._accumulate(batch)
    expected = gradients(trainer)
    for trainer.micro_batch in (1, 2, 3):
        assert trainer._accumulate(batch) == pytest.approx(whole, rel=1e-5)  # sums in another order, float32
        # Gradients add up 4 * 126 frames of 33 bins of both signs.
        assert (gradients(trainer) - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize(("room", "parts"), [(4, [4]), (3, [4, 2, 2]), (2, [4, 2, 2]), (1, [4, 2, 1, 1, 1, 1])])
def test_a_batch_that_does_not_fit_into_memory_is_halved_until_it_fits_and_stays_so(build, monkeypatch, room, parts):
    roomy = build(model(normalisation="frame"))
    monkeypatch.setattr(trainer_module, "Loss", Tight)
    monkeypatch.setattr(Tight, "room", room)
    tight = build(model(normalisation="frame"))
    # The same batch as with all the memory: equal but for the order of float32 sums.
    assert tight.step() == pytest.approx(roomy.step(), rel=1e-5)
    assert tight.loss.sizes == parts and tight.steps_done == 1
    assert torch.equal(tight.generator.get_state(), roomy.generator.get_state())
    assert tight.micro_batch == parts[-1]
    tight.loss.sizes.clear()
    assert tight.step() == pytest.approx(roomy.step(), rel=1e-3)  # Adam's first steps follow signs of gradients
    assert tight.loss.sizes == [parts[-1]] * (4 // parts[-1])


def test_a_single_mixture_that_does_not_fit_into_memory_ends_the_training(build, monkeypatch):
    monkeypatch.setattr(trainer_module, "Loss", Tight)
    monkeypatch.setattr(Tight, "room", 0)
    trainer = build(batch_size=3)
    before = weights(trainer)
    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        trainer.step()
    assert trainer.loss.sizes == [3, 2, 1] and trainer.steps_done == 0
    assert torch.equal(weights(trainer), before)


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError("std::bad_alloc"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("could not create a primitive"), True),  # of oneDNN with RLIMIT_AS, torch 2.13
        (RuntimeError("not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (ValueError("loss"), False),
    ],
)
def test_too_little_memory_is_known_by_its_errors(error, memory):
    assert is_memory_error(error) is memory


@contextmanager
def little_memory():
    """32 MiB for this process beside what it has."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**25, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize("empty", [torch.empty, np.empty, bytearray])
def test_a_cpu_without_memory_for_the_batch_takes_it_in_parts_as_a_gpu(build, monkeypatch, empty):
    class Limited(Tight):
        def forward(self, estimate, target):
            with little_memory():
                room = empty(2**28 if len(estimate.magnitude) > self.room else 2**10)
            assert len(room) == 2**10
            return Loss.forward(self, estimate, target)

    monkeypatch.setattr(trainer_module, "Loss", Limited)
    monkeypatch.setattr(Tight, "room", 2)
    trainer = build(batch_size=4)
    assert math.isfinite(trainer.step()) and trainer.micro_batch == 2
    monkeypatch.setattr(Tight, "room", 0)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"^out of memory on cpu with a single mixture of 0\.5 s, expected .*; lower"
    ):
        trainer.step()


@pytest.mark.parametrize("shape", [{}, *SHAPES[:4]], ids=lambda shape: "-".join(shape))
def test_bfloat16_changes_the_loss_only_by_rounding(build, shape):
    trainer = build(model(**shape), loss="compressed")
    batch = trainer.mixtures.draw(4)
    trainer.denoiser.eval()
    exact = trainer._loss(batch, trainer.state)[0].item()
    trainer.mixed = True
    # 8 bits of every product: 0.4 %, through some ten layers.
    assert trainer._loss(batch, trainer.state)[0].item() == pytest.approx(exact, rel=0.04)
    trainer.denoiser.train()
    assert math.isfinite(trainer.step()) and torch.isfinite(weights(trainer)).all()
    assert trainer.loss(*2 * [trainer_module.Signals(torch.ones(1, 2, 2))]).dtype == torch.float32


@pytest.mark.parametrize("shape", [{}, *SHAPES], ids=lambda shape: "-".join(map(str, shape.values())))
def test_every_weight_has_one_optimiser_with_the_learning_rate_of_the_step(build, shape):
    trainer = build(model(**shape), optimiser="muon")
    groups = [group for optimiser in trainer.optimisers for group in optimiser.param_groups]
    optimised = [weight for group in groups for weight in group["params"]]
    assert len(optimised) == len(set(map(id, optimised))) == len(list(trainer.denoiser.parameters()))
    before = [weight.detach().clone() for weight in trainer.denoiser.parameters()]
    trainer.step()
    assert {group["lr"] for group in groups} == {trainer.config.learning_rate}
    assert not any(torch.equal(*pair) for pair in zip(trainer.denoiser.parameters(), before, strict=True))


def test_an_unknown_optimiser_is_refused(build):
    with pytest.raises(ValueError, match=r"^optimiser: 'sgd', expected one of adamw, muon$"):
        build(optimiser="sgd")


@pytest.mark.parametrize(
    ("precision", "native", "segment_s", "mixed"),
    [
        ("auto", True, 0.5, True),
        ("auto", False, 0.5, False),
        ("float32", True, 0.5, False),
        ("auto", True, 0.02, False),  # 5 frames, 2 at the deepest level
    ],
)
def test_bfloat16_is_used_on_devices_with_fast_products_and_for_segments_of_some_frames(
    build, monkeypatch, precision, native, segment_s, mixed
):
    monkeypatch.setattr(trainer_module, "native_bfloat16", lambda device: native)
    trainer = build(model(), precision=precision, segment_s=segment_s)
    assert trainer.mixed == mixed
    assert math.isfinite(trainer.step()) and torch.isfinite(weights(trainer)).all()


def test_with_bfloat16_transforms_and_losses_stay_in_float32(trainer):
    trainer.mixed, trainer.loss, inside = True, StandIn(), []
    trainer.denoiser.network.encoder[1].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    spectra = []
    trainer.denoiser.spectrogram.register_forward_hook(lambda *call: spectra.append(call[2].dtype))
    trainer.step()
    assert inside == [torch.bfloat16]
    assert set(spectra) == {torch.complex64}
    assert {signal.dtype for call in trainer.loss.calls for side in call for signal in side[:4]} == {torch.float32}
    assert {parameter.grad.dtype for parameter in trainer.denoiser.parameters()} == {torch.float32}


@pytest.mark.parametrize("over", ["frequency", "forward", "both"])
def test_with_bfloat16_recurrences_stay_in_float32(build, over):
    trainer, inside = build(model(bottleneck=over, bottleneck_units=4)), []
    trainer.mixed = True
    recurrence = trainer.denoiser.network.bottleneck
    recurrence.gru.register_forward_hook(lambda *call: inside.append(call[2][0].dtype))
    trainer.denoiser.network.encoder[1].register_forward_hook(lambda *call: inside.append(call[2].dtype))
    assert math.isfinite(trainer.step())
    assert set(inside[1:]) == {torch.float32} and inside[0] == torch.bfloat16


def test_a_recurrence_forwards_continues_from_the_state_after_the_previous_mixture(build, monkeypatch):
    shape = model(bottleneck="forward", bottleneck_units=4)
    monkeypatch.setattr(trainer_module, "BEGINNINGS", 0.0)
    trainer, states = build(shape), []
    loss_of = trainer.loss_of
    trainer.loss_of = lambda *arguments: (states.append(arguments[-1]), loss_of(*arguments))[1]
    trainer.step()
    last = trainer.state
    trainer.step()
    assert not states[0].any() and last.all() and torch.equal(states[1], last)
    monkeypatch.setattr(trainer_module, "BEGINNINGS", 1.0)
    trainer.step()
    assert not states[2].any()


@pytest.mark.parametrize("optimiser", CHOICES["optimiser"])
@pytest.mark.parametrize("bottleneck", ["none", "forward"])
def test_a_trainer_that_loads_a_state_continues_with_the_same_numbers(build, optimiser, bottleneck):
    shape = model(dropout=0.3, bottleneck=bottleneck, bottleneck_units=4)
    first = build(shape, optimiser=optimiser)
    for _ in range(3):
        first.step()
    first.micro_batch = 2
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    expected = [first.step() for _ in range(3)]
    second = build(shape, optimiser=optimiser)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True))
    assert (second.steps_done, second.micro_batch) == (3, 2)
    assert [second.step() for _ in range(3)] == expected
    for name in ("denoiser", "averaged"):
        one, other = (getattr(trainer, name).state_dict() for trainer in (first, second))
        assert all(torch.equal(value, other[key]) for key, value in one.items())
