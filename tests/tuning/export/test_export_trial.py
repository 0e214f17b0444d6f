"""An export is scored before it appears, and only a file that scores as its trial did gets its name."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from quell_tuning.cli.export import validation_line
from quell_tuning.export.export_trial import export_best
from quell_tuning.export.model_card import ExportedTrial
from quell_tuning.storage.backends import open_storage
from quell_tuning.study.stored_study import create_study
from quell_tuning.study.study_file import validation_set
from quell_tuning.workspace.run_folder import RunFolder
from rich.console import Console

from quell.corpus.memory_map import Corpus
from quell.errors import ExportError
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet, score_denoiser
from quell.network.denoiser import Denoiser, save_weights

Make = Callable[..., optuna.Study]


@pytest.fixture(scope="module")
def mixtures(tiny_spec, small_corpus: Corpus, scorer: Scorer) -> EvaluationSet:
    return validation_set(tiny_spec(), small_corpus, scorer)


@pytest.fixture(scope="module")
def denoiser(tiny_denoiser) -> Denoiser:
    return tiny_denoiser(seed=1)


@pytest.fixture(scope="module")
def metrics(denoiser: Denoiser, mixtures: EvaluationSet, scorer: Scorer, one_thread: None) -> dict[str, float]:
    """What the denoiser scores."""
    return score_denoiser(scorer, denoiser, mixtures).means()


@pytest.fixture
def runs(tmp_path: Path, small_corpus: Corpus) -> RunFolder:
    runs = RunFolder(tmp_path / "runs")
    runs.folder.mkdir()
    runs.corpora.symlink_to(small_corpus.folder.parent, target_is_directory=True)
    return runs


@pytest.fixture
def study(
    tiny_spec,
    runs: RunFolder,
    small_corpus: Corpus,
    mixtures: EvaluationSet,
    denoiser: Denoiser,
    metrics: dict[str, float],
) -> Iterator[Make]:
    """Makes the study of one trial, which has these attributes instead of its own."""
    storage = open_storage(runs.storage_url, create=True)

    def make(noisy: dict[str, float] | None = None, **attributes: Any) -> optuna.Study:
        study = create_study(tiny_spec(), small_corpus, storage)
        study.set_user_attr("noisy", noisy or mixtures.noisy_scores.means())
        training = asdict(tiny_spec().training_config())
        stored = {"denoiser": asdict(denoiser.config), "training": training, "metrics": metrics} | attributes
        given = {key: value for key, value in stored.items() if value is not None}
        study.add_trial(create_trial(state=TrialState.COMPLETE, value=1.0, user_attrs=given))
        runs.weights("tiny", 0).parent.mkdir(parents=True)
        save_weights(denoiser, runs.weights("tiny", 0))
        return study

    yield make
    storage.close()


def exported(study: optuna.Study, runs: RunFolder, path: Path) -> ExportedTrial:
    return export_best(study, runs, path, overwrite=True, console=Console(file=io.StringIO()))


def test_an_export_has_scores_of_its_own_which_are_the_trial_s(
    study: Make, runs: RunFolder, tmp_path: Path, metrics: dict[str, float]
) -> None:
    found = exported(study(), runs, tmp_path / "best.pt")
    assert found.validation is not None and found.uncompared == ""
    assert found.validation.denoised.means() == pytest.approx(metrics, abs=1e-3)  # BatchNorm folded into convolutions
    own = found.validation.denoised.means()["si_sdr"]
    assert re.search(rf"^validation: .*si_sdr {own:.3f} \(noisy ", validation_line(found, refit=False))


def test_weights_that_score_otherwise_than_their_trial_are_not_exported(
    study: Make, runs: RunFolder, tmp_path: Path, tiny_denoiser, metrics: dict[str, float]
) -> None:
    stored, path = study(), tmp_path / "best.pt"
    path.write_bytes(b"the old one")
    save_weights(tiny_denoiser(seed=2), runs.weights("tiny", 0))
    with pytest.raises(
        ExportError,
        match=r"best\.pt: \w+ -?[\d.]+, expected -?[\d.]+ as trial 0 of tiny scored; its weights are others: export",
    ):
        exported(stored, runs, path)
    assert path.read_bytes() == b"the old one"
    assert {entry.name for entry in tmp_path.iterdir()} == {"best.pt", "runs"}


def test_weights_with_a_flipped_bit_are_not_exported(study: Make, runs: RunFolder, tmp_path: Path) -> None:
    stored, weights = study(), runs.weights("tiny", 0)
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ExportError, match=r"00000\.weights: damaged, expected the weights of a trial"):
        exported(stored, runs, tmp_path / "best.pt")
    assert [entry.name for entry in tmp_path.iterdir()] == ["runs"]


def test_of_a_trial_without_scores_those_of_the_file_are_told(study: Make, runs: RunFolder, tmp_path: Path) -> None:
    found = exported(study(metrics=None), runs, tmp_path / "best.pt")
    line = validation_line(found, refit=False)
    assert line.startswith("validation: ") and line.endswith("; not compared with the trial: it has no scores")


def test_scores_on_other_mixtures_are_not_compared(
    study: Make, runs: RunFolder, tmp_path: Path, metrics: dict[str, float], mixtures: EvaluationSet
) -> None:
    noisy = {name: value + 0.5 for name, value in mixtures.noisy_scores.means().items()}
    others = {name: value + 0.5 for name, value in metrics.items()}
    found = exported(study(noisy, metrics=others), runs, tmp_path / "best.pt")
    assert found.uncompared == "it was scored on other mixtures, by an earlier Quell"


def test_without_recordings_the_scores_are_said_to_be_the_trial_s(
    study: Make, runs: RunFolder, tmp_path: Path, metrics: dict[str, float]
) -> None:
    stored = study()
    runs.corpora.unlink()
    line = validation_line(exported(stored, runs, tmp_path / "best.pt"), refit=False)
    assert line.startswith("validation of the trial, the file was not scored: ")
    assert f"si_sdr {metrics['si_sdr']:.3f} (noisy " in line
