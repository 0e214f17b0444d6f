"""The command `quell`. Results go to stdout, logs and progress to stderr; exit 0 done, 1 failed, 2 wrong usage.

Heavy imports happen inside the command that needs them.
"""

from __future__ import annotations

import json
import math
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from tuning.place import Place
    from tuning.study_file import StudySpec

app = typer.Typer(
    help="Find, train and ship a speech denoiser for your noise, your voices and your compute budget.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
storage_app = typer.Typer(help="The database of the studies.", rich_markup_mode=None, no_args_is_help=True)
app.add_typer(storage_app, name="storage")

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="A study file (TOML).")]
StudyName = Annotated[
    str | None, typer.Argument(metavar="[STUDY]", help="A study file, or a study's name; the latest study without it.")
]
RunsOption = Annotated[Path, typer.Option("--runs", envvar="QUELL_RUNS", help="Folder for database, weights and logs.")]
StorageOption = Annotated[
    str | None,
    typer.Option(
        "--storage",
        help="sqlite:///FILE, postgresql+psycopg://..., grpc://HOST:PORT, or postgres for a server of our own under "
        "RUNS. Also QUELL_STORAGE; RUNS/quell.db without any.",
    ),
]
StorageFileOption = Annotated[
    Path | None, typer.Option("--storage-file", help="A file that holds the storage URL, for one with a password.")
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
    from tuning.place import Place
    from tuning.runs import Runs

    return run_demo(study, Place(Runs(runs), Runs(runs).storage_url, None), _stdout(), _stderr())


@app.command()
def tune(
    study: StudyFile,
    corpus: CorpusOption = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Worker processes on this machine; one per device without.")
    ] = None,
    devices: Annotated[
        str, typer.Option("--devices", help="cpu, cuda:0,cuda:1, ...; given to the workers in turn.")
    ] = "",
    per_gpu: Annotated[int, typer.Option("--per-gpu", min=1, help="Workers that share a device.")] = 1,
    trials: TrialsOption = None,
    presets: Annotated[
        bool, typer.Option("--presets", help="Train the presets outside the search too, in the study NAME-presets.")
    ] = False,
    confirm: Annotated[
        int | None, typer.Option("--confirm", min=0, help="Train so many of the best with two more seeds at the end.")
    ] = None,
    warm_start: Annotated[
        str | None, typer.Option("--warm-start", help="A study whose best trials are tried first.")
    ] = None,
    warm_start_storage: Annotated[
        str | None, typer.Option("--warm-start-storage", help="The storage of that study, where it is another one.")
    ] = None,
    warm_start_best: Annotated[int, typer.Option("--warm-start-best", min=1, help="How many of its best trials.")] = 5,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Create or continue a study and run it."""
    from dataclasses import replace

    from tuning import status as state
    from tuning.parts import warm_starts
    from tuning.place import check_devices, share_devices
    from tuning.tune import Tune

    _log()
    spec = _spec(study, trials, confirm)
    used = check_devices([name.strip() for name in devices.split(",") if name.strip()])
    place = _place(runs, storage, storage_file, corpus)
    console = _stderr()
    first: list[dict[str, Any]] = []
    if warm_start is not None:
        other = replace(place, storage_url=warm_start_storage or place.storage_url)
        first, beside = warm_starts(_stored(warm_start, other), spec, warm_start_best)
        console.print(f"warm start: {len(first)} trials of {warm_start}; {beside} lie outside the search")
    code, stored = Tune(spec, study, place, share_devices(used, per_gpu, workers), console, first).run(presets=presets)
    if code:
        print("quell: interrupted, trials handed back; the same command goes on with them", file=sys.stderr)
    state.show(state.summary(stored), _stdout())
    return code


@app.command()
def worker(
    study: StudyFile,
    corpus: CorpusOption = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda:<number>.")] = "cpu",
    part: Annotated[
        str, typer.Option("--part", help="search, or presets or confirm: the studies beside it.")
    ] = "search",
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """One more worker, on this machine, for an existing study."""
    from tuning.joining import join
    from tuning.parts import PARTS
    from tuning.place import check_devices

    _log()
    if part not in PARTS:
        raise typer.BadParameter(f"{part!r}, expected one of {', '.join(PARTS)}", param_hint="--part")
    spec = _spec(study, None)
    used = check_devices([device])[0]
    return join(spec, part, _place(runs, storage, storage_file, corpus), used, _stderr())


@app.command()
def reproduce(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="A trial's number.")],
    device: Annotated[str, typer.Option("--device", help="cpu or cuda:<number>.")] = "cpu",
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Train a trial again and compare its score; exit 1 when it differs."""
    from tuning.place import check_devices
    from tuning.reproduce import reproduce as train_again

    place = _place(runs, storage, storage_file, None)
    used = check_devices([device])[0]
    return train_again(_stored(study, place), trial, place.runs, used, _stdout(), _stderr())


@storage_app.command()
def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port.")] = 13000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; nobody is asked for a password.")] = (
        "127.0.0.1"
    ),
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Optuna's gRPC proxy in front of a database, for very many workers."""
    from tuning.serving import serve as run_server

    _log()
    return run_server(_place(runs, storage, storage_file, None), host, port, _stderr())


@app.command()
def status(
    study: StudyName = None,
    as_json: JsonOption = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Trials by state and the best so far."""
    from tuning import status as state

    summary = state.summary(_stored(study, _place(runs, storage, storage_file, None)))
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
    storage_file: StorageFileOption = None,
) -> int:
    """The best (or a given) trial as one TorchScript file."""
    from tuning.exporting import export_best
    from tuning.study import metric

    if output.suffix != ".pt":
        raise typer.BadParameter(f"{output}: ends in {output.suffix!r}, expected .pt", param_hint="--output")
    place = _place(runs, storage, storage_file, None)
    stored = _stored(study, place)
    chosen, costs, rtf = export_best(stored, place.runs, output, trial)
    score = metric(stored)
    noisy = stored.user_attrs["noisy"][score]
    reached = f"validation {score} {chosen.value:.3f} (noisy {noisy:.3f})"
    print(f"{output}: {chosen.label}, {reached}")
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
    storage_file: StorageFileOption = None,
) -> int:
    """Score a denoiser on the test split, by SNR."""
    import os

    from quell.corpus import open_store
    from quell.export import load
    from quell.scoring import Scorer
    from tuning import evaluation

    spec = _spec(study, None)
    loaded = load(model)
    place = _place(runs, storage, storage_file, corpus)
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


def _spec(study: Path, trials: int | None, confirm: int | None = None) -> StudySpec:
    from tuning import study_file

    return study_file.load(study, trials=trials, confirm=confirm)


def _place(runs: Path, storage: str | None, storage_file: Path | None, corpus: Path | None) -> Place:
    from tuning.place import Place, storage_url
    from tuning.runs import Runs

    folder = Runs(runs)
    return Place(folder, storage_url(storage, storage_file, folder), corpus)


def _stored(study: str | None, place: Place) -> Any:
    import optuna

    from tuning.study import load_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = _spec(Path(study), None).study.name if study is not None and study.endswith(".toml") else study
    return load_study(name, place.open_storage())


def _log() -> None:
    """Notes of what happens go to stderr, with the time."""
    import logging

    import optuna

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves as it does at its end; workers have their own way
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
