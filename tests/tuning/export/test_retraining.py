"""`quell reproduce`: short trainings, repeated."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning import version
from quell_tuning.errors import StudyMismatch, StudyNotFound
from quell_tuning.export.retraining import refit, reproduce
from quell_tuning.progress import Trainings
from quell_tuning.storage.backends import open_storage
from quell_tuning.study import study_file
from quell_tuning.study.stored_study import RECIPE, create_study
from quell_tuning.trials import objective
from quell_tuning.workspace.run_folder import RunFolder
from rich.console import Console

from quell.corpus.memory_map import Corpus
from quell.errors import CorpusError
from quell.metrics.scorer import Scorer

COMPLETE, PRUNED, DUPLICATE, TOO_LARGE, FAILED = range(5)


class RunningTrial:
    """A trial whose worker is never interrupted."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def step(self, audio_hours: float) -> None:
        pass

    def look_up(self) -> None:
        pass

    def note_checkpoint(self, audio_hours: float) -> None:
        pass


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_corpus: Corpus) -> RunFolder:
    """A runs folder with the tests' decoded corpus."""
    runs = RunFolder(tmp_path_factory.mktemp("runs"))
    runs.corpora.symlink_to(small_corpus.folder.parent, target_is_directory=True)
    return runs


@pytest.fixture(scope="module")
def study(tiny_spec, runs: RunFolder, small_corpus: Corpus, scorer: Scorer, one_thread: None) -> Iterator[optuna.Study]:
    """Trained trials: one complete, one pruned at its first rung, one with the first's configuration; and two that were
    not trained."""
    spec = tiny_spec(training={"audio_hours": 0.05, "rungs_audio_hours": [0.03, 0.05]}, search={"depth": 2})
    storage = open_storage(runs.storage_url, create=True)
    study = create_study(spec, small_corpus, storage)
    validation = study_file.validation_set(spec, small_corpus, scorer)
    task = objective.Task(spec, small_corpus, validation, scorer, torch.device("cpu"), runs, Trainings(Console()))
    for pruned in (False, True, False):
        study.pruner = optuna.pruners.ThresholdPruner(lower=1000.0 if pruned else -1000.0)
        study.enqueue_trial({}, user_attrs={"repeat": int(pruned)})
        objective.run_trial(RunningTrial(study.ask()), task)
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"pruned": "over the limit of parameters"}))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": "step 3: loss nan"}))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED", "FAIL"]
    yield study
    storage.close()


@pytest.fixture
def again(runs: RunFolder) -> Iterator[Callable[..., tuple[int, list[str], str]]]:
    """Reproduces on the CPU; returns the exit code, the lines of the result, and the log."""
    threads = torch.get_num_threads()

    def again(study: optuna.Study, number: int) -> tuple[int, list[str], str]:
        result, log = io.StringIO(), io.StringIO()
        code = reproduce(study, number, runs, "cpu", Console(file=result, width=200), Console(file=log, width=200))
        return code, result.getvalue().splitlines(), log.getvalue()

    yield again
    torch.set_num_threads(threads)


def changed(study: optuna.Study, number: int, change: Callable[[FrozenTrial], None]) -> optuna.Study:
    """A copy of the study with one trial, changed."""
    other = optuna.create_study(direction="maximize")
    for key, value in study.user_attrs.items():
        other.set_user_attr(key, value)
    trial = study.get_trials()[number]
    change(trial)
    other.add_trial(trial)
    return other


def attribute(trial: FrozenTrial, name: str, **values: Any) -> None:
    trial.set_user_attr(name, trial.user_attrs[name] | values)


def test_a_complete_trial_has_the_same_scores_at_every_rung_and_at_the_end(study: optuna.Study, again) -> None:
    code, lines, log = again(study, COMPLETE)
    assert code == 0
    assert log == ""
    trial = study.trials[COMPLETE]
    wanted = {
        "si_sdr at 0.03 h of audio": trial.intermediate_values[108],
        "si_sdr at 0.05 h of audio": trial.intermediate_values[180],
        **trial.user_attrs["metrics"],
    }
    assert lines == [f"{name}: {value!r} then, {value!r} now: the same" for name, value in wanted.items()]


def test_a_pruned_trial_is_trained_up_to_its_rung(study: optuna.Study, again) -> None:
    code, (line,), _ = again(study, PRUNED)
    value = study.trials[PRUNED].intermediate_values[108]
    assert (code, line) == (0, f"si_sdr at 0.03 h of audio: {value!r} then, {value!r} now: the same")


def test_a_score_that_is_off_by_one_in_the_ninth_place_differs(study: optuna.Study, again) -> None:
    value = study.trials[COMPLETE].user_attrs["metrics"]["stoi"]
    other = changed(study, COMPLETE, lambda trial: attribute(trial, "metrics", stoi=value + 1e-9))
    code, lines, _ = again(other, 0)
    assert code == 1
    assert [line.partition(":")[0] for line in lines if "differs" in line] == ["stoi"]
    assert f"stoi: {value + 1e-9!r} then, {value!r} now: differs by -1e-09" in lines


def test_another_version_is_named_and_the_number_of_threads_is_that_of_the_trial(
    study: optuna.Study, again, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def train(*_: object, on_rung, **__: object) -> None:
        threads.append(torch.get_num_threads())
        on_rung(0.03, np.zeros(6))

    monkeypatch.setattr("quell_tuning.export.retraining.train", train)
    other = changed(study, PRUNED, lambda trial: attribute(trial, "machine", torch="2.0.1", threads=2))
    _, _, log = again(other, 0)
    assert log == f"quell: torch was 2.0.1, is {torch.__version__}: scores may differ\n"
    assert threads == [2]


def test_of_a_trial_with_copied_scores_the_original_is_trained(
    study: optuna.Study, again, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = []

    def train(model, config, *_: object, **__: object) -> None:
        trained.append(config.seed)
        raise InterruptedError

    monkeypatch.setattr("quell_tuning.export.retraining.train", train)
    assert study.trials[DUPLICATE].user_attrs["same_as"] == COMPLETE
    with pytest.raises(InterruptedError):
        again(study, DUPLICATE)
    assert trained == [study.trials[COMPLETE].user_attrs["training"]["seed"]]


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            TOO_LARGE,
            f"trial {TOO_LARGE}: over the limit of parameters, expected one that was trained and scored; "
            "choose another",
        ),
        (FAILED, f"trial {FAILED}: fail, expected one that was trained and scored; choose another"),
        (5, "trial 5: not in study 'tiny', expected 0 to 4; choose another"),
        (-1, "trial -1: not in study 'tiny', expected 0 to 4; choose another"),
    ],
)
def test_an_untrained_or_missing_trial_is_an_error_of_one_line(
    study: optuna.Study, again, number: int, message: str
) -> None:
    with pytest.raises(StudyNotFound) as caught:
        again(study, number)
    assert str(caught.value) == message


def test_without_the_decoded_corpus_the_error_names_its_folder(study: optuna.Study, tmp_path: Path) -> None:
    console = Console(file=io.StringIO())
    with pytest.raises(CorpusError, match=f"{study.user_attrs['corpus']}: no decoded corpus, expected index.json"):
        reproduce(study, COMPLETE, RunFolder(tmp_path), "cpu", console, console)


def test_every_trial_stores_the_version_that_ran_it(study: optuna.Study) -> None:
    assert [study.trials[number].user_attrs["quell"] for number in range(3)] == [version.record()] * 3


def test_a_study_of_another_recipe_is_not_trained_again(study: optuna.Study, again, runs: RunFolder) -> None:
    other = changed(study, COMPLETE, lambda trial: None)
    other.set_user_attr(RECIPE, {"number": 7, "quell": {"version": "9.1"}})
    with pytest.raises(StudyMismatch, match=r"recipe 1 of quell .*, expected recipe 7 of quell 9\.1, which made it"):
        again(other, 0)
    with pytest.raises(StudyMismatch, match="expected recipe 7 of quell"):
        refit(other, other.trials[0], runs, torch.device("cpu"), Console(file=io.StringIO()))


def test_a_trial_with_an_option_of_another_version_is_named(study: optuna.Study, again) -> None:
    other = changed(study, COMPLETE, lambda trial: attribute(trial, "denoiser", attention=True))
    with pytest.raises(StudyMismatch, match=r"trial 0: .*'attention', expected the options of this version"):
        again(other, 0)
