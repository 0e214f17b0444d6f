"""Training is reproducible, reports at its rungs, and gives the same numbers when it is interrupted and resumed."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quell.config import DenoiserConfig, TrainingConfig
from quell.errors import CheckpointError, TrainingError
from quell.metrics import intrusive
from quell.training import checkpoint, training_loop
from quell.training import trainer as trainer_module
from quell.training.losses import Loss
from quell.training.training_loop import spectrogram_iou, train

MODEL = DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, kernel_bins=3)
# Steps of 4 x 0.5 s: 2 s of audio each; rungs after 2, 4 and 8 of them.
CONFIG = TrainingConfig(
    learning_rate=1e-2, batch_size=4, segment_s=0.5, rungs_audio_hours=(4 / 3600, 8 / 3600, 16 / 3600)
)
# What a step depends on besides the weights: dropout's random numbers and BatchNorm's statistics.
RANDOM = replace(MODEL, dropout=0.3, bottleneck="forward", bottleneck_units=4)


@pytest.fixture(scope="module")
def short(validation):
    return validation.first(2)


def run(small_corpus, short, scorer, config=CONFIG, model=MODEL, **settings):
    return train(model, config, small_corpus, short, scorer, metric="si_sdr", **settings)


def same(one, other):
    """Whether two trainings have equal weights and scores, to the last digit."""
    weights = other.denoiser.state_dict()
    return all(torch.equal(value, weights[name]) for name, value in one.denoiser.state_dict().items()) and all(
        np.array_equal(values, other.scores.values[name]) for name, values in one.scores.values.items()
    )


def test_the_same_seed_gives_the_same_weights_and_scores_and_another_seed_others(small_corpus, short, scorer):
    one, again = run(small_corpus, short, scorer), run(small_corpus, short, scorer)
    other = run(small_corpus, short, scorer, replace(CONFIG, seed=1))
    assert set(one.scores.values) == {"pesq", "stoi", "estoi", "si_sdr"}
    assert same(one, again)
    assert one.scores.values["si_sdr"].tolist() != other.scores.values["si_sdr"].tolist()
    assert 0 < one.data_share < 1 and one.seconds > 0


def test_rungs_are_called_in_order_with_hours_and_the_last_with_the_score(small_corpus, short, scorer):
    rungs, steps = [], []
    trained = run(
        small_corpus,
        short,
        scorer,
        on_rung=lambda hours, clips: rungs.append((hours, clips, len(steps))),
        on_step=lambda hours, loss: steps.append((hours, loss)),
    )
    assert [(hours, count) for hours, _, count in rungs] == [(4 / 3600, 2), (8 / 3600, 4), (16 / 3600, 8)]
    assert rungs[-1][1].tolist() == trained.scores.values["si_sdr"].tolist()
    assert [hours for hours, _ in steps] == pytest.approx([2 * (i + 1) / 3600 for i in range(8)])
    assert all(math.isfinite(value) for _, value in steps)
    assert len(trained.scores.snr_db) == 2 and not trained.denoiser.training


def test_early_rungs_score_the_first_mixtures_by_the_metric_alone(small_corpus, short, scorer, monkeypatch):
    monkeypatch.setattr(training_loop, "RUNG_MIXTURES", 1)
    calls = []
    score_clips = scorer.score_clips

    def record(estimates, clean, sample_rate, names, progress):
        calls.append((len(clean), names))
        return score_clips(estimates, clean, sample_rate, names, progress)

    monkeypatch.setattr(scorer, "score_clips", record)
    run(small_corpus, short, scorer)
    assert calls == [(1, ("si_sdr",)), (1, ("si_sdr",)), (2, intrusive.available(small_corpus.sample_rate))]


class Pruned(Exception):
    """Stands for what a search raises in a callback."""


class Quick:
    """Scores by SI-SDR alone, in this process, and counts the calls."""

    def __init__(self):
        self.calls = 0

    def score_clips(self, estimates, clean, sample_rate, names, progress):
        self.calls += 1
        scores = []
        for estimate, target in zip(estimates, clean, strict=True):
            scores.append(intrusive.ClipScore({"si_sdr": intrusive.si_sdr(estimate, target)}, ()))
            if progress is not None:
                progress(len(scores), len(clean))
        return scores


def stopper(at):
    """A callback that raises when it is called for the `at`-th time."""
    calls = []

    def stop(hours, value):
        calls.append(hours)
        if len(calls) == at:
            raise Pruned(f"at {hours:.4f}")

    return stop


@pytest.fixture(scope="module")
def uninterrupted(small_corpus, short):
    """The reference for interrupted trainings, with its rungs."""
    rungs = []
    trained = run(
        small_corpus, short, Quick(), model=RANDOM, on_rung=lambda hours, clips: rungs.append((hours, clips.tolist()))
    )
    return trained, rungs


@pytest.fixture
def resume(small_corpus, short, tmp_path):
    """Trains with a checkpoint, from the beginning or from where it was interrupted."""

    def resume(scorer=None, path=tmp_path / "trial.pt", config=CONFIG, model=RANDOM, **callbacks):
        return run(small_corpus, short, scorer or Quick(), config, model, checkpoint=path, **callbacks)

    return resume


@pytest.mark.parametrize("callback", ["on_rung", "on_step", "on_score"])
def test_an_error_of_a_callback_ends_the_training_and_is_passed_on(small_corpus, short, callback):
    with pytest.raises(Pruned, match=r"at \d\.0"):
        run(small_corpus, short, Quick(), **{callback: stopper(2)})


def test_a_huge_learning_rate_ends_as_a_training_error(small_corpus, short, tmp_path):
    path = tmp_path / "trial.pt"
    message = r"step \d: loss nan, gradient nan at learning rate \d.\de\+\d\d, expected finite numbers"
    for _ in range(2):  # resumed, it fails again
        with pytest.raises(TrainingError, match=message):
            run(small_corpus, short, Quick(), replace(CONFIG, learning_rate=1e30), checkpoint=path)


def test_a_training_reports_how_many_mixtures_fitted_into_memory(small_corpus, short, monkeypatch):
    assert run(small_corpus, short, Quick()).micro_batch == 4

    class Tight(Loss):
        def forward(self, estimate, target):
            if len(estimate.magnitude) > 2:
                raise torch.OutOfMemoryError("no room")
            return super().forward(estimate, target)

    monkeypatch.setattr(trainer_module, "Loss", Tight)
    assert run(small_corpus, short, Quick()).micro_batch == 2


def test_the_overlap_of_spectrograms_is_measured_for_the_representation_log_only(small_corpus, short):
    trained = run(small_corpus, short, Quick(), model=replace(MODEL, representation="log"))
    assert 0 < trained.iou < 1
    assert trained.iou == spectrogram_iou(trained.denoiser, short)
    assert run(small_corpus, short, Quick()).iou is None


@pytest.mark.parametrize("step", range(1, 9))
def test_a_training_interrupted_after_any_step_ends_with_the_same_numbers(resume, uninterrupted, step):
    with pytest.raises(Pruned):
        resume(on_step=stopper(step))
    steps, rungs = [], []
    trained = resume(
        on_step=lambda hours, _: steps.append(hours), on_rung=lambda hours, clips: rungs.append((hours, clips.tolist()))
    )
    assert len(steps) == 8 - step
    assert same(trained, uninterrupted[0]) and rungs == uninterrupted[1]


@pytest.mark.parametrize("clip", range(1, 7))  # of 2 at each of 3 rungs
def test_a_training_interrupted_while_scoring_ends_with_the_same_numbers(resume, uninterrupted, clip):
    rung = (clip + 1) // 2
    with pytest.raises(Pruned):
        resume(on_score=stopper(clip))
    steps, scorer = [], Quick()
    trained = resume(scorer, on_step=lambda hours, _: steps.append(hours))
    assert same(trained, uninterrupted[0])
    assert len(steps) == 8 - [2, 4, 8][rung - 1] and scorer.calls == 4 - rung  # no step again, and no other rung


@pytest.mark.parametrize("rung", [1, 2, 3])
def test_a_training_interrupted_at_any_rung_ends_with_the_same_numbers(resume, uninterrupted, rung):
    with pytest.raises(Pruned):
        resume(on_rung=stopper(rung))
    scorer, rungs = Quick(), []
    trained = resume(scorer, on_rung=lambda hours, clips: rungs.append((hours, clips.tolist())))
    assert same(trained, uninterrupted[0])
    # Rungs before the checkpoint are reported again with their scores, and only later ones are scored.
    assert rungs == uninterrupted[1]
    assert scorer.calls == 3 - min(rung, 2)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 3), (3, 4), (7, 1)])
def test_a_training_interrupted_twice_ends_with_the_same_numbers(resume, uninterrupted, first, second):
    for steps in (first, second):
        with pytest.raises(Pruned):
            resume(on_step=stopper(steps))
    with pytest.raises(Pruned):
        resume(on_rung=stopper(2))
    assert same(resume(), uninterrupted[0])


def test_a_finished_training_is_resumed_without_a_step(resume, uninterrupted):
    resume()
    assert same(resume(on_step=stopper(1)), uninterrupted[0])


def test_a_training_killed_between_checkpoints_repeats_the_steps_since_the_last(
    resume, uninterrupted, tmp_path, monkeypatch
):
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    path, steps = tmp_path / "trial.pt", []

    def copy_checkpoint(hours, _):
        steps.append(torch.load(path, weights_only=True)["state"]["counts"][0] if path.exists() else 0)
        if steps[-1] == 5:  # the checkpoint of a process that is killed in step 6
            shutil.copy(path, tmp_path / "killed.pt")

    resume(on_step=copy_checkpoint)
    assert steps == list(range(8))  # written after each step
    steps = []
    assert same(resume(path=tmp_path / "killed.pt", on_step=lambda *step: steps.append(step)), uninterrupted[0])
    assert len(steps) == 3


def test_within_a_minute_a_checkpoint_is_written_only_at_rungs(resume, tmp_path):
    path, steps = tmp_path / "trial.pt", []
    resume(on_step=lambda *_: steps.append(torch.load(path)["state"]["counts"][0] if path.exists() else 0))
    assert checkpoint.CHECKPOINT_S == 60
    assert steps == [0, 0, 2, 2, 4, 4, 4, 4]
    assert list(tmp_path.iterdir()) == [path]


def test_a_resumed_training_keeps_its_micro_batch_and_its_seconds(resume, monkeypatch):
    original = trainer_module.Trainer.__init__

    def halved(self, *arguments):
        original(self, *arguments)
        self.micro_batch, self.seconds = 2, 1_000.0

    with monkeypatch.context() as patch, pytest.raises(Pruned):
        patch.setattr(trainer_module.Trainer, "__init__", halved)
        resume(on_step=stopper(3))
    trained = resume()
    assert trained.micro_batch == 2
    assert 1_000 < trained.seconds < 1_100


@pytest.mark.parametrize(
    "changed",
    [
        {"config": replace(CONFIG, seed=1)},
        {"config": replace(CONFIG, loss="compressed")},
        {"config": replace(CONFIG, loss_weights={"si_sdr": 0.02})},
        {"model": MODEL},
        {"model": replace(RANDOM, power=0.5)},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_checkpoint_of_another_training_is_refused_and_unchanged(resume, tmp_path, changed):
    path = tmp_path / "trial.pt"
    with pytest.raises(Pruned):
        resume(on_step=stopper(1))
    before = path.read_bytes()
    with pytest.raises(
        CheckpointError, match=rf"^{re.escape(str(path))}: another configuration, expected a checkpoint"
    ):
        resume(**changed)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "weights", "bytes"])
def test_a_file_that_is_not_a_checkpoint_is_refused_and_unchanged(resume, tmp_path, damage):
    path = tmp_path / "trial.pt"
    with pytest.raises(Pruned):
        resume(on_step=stopper(1))
    whole = path.read_bytes()
    if damage == "weights":
        torch.save({"weights": torch.zeros(3)}, path)
    elif damage == "bytes":  # of a weight: torch.load would accept them, only the archive's checksums differ
        weight = torch.load(path, weights_only=True)["state"]["denoiser"]["network.encoder.1.0.0.weight"]
        inside = weight.permute(0, 2, 3, 1).numpy().tobytes()  # stored with the channels last
        assert inside in whole
        path.write_bytes(whole.replace(inside, bytes(8) + inside[8:]))
    else:
        path.write_bytes({"cut": whole[:-300], "text": b"no checkpoint\n" * 9, "empty": b""}[damage])
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: \w+, expected a checkpoint of this training"):
        resume()
    assert path.read_bytes() == before


def test_a_checkpoint_whose_state_does_not_fit_is_refused_and_unchanged(resume, tmp_path):
    path = tmp_path / "trial.pt"
    with pytest.raises(Pruned):
        resume(on_step=stopper(1))
    content = torch.load(path, weights_only=True)
    # A generator on a GPU has 16 bytes of state: a training that began on another device.
    content["state"]["mixtures"] = torch.zeros(16, dtype=torch.uint8)
    torch.save(content, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}: .*expected a checkpoint of this training"):
        resume()
    assert path.read_bytes() == before


def test_a_write_that_fails_half_way_keeps_the_previous_checkpoint(resume, uninterrupted, tmp_path, monkeypatch):
    path = tmp_path / "trial.pt"
    with pytest.raises(Pruned):
        resume(on_step=stopper(3))
    before = path.read_bytes()

    def fill_the_disk(partial, content):
        with partial.open("wb") as file:
            file.write(content[:1_000])
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
        patch.setattr(Path, "write_bytes", fill_the_disk)
        resume()
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before
    assert same(resume(), uninterrupted[0])


def test_without_a_checkpoint_nothing_is_written(small_corpus, short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training_loop, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(torch, "save", None)
    run(small_corpus, short, Quick())
    assert list(tmp_path.iterdir()) == []


FULL = """
import os, sys, torch
from pathlib import Path
from quell.network.denoiser import write_sealed
try:
    write_sealed({"weights": torch.zeros(2**20)}, Path(sys.argv[1]) / "a.weights")
except OSError as error:
    print(error.strerror, os.listdir(sys.argv[1]))
"""


def test_a_full_disk_is_the_systems_error_and_leaves_no_half_file(tmp_path):
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    if (
        os.geteuid() != 0
        or not shutil.which("unshare")
        or subprocess.run(["unshare", "-m", "sh", "-c", mount]).returncode
    ):
        pytest.skip("needs the right to mount")
    command = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh", sys.executable, "-c", FULL, str(tmp_path)]
    assert subprocess.check_output(command, text=True) == f"{os.strerror(errno.ENOSPC)} []\n"


def test_a_caller_hears_from_where_the_training_could_be_resumed(small_corpus, short, tmp_path):
    first, again = [], []
    with pytest.raises(Pruned):
        run(small_corpus, short, Quick(), checkpoint=tmp_path / "a", on_step=stopper(5), on_checkpoint=first.append)
    run(small_corpus, short, Quick(), checkpoint=tmp_path / "a", on_checkpoint=again.append)
    steps = [[round(hours * 1800) for hours in heard] for heard in (first, again)]
    assert steps[0][0] == 0 and steps[0][-1] == 5 and sorted(steps[0]) == steps[0]
    assert steps[1][0] == 5 and steps[1][-1] == 8 and sorted(steps[1]) == steps[1]
