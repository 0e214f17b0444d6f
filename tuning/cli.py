"""The command `quell`. Results go to stdout, logs and progress to stderr; exit 0 done, 1 failed, 2 wrong usage.

Heavy imports happen inside the command that needs them.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tuning.study_file import StudySpec
    from tuning.tune import Place

app = typer.Typer(
    help="Find, train and ship a speech denoiser for your noise, your voices and your compute budget.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study file, or a study's name; the latest study without it.")
]
RunsOption = Annotated[Path, typer.Option("--runs", envvar="QUELL_RUNS", help="Folder for database, weights and logs.")]
StorageOption = Annotated[
    str | None, typer.Option("--storage", envvar="QUELL_STORAGE", help="Optuna storage URL; RUNS/quell.db without it.")
]
CorpusOption = Annotated[
    Path | None,
    typer.Option("--corpus", envvar="QUELL_CORPUS", help="Folder that the study's clean and noise folders are in."),
]
TrialsOption = Annotated[
    int | None, typer.Option("--trials", min=1, help="Trials in all, instead of the study file's.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def demo(runs: RunsOption = Path("runs"), study: StudyFile = Path("studies/demo.toml")) -> int:
    """Search, export and denoise on a synthetic corpus."""
    from tuning.demo import demo as run_demo

    return run_demo(study, _place(runs, None, None), _stdout(), _stderr())


@app.command()
def tune(
    study: StudyFile,
    corpus: CorpusOption = None,
    workers: Annotated[int, typer.Option("--workers", min=1, help="Worker processes on this machine.")] = 1,
    devices: Annotated[
        str, typer.Option("--devices", help="cpu, cuda:0,cuda:1, ...; given to the workers in turn.")
    ] = "",
    trials: TrialsOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
) -> int:
    """Create or continue a study and run it."""
    from tuning import status as state
    from tuning.tune import check_devices
    from tuning.tune import tune as run_study

    spec = _spec(study, trials)
    used = check_devices([name.strip() for name in devices.split(",") if name.strip()])
    code, stored = run_study(spec, study, _place(runs, storage, corpus), workers, used, _stderr())
    if code:
        print("quell: interrupted, trials handed back; the same command goes on with them", file=sys.stderr)
    state.show(state.summary(stored), _stdout())
    return code


@app.command()
def worker(
    study: StudyFile,
    corpus: CorpusOption = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda:<number>.")] = "cpu",
    trials: TrialsOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
) -> int:
    """One more worker, on this machine, for an existing study."""
    import logging

    import optuna

    from tuning.storage import create_study, open_storage
    from tuning.tune import check_devices
    from tuning.worker import work

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = _spec(study, trials)
    used = check_devices([device])[0]
    place = _place(runs, storage, corpus)
    console = _stderr()
    data = place.open_corpus(spec, console)
    database = open_storage(place.storage_url)
    stored = create_study(spec, data, database)
    return work(spec, data, stored, database, place.runs, used, console)


@app.command()
def status(
    study: StudyName = None,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
) -> int:
    """Trials by state and the best so far."""
    from tuning import status as state

    summary = state.summary(_stored(study, _place(runs, storage, None)))
    if as_json:
        print(json.dumps(summary))
    else:
        state.show(summary, _stdout())
    return 0


@app.command()
def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, ending in .pt.")],
    study: StudyName = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="A trial's number, instead of the best.")] = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
) -> int:
    """The best (or a given) trial as one TorchScript file."""
    from tuning.exporting import export_best

    if output.suffix != ".pt":
        raise typer.BadParameter(f"{output}: ends in {output.suffix!r}, expected .pt", param_hint="--output")
    place = _place(runs, storage, None)
    stored = _stored(study, place)
    chosen, costs, rtf = export_best(stored, place.runs, output, trial)
    score = stored.user_attrs["spec"]["study"]["score"]
    noisy = stored.user_attrs["noisy"][score]
    reached = f"validation {score} {chosen.value:.3f} (noisy {noisy:.3f})"
    print(f"{output}: trial {chosen.number} of {stored.study_name}, {reached}")
    latency = "infinite" if math.isinf(costs.latency_ms) else f"{costs.latency_ms:.0f} ms"
    print(f"{costs.parameters:,} parameters, {costs.macs_per_s / 1e6:.0f} M MAC/s")
    print(f"latency {latency}, real-time factor {rtf:.4f} on one thread")
    return 0


@app.command()
def denoise(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file made by `quell export`.")],
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Recordings and folders of recordings.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A file for one recording, else a folder.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> int:
    """Clean recordings; rate, length and format are kept."""
    from quell import enhance
    from quell.export import load
    from tuning import progress

    jobs = enhance.plan(inputs, output, overwrite=overwrite)
    loaded = load(model)
    console = _stderr()
    failed = 0
    with progress.bar("denoising", console) as move:
        for error in enhance.run(jobs, loaded, move):
            failed += 1
            console.print(f"quell: {error}", highlight=False)
    print(f"{len(jobs) - failed} of {len(jobs)} recordings denoised to {output}")
    return 1 if failed else 0


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file made by `quell export`.")],
    study: Annotated[Path, typer.Option("--study", help="The study file whose test split is used.")],
    corpus: CorpusOption = None,
    mixtures: Annotated[int, typer.Option("--mixtures", min=6, help="Test mixtures, at six SNRs in turn.")] = 240,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
) -> int:
    """Score a denoiser on the test split, by SNR."""
    import os

    from quell.corpus import open_store
    from quell.export import load
    from quell.scoring import Scorer
    from tuning import evaluation

    spec = _spec(study, None)
    loaded = load(model)
    place = _place(runs, storage, corpus)
    console = _stderr()
    if corpus is None:  # the study knows which decoded corpus it was made from
        data = open_store(place.runs.corpora / _stored(spec.study.name, place).user_attrs["corpus"])
    else:
        data = place.open_corpus(spec, console)
    if loaded.metadata.get("corpus") != data.fingerprint:
        console.print(f"quell: {model}: trained on another corpus, whose training recordings may be in this test split")
    with Scorer(len(os.sched_getaffinity(0))) as scorer:
        summary = evaluation.summary(*evaluation.test_scores(loaded, spec, data, scorer, mixtures, console))
    if as_json:
        print(json.dumps(summary))
    else:
        evaluation.show(summary, _stdout())
    return 0


def _spec(study: Path, trials: int | None) -> StudySpec:
    from tuning import study_file

    spec = study_file.load(study)
    if trials is None:
        return spec
    return spec.model_copy(update={"study": spec.study.model_copy(update={"trials": trials})})


def _place(runs: Path, storage: str | None, corpus: Path | None) -> Place:
    from tuning.storage import Runs
    from tuning.tune import Place

    folder = Runs(runs)
    return Place(folder, storage or folder.storage_url, corpus)


def _stored(study: str | None, place: Place) -> Any:
    import optuna

    from tuning.storage import load_study, open_storage

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = _spec(Path(study), None).study.name if study is not None and study.endswith(".toml") else study
    return load_study(name, open_storage(place.storage_url))


def _stdout() -> Console:
    return _console(sys.stdout)


def _stderr() -> Console:
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    from rich.console import Console

    console = Console(file=file)
    # Piped, rich assumes 80 columns and cuts names.
    return console if console.is_terminal else Console(file=file, width=400, soft_wrap=True)


def main() -> None:
    """Runs the command line; every expected error is one line on stderr."""
    from quell.errors import DenoiserError
    from tuning.errors import TuningError, UsageError

    # typer keeps its copy of click to itself; its public BadParameter derives from click's base of usage errors.
    usage_errors: type[Exception] = typer.BadParameter.__mro__[2]
    arguments = sys.argv[1:] or ["--help"]
    try:
        code = app(arguments, standalone_mode=False)
    except usage_errors as error:
        print(f"quell: {_one_line(error.format_message())}; see `quell --help`", file=sys.stderr)  # type: ignore[attr-defined]
        sys.exit(2)
    except (DenoiserError, TuningError) as error:
        print(f"quell: {_one_line(str(error))}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except (KeyboardInterrupt, typer.Abort):
        print("quell: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    main()
