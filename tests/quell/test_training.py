"""Training learns, repeats itself, reports at its rungs, and says how it failed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from quell import training
from quell.denoiser import DenoiserConfig
from quell.errors import TrainingError
from quell.training import AVERAGING, Trainer, TrainingConfig, train

CPU = torch.device("cpu")
MODEL = DenoiserConfig(8_000, win_length=64, hop_length=32, depth=2, base_channels=4, kernel_bins=3)
# Steps of 4 x 0.5 s: 2 s of audio each.
CONFIG = TrainingConfig(
    learning_rate=1e-2, batch_size=4, segment_s=0.5, rungs_audio_hours=(4 / 3600, 8 / 3600, 16 / 3600)
)


class StandIn:
    """A loss of the mean magnitude times a factor, which keeps what it was given."""

    def __init__(self, factor=1.0, needs_waveforms=False):
        self.factor = factor
        self.needs_waveforms = needs_waveforms
        self.given = []

    def __call__(self, estimate, target, waveforms):
        self.given.append((estimate.detach(), target, waveforms))
        return self.factor * estimate.abs().mean()


@pytest.fixture
def trainer(small_corpus):
    return Trainer(MODEL, CONFIG, small_corpus, CPU)


@pytest.fixture(scope="module")
def short(validation):
    return validation.first(2)


def run(small_corpus, short, scorer, config=CONFIG, **settings):
    return train(MODEL, config, small_corpus, short, scorer, metric="si_sdr", **settings)


def test_loss_falls(small_corpus):
    config = replace(CONFIG, rungs_audio_hours=(300 / 3600,), snr_db=(0.0, 5.0))  # 150 steps
    trainer = Trainer(MODEL, config, small_corpus, CPU)
    trainer.denoiser.train()
    losses = [trainer.advance() for _ in range(trainer.total)]
    # Drawn mixtures differ by some 20 %, means of 10 of them by 7 %.
    assert np.mean(losses[-10:]) < 0.75 * np.mean(losses[:10])


def test_the_same_seed_gives_the_same_weights_and_scores_and_another_seed_others(small_corpus, short, scorer):
    one, again = run(small_corpus, short, scorer), run(small_corpus, short, scorer)
    other = run(small_corpus, short, scorer, replace(CONFIG, seed=1))
    for name, value in one.denoiser.state_dict().items():
        assert torch.equal(value, again.denoiser.state_dict()[name]), name
    for name in ("pesq", "stoi", "si_sdr"):  # ESTOI draws random numbers of 1e-16
        assert one.scores.values[name].tolist() == again.scores.values[name].tolist()
    assert one.scores.values["si_sdr"].tolist() != other.scores.values["si_sdr"].tolist()
    assert 0 < one.data_share < 1 and one.seconds > 0


def test_rungs_are_called_in_order_with_hours_and_the_last_with_the_score(small_corpus, short, scorer):
    rungs, steps = [], []
    trained = run(
        small_corpus,
        short,
        scorer,
        on_rung=lambda hours, score: rungs.append((hours, score, len(steps))),
        on_step=lambda hours, loss: steps.append((hours, loss)),
    )
    assert [(hours, done) for hours, _, done in rungs] == [(4 / 3600, 2), (8 / 3600, 4), (16 / 3600, 8)]
    assert rungs[-1][1] == trained.scores.mean("si_sdr")
    assert [hours for hours, _ in steps] == pytest.approx([2 * (i + 1) / 3600 for i in range(8)])
    assert all(math.isfinite(value) for _, value in steps)
    assert len(trained.scores.snr_db) == 2 and not trained.denoiser.training


def test_early_rungs_score_the_first_mixtures_by_the_metric_alone(small_corpus, short, scorer, monkeypatch):
    monkeypatch.setattr(training, "RUNG_MIXTURES", 1)
    asked = []
    score = scorer.score

    def record(denoise, mixtures, names=None, device=None):
        asked.append((len(mixtures.noisy), names))
        return score(denoise, mixtures, names, device)

    monkeypatch.setattr(scorer, "score", record)
    run(small_corpus, short, scorer)
    assert asked == [(1, ("si_sdr",)), (1, ("si_sdr",)), (2, None)]


class Pruned(Exception):
    """What a search raises."""


@pytest.mark.parametrize("callback", ["on_rung", "on_step"])
def test_what_a_callback_raises_ends_the_training_and_comes_through(small_corpus, short, scorer, callback):
    calls = []

    def stop(hours, value):
        calls.append(hours)
        if len(calls) == 2:
            raise Pruned(f"at {hours:.4f} h")

    with pytest.raises(Pruned, match=r"at 0.00\d+ h"):
        run(small_corpus, short, scorer, **{callback: stop})
    assert len(calls) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_names_step_and_learning_rate(trainer, value):
    trainer.advance()
    trainer.loss = StandIn(value)
    before = {name: weight.clone() for name, weight in trainer.denoiser.named_parameters()}
    # Step 1 of 8 is past the warm-up, 2 % of 8, and before the fall.
    with pytest.raises(TrainingError, match=rf"step 1: loss {value} at learning rate 1.0e-02, expected a finite"):
        trainer.advance()
    assert all(torch.equal(weight, before[name]) for name, weight in trainer.denoiser.named_parameters())


def test_a_huge_learning_rate_ends_as_a_training_error(small_corpus, short, scorer):
    config = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(
        TrainingError, match=r"step \d: loss nan at learning rate \d.\de\+\d\d, expected a finite number"
    ):
        run(small_corpus, short, scorer, config)


def test_learning_rate_warms_up_holds_and_falls_to_almost_zero(small_corpus):
    config = replace(CONFIG, rungs_audio_hours=(2_000 / 3600,))
    trainer, rates = Trainer(MODEL, config, small_corpus, CPU), []
    assert trainer.total == 1_000
    for trainer.step in range(1_000):
        rates.append(trainer.learning_rate() / config.learning_rate)
    assert rates[:20] == pytest.approx([(i + 1) / 20 for i in range(20)])
    assert rates[19:750] == pytest.approx([1.0] * 731)
    assert rates[750:] == pytest.approx([1 - i / 250 for i in range(250)])
    assert rates[-1] == pytest.approx(1 / 250)


def test_the_optimiser_is_given_the_learning_rate_of_its_step(trainer):
    rates = []
    step = trainer.optimiser.step
    trainer.optimiser.step = lambda: (rates.append(trainer.optimiser.param_groups[0]["lr"]), step())
    for _ in range(8):
        trainer.advance()
    assert rates == pytest.approx([1e-2] * 7 + [0.5e-2])  # 8 steps: the last quarter falls from 1 to 1/2


def test_the_average_of_a_constant_network_is_the_network(small_corpus):
    trainer = Trainer(MODEL, replace(CONFIG, learning_rate=0.0), small_corpus, CPU)
    trainer.denoiser.eval()  # BatchNorm's statistics stay, too
    for _ in range(5):
        trainer.advance()
    for name, value in trainer.denoiser.state_dict().items():
        assert torch.equal(trainer.averaged.state_dict()[name], value), name


def test_the_average_of_weights_that_grow_by_1_is_nine_tenths_of_the_way(trainer):
    # With w = n after step n, a = w_avg - n * 9 / 10 obeys the recursion only as a = 1 / 10.
    assert AVERAGING == 8
    names = [name for name, value in trainer.denoiser.state_dict().items() if value.is_floating_point()]
    assert any("running_var" in name for name in names)  # BatchNorm's statistics are averaged like weights

    def count_up():
        for name in names:
            trainer.denoiser.state_dict()[name].fill_(trainer.step + 1.0)

    trainer.optimiser.step = count_up
    trainer.denoiser.eval()
    for n in range(1, 8):
        trainer.advance()
        for name in names:
            assert trainer.averaged.state_dict()[name].flatten()[0].item() == pytest.approx(
                0.9 * n + 0.1, rel=1e-5
            )  # float32


def test_steps_make_up_the_audio():
    config = TrainingConfig(batch_size=16, segment_s=2.0)
    assert config.steps(1.0) == round(3600 / 32)
    assert config.steps(0.0) == 1


def test_training_leaves_the_gradient_within_its_limit(trainer):
    norms = []
    step = trainer.optimiser.step

    def record():
        gradients = [parameter.grad.flatten() for parameter in trainer.denoiser.parameters()]
        norms.append(torch.cat(gradients).norm().item())
        step()

    trainer.optimiser.step = record
    trainer.loss = StandIn(1e4)
    trainer.advance()
    assert norms == pytest.approx([training.LARGEST_GRADIENT], rel=1e-3)


@pytest.mark.parametrize("needs_waveforms", [True, False])
def test_loss_is_given_spectra_and_waveforms_of_the_same_signals(trainer, needs_waveforms):
    trainer.loss = StandIn(needs_waveforms=needs_waveforms)
    trainer.advance()
    ((estimate, target, waveforms),) = trainer.loss.given
    assert estimate.shape == target.shape
    if needs_waveforms:
        spectrogram = trainer.denoiser.spectrogram
        # The round trip of a spectrogram is exact to 1e-5 at rms 1; levels are up to 10 dB off.
        assert (spectrogram.inverse(target, 4_000) - waveforms[1]).abs().max() < 1e-4
        assert (spectrogram.inverse(estimate, 4_000) - waveforms[0]).abs().max() < 1e-4
    else:
        assert waveforms is None
