"""Command `evaluate`: a denoiser's scores on recordings that it does not know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from quell.processes import cores
from quell_tuning.cli.options import (
    CorpusOption,
    JsonOption,
    ModelFiles,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyOption,
    load_spec,
    open_study,
    open_workspace,
    stderr,
    stdout,
)

if TYPE_CHECKING:
    from rich.console import Console

    from quell.corpus.memory_map import Corpus
    from quell.evaluation.baselines import System
    from quell_tuning.study.study_file import StudySpec
    from quell_tuning.workspace.workspace import Workspace


def evaluate(
    models: ModelFiles = None,
    study: StudyOption = None,
    noisy: Annotated[Path | None, typer.Option("--noisy", help="A folder of noisy recordings.")] = None,
    clean: Annotated[
        Path | None, typer.Option("--clean", help="Their clean versions, by the same paths; DNSMOS estimates without.")
    ] = None,
    baseline: Annotated[
        str, typer.Option("--baseline", help="Others to compare with: noisy, spectral-gate, rnnoise, with commas.")
    ] = "noisy",
    table: Annotated[Path | None, typer.Option("--csv", help="A file for a row for each clip and system.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --csv file if it exists.")] = False,
    corpus: CorpusOption = None,
    mixtures: Annotated[
        int, typer.Option("--mixtures", min=6, help="Test mixtures of --study, at six SNRs in turn.")
    ] = 240,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Score denoisers on a study's test split, or on recordings, by SNR."""
    _refuse(study, noisy, clean)
    others = _systems(baseline)
    import torch

    from quell.evaluation import comparison
    from quell.metrics.scorer import Scorer
    from quell_tuning.evaluation import evaluate as evaluation
    from quell_tuning.evaluation import tables
    from quell_tuning.evaluation.systems import named_systems

    if table is not None:
        evaluation.refuse_csv(table, overwrite)
    torch.set_num_threads(1)  # a real-time factor is that of one thread; scoring takes the other cores
    console = stderr()
    spec = None if study is None else load_spec(study)
    compared = named_systems(models or [], None if spec is None else spec.corpus.sample_rate)
    with Scorer(cores()) as scorer:
        if spec is None:
            test_set = evaluation.of_folders(cast(Path, noisy), clean, console)
        else:
            data = _corpus(spec, open_workspace(runs, storage, storage_file, corpus), console)
            evaluation.check_models(compared, data, console)
            test_set = evaluation.of_study(spec, data, mixtures, scorer, console)
        systems = {one.name: one.system for one in compared} | others
        results = evaluation.compare(test_set, systems, scorer, console)
    state = comparison.summary(test_set, results)
    if as_json:
        print(json.dumps(state))
    else:
        tables.show(state, stdout())
    if table is not None:
        evaluation.write_csv(table, test_set, results)
    return 0


def _refuse(study: Path | None, noisy: Path | None, clean: Path | None) -> None:
    """Raises BadParameter unless exactly one thing to evaluate on is given."""
    if (study is None) == (noisy is None):
        found = "neither" if study is None else "both"
        raise typer.BadParameter(f"{found} given, expected one of them", param_hint="--study, --noisy")
    if clean is not None and noisy is None:
        raise typer.BadParameter(f"{clean}, expected it with --noisy", param_hint="--clean")


def _systems(baseline: str) -> dict[str, System]:
    """The systems that are asked for, but for the noisy input, which is always there."""
    from quell.evaluation import baselines

    names = [name.strip() for name in baseline.split(",")]
    unknown = [name for name in names if name not in baselines.SYSTEMS]
    if unknown:
        known = ", ".join(baselines.SYSTEMS)
        raise typer.BadParameter(f"{unknown[0]!r}, expected some of {known}", param_hint="--baseline")
    return {name: baselines.system(name) for name in names if name != "noisy"}


def _corpus(spec: StudySpec, place: Workspace, console: Console) -> Corpus:
    from quell_tuning.recordings import exclusions
    from quell_tuning.study.stored_study import corpus_of

    if place.corpus is None:  # the study knows which decoded corpus it was made from
        return corpus_of(open_study(spec.study.name, place), place.runs.corpora)
    return place.open_corpus(spec, console, exclusions.stored(spec, place))
