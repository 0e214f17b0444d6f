"""`quell export`: a trial's weights as one file that holds its history, with a model card beside it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import optuna
import torch
from rich.console import Console

import quell
from quell.atomic import EXISTS, WRITTEN_MEANWHILE, replacing
from quell.config import FORMATS
from quell.corpus.memory_map import Corpus
from quell.errors import CorpusError, ExportError
from quell.export.cost import cost, measured
from quell.export.exported_model import Model, load
from quell.export.exporter import export
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import score_denoiser
from quell.network.denoiser import load_weights
from quell.processes import cores
from quell.progress import ignore
from quell_tuning import progress, version
from quell_tuning.export import model_card
from quell_tuning.export.chosen_trial import ChosenTrial, choose, weights_number
from quell_tuning.export.model_card import ExportedTrial
from quell_tuning.export.retraining import refit
from quell_tuning.export.validation_scores import Validation, uncompared, unlike
from quell_tuning.study.stored_study import SKIPPED, corpus_of, spec_of
from quell_tuning.study.study_file import validation_set
from quell_tuning.workspace.run_folder import RunFolder


def export_best(
    study: optuna.Study,
    runs: RunFolder,
    path: Path,
    number: int | None = None,
    *,
    licence: str = "",
    again_on: str | None = None,
    overwrite: bool = False,
    console: Console,
) -> ExportedTrial:
    """Exports the best trial, or trial `number`, in the format of the path's suffix, with a card beside it.

    Args:
        again_on: a device; the trial is first trained again there, on train and validation. The scores on the card are
            then those of the trial.
        overwrite: replace the file and its card.

    Raises:
        CorpusError: the trial is to be trained again, and the decoded recordings are not on this machine.
        StudyNotFound: there is no such trial, or its weights were not kept.
        ExportError: the weights are damaged, the file or its card exists or cannot be written, or its output or its
            scores on the validation mixtures differ from the trial's; nothing is then written.
    """
    card = check(path, overwrite)
    chosen = choose(study, runs, number)
    denoiser = load_weights(runs.fetch_weights(chosen.study, weights_number(chosen.trial)))
    if again_on is not None:
        denoiser = refit(study, chosen.trial, runs, torch.device(again_on), console)
    costs = cost(denoiser.config)
    metadata = _metadata(study, chosen) | {"licence": licence, "cost": costs.record(), "refit": again_on is not None}
    kind = next(kind for kind, suffix in FORMATS.items() if suffix == path.suffix)
    try:
        corpus = corpus_of(study, runs.corpora)
    except CorpusError:
        corpus = None
    validation = None

    def verify(written: Path) -> None:
        nonlocal validation
        if corpus is not None and again_on is None:
            validation = _validation(study, corpus, load(written), console)
            _refuse_other_scores(path, chosen, validation, metadata["validation"])

    accept = ignore if kind == "pt2" else verify
    metadata |= export(denoiser, path, metadata, kind, accept, overwrite=overwrite)
    rtf = None if kind == "pt2" else measured(lambda: load(path), denoiser.config.sample_rate)
    exported = ExportedTrial(chosen, costs, rtf, metadata, corpus, validation)
    _write_card(card, model_card.text(path, exported), overwrite)
    return exported


def check(path: Path, overwrite: bool) -> Path:
    """The path of the card; raises ExportError where `export_best` would replace something that it may not."""
    if path.exists() and not overwrite:
        raise ExportError(f"{path}: {EXISTS}")
    card = path.with_suffix(".md")
    model_card.check(card, overwrite)
    return card


def _write_card(card: Path, text: str, overwrite: bool) -> None:
    try:
        with replacing(card, overwrite=overwrite) as partial:
            partial.write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise ExportError(f"{card}: {WRITTEN_MEANWHILE}") from error
    except OSError as error:
        raise ExportError(
            f"{card}: {error.strerror}, expected a file that can be written; choose another -o"
        ) from error


def _validation(study: optuna.Study, corpus: Corpus, model: Model, console: Console) -> Validation:
    with Scorer(cores()) as scorer, progress.bar("scoring the exported file", console) as update:
        mixtures = validation_set(spec_of(study), corpus, scorer)
        scores = score_denoiser(scorer, model, mixtures, progress=update)
        return Validation(mixtures.noisy_scores, scores, mixtures.labels)


def _refuse_other_scores(
    path: Path, chosen: ChosenTrial, validation: Validation, stored: dict[str, dict[str, float]]
) -> None:
    """Raises ExportError where a file scores otherwise than its trial did: its weights are not the trial's."""
    problem = unlike(validation.denoised.means(), stored["denoised"])
    if problem and not uncompared(validation, **stored):
        trial = f"trial {chosen.trial.number} of {chosen.study}"
        raise ExportError(
            f"{path}: {problem} as {trial} scored; its weights are others: export another --trial, or this one --refit"
        )


def _metadata(study: optuna.Study, chosen: ChosenTrial) -> dict[str, Any]:
    trial = chosen.trial
    return {
        "study": chosen.study,
        "spec_hash": study.user_attrs["spec_hash"],
        "corpus": study.user_attrs["corpus"],
        "skipped": len(study.user_attrs.get(SKIPPED, ())),
        "trial": trial.number,
        "params": trial.params,
        "training": trial.user_attrs["training"],
        "validation": {"noisy": study.user_attrs.get("noisy", {}), "denoised": trial.user_attrs.get("metrics", {})},
        "quell": quell.__version__,
        "commit": version.commit(),
        "exported": datetime.now(UTC).isoformat(timespec="seconds"),
    }
