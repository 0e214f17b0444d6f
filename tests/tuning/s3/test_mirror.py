"""Checkpoints and weights that machines share through a bucket, also while it is away."""

import logging
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from optuna.trial import TrialState
from quell_tuning.export import chosen_trial
from quell_tuning.progress import Trainings
from quell_tuning.trials import objective, outcome
from quell_tuning.workspace.bucket_mirror import open_mirror
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.s3_bucket import open_bucket
from rich.console import Console

from quell.network.denoiser import load_weights

SECRET = "sesame"  # in the key and in its name, as conftest.py gives them


class Left(BaseException):
    """The worker was asked to leave."""


class RunningTrial:
    """A trial in the hands of a worker that does `between` after each step of training, given their number."""

    def __init__(self, trial: optuna.Trial, between: Callable[[int], None] = lambda steps: None) -> None:
        self.trial = trial
        self.between = between
        self.steps = 0

    def step(self, audio_hours: float) -> None:
        self.steps += 1
        self.between(self.steps)

    def look_up(self) -> None:
        pass

    def note_checkpoint(self, audio_hours: float) -> None:
        pass


@pytest.fixture
def task(tiny_spec, small_corpus, validation, scorer) -> Callable[[RunFolder], objective.Task]:
    spec = tiny_spec(training={"audio_hours": 0.03, "rungs_audio_hours": [0.03]}, search={"depth": 2})
    device, bars = torch.device("cpu"), Trainings(Console())
    return lambda runs: objective.Task(spec, small_corpus, validation, scorer, device, runs, bars)


def test_a_trial_stopped_on_one_machine_ends_on_another_and_is_exported_from_a_third(
    machine, task, keys, caplog: pytest.LogCaptureFixture
) -> None:
    def leave(steps: int) -> None:
        if steps == 60:  # of 108
            raise Left

    caplog.set_level(logging.INFO)
    study = optuna.create_study(study_name="tiny", direction="maximize")
    left, other = machine("left"), machine("other")
    running = RunningTrial(study.ask(), leave)
    with pytest.raises(Left):
        objective.run_trial(running, task(left))
    assert keys() == ["studies/tiny/checkpoints/00000/001.checkpoint"]
    assert not list(left.folder.rglob("*.checkpoint"))  # it would hide the other's from this machine
    again = RunningTrial(running.trial)
    objective.run_trial(again, task(other))
    assert again.steps == 108 - 60
    assert "trial 0 continues from its checkpoint" in caplog.text
    assert other.mirror is not None and other.mirror.flush(10)
    assert keys() == ["studies/tiny/trials/00000.weights"]

    third = machine("third")
    assert chosen_trial.choose(study, third).trial.number == 0
    restored = load_weights(third.fetch_weights("tiny", 0)).state_dict()
    trained = load_weights(other.weights("tiny", 0)).state_dict()
    assert all(torch.equal(restored[name], trained[name]) for name in trained)
    (ended,) = study.trials
    assert SECRET not in f"{study.user_attrs}{ended.user_attrs}{ended.system_attrs}{caplog.text}"


def test_while_the_bucket_is_away_training_goes_on_with_one_warning(
    start_server, aws, task, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = start_server()
    aws(server.url)
    open_bucket("s3://away").client.create_bucket(Bucket="away")
    mirror = open_mirror("s3://away/p", tmp_path)
    assert mirror is not None

    def stop(steps: int) -> None:
        if steps == 50:
            server.stop()

    study = optuna.create_study(study_name="tiny", direction="maximize")
    runs = RunFolder(tmp_path, mirror)
    objective.run_trial(RunningTrial(study.ask(), stop), task(runs))
    assert study.trials[0].state == TrialState.COMPLETE
    assert not mirror.flush(10)
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1, warnings
    assert warnings[0].startswith("s3://away/p: 127.0.0.1:")
    assert runs.weights("tiny", 0).exists()
    runs.close()
    assert str(tmp_path) in caplog.records[-1].getMessage()


def test_weights_that_are_not_the_best_are_removed_from_the_bucket_wherever_they_were_written(machine) -> None:
    study = optuna.create_study(study_name="s", direction="maximize")
    one, other = machine("one"), machine("other")
    for number, runs in enumerate([one, other, one, other]):
        study.add_trial(optuna.trial.create_trial(value=number))
        runs.weights("s", number).parent.mkdir(parents=True, exist_ok=True)
        runs.weights("s", number).write_bytes(b"w")
        runs.share_weights("s", number)
    assert one.mirror.flush(10) and other.mirror.flush(10)
    third = machine("third")
    assert third.kept_weights("s") == {0, 1, 2, 3}
    outcome.prune_weights(study, one, keep=2)
    assert one.mirror.flush(10)
    assert third.kept_weights("s") == {2, 3}
    assert third.fetch_weights("s", 2).read_bytes() == b"w"
    assert not third.fetch_weights("s", 0).exists()
