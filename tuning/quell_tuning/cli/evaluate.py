"""The command evaluate: scores denoisers on a study's test split or on recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from quell.processes import cores
from quell_tuning.cli import options
from quell_tuning.cli.options import load_spec, open_study, open_workspace, stderr, stdout

if TYPE_CHECKING:
    from rich.console import Console

    from quell.corpus.memory_map import Corpus
    from quell.evaluation.baselines import System
    from quell_tuning.study.study_file import StudySpec
    from quell_tuning.workspace.workspace import Workspace


def evaluate(
    models: options.ModelFiles = None,
    study: options.StudyOption = None,
    noisy: Annotated[Path | None, typer.Option(help="A folder of noisy recordings.")] = None,
    clean: Annotated[
        Path | None, typer.Option(help="Their clean versions, under the same paths; DNSMOS estimates if omitted.")
    ] = None,
    baseline: Annotated[
        str, typer.Option(help="Systems to compare with, separated by commas: noisy, spectral-gate, rnnoise.")
    ] = "noisy",
    table: Annotated[Path | None, typer.Option("--csv", help="File to write a row per clip and system to.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the --csv file if it exists.")] = False,
    corpus: options.Corpus = None,
    mixtures: Annotated[
        int, typer.Option(min=6, help="Number of test mixtures of --study, at six SNRs in turn.")
    ] = 240,
    as_json: options.Json = False,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Score denoisers by SNR. On the test split of a study, or on recordings."""
    _check_test_set(study, noisy, clean)
    baselines = _baselines(baseline)
    import torch

    from quell.evaluation import comparison
    from quell.metrics.scorer import Scorer
    from quell_tuning.evaluation import evaluate as evaluation
    from quell_tuning.evaluation import tables
    from quell_tuning.evaluation.systems import named_systems

    if table is not None:
        evaluation.check_csv(table, overwrite)
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
        systems = {one.name: one.system for one in compared} | baselines
        results = evaluation.compare(test_set, systems, scorer, console)
    state = comparison.summary(test_set, results)
    if as_json:
        print(json.dumps(state))
    else:
        tables.show(state, stdout())
    if table is not None:
        evaluation.write_csv(table, test_set, results, overwrite)
    return 0


def _check_test_set(study: Path | None, noisy: Path | None, clean: Path | None) -> None:
    """Raises BadParameter unless either --study or --noisy is given."""
    if (study is None) == (noisy is None):
        number = "neither" if study is None else "both"
        raise typer.BadParameter(f"{number} given, expected one of them", param_hint="--study, --noisy")
    if clean is not None and noisy is None:
        raise typer.BadParameter(f"{clean}, expected it with --noisy", param_hint="--clean")


def _baselines(names_of_systems: str) -> dict[str, System]:
    """The named baselines, without the noisy input, which is always compared."""
    from quell.evaluation import baselines

    names = [name.strip() for name in names_of_systems.split(",")]
    for name in names:
        if name not in baselines.SYSTEMS:
            allowed = ", ".join(baselines.SYSTEMS)
            raise typer.BadParameter(f"{name!r}, expected some of {allowed}", param_hint="--baseline")
    return {name: baselines.system(name) for name in names if name != "noisy"}


def _corpus(spec: StudySpec, place: Workspace, console: Console) -> Corpus:
    from quell_tuning.recordings import exclusions
    from quell_tuning.study.stored_study import corpus_of

    if place.corpus is None:  # the study stores which decoded corpus it uses
        return corpus_of(open_study(spec.study.name, place), place.runs.corpora)
    return place.open_corpus(spec, console, exclusions.stored(spec, place))
