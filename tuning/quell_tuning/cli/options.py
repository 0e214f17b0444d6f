"""Options that commands share, and the objects they are turned into: specification, workspace, study, consoles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quell_tuning import environment

if TYPE_CHECKING:
    import optuna
    from rich.console import Console

    from quell_tuning.study.study_file import StudySpec
    from quell_tuning.workspace.workspace import Workspace


def _find_study(context: typer.Context, study: Path | None) -> Path | None:
    """The study file of a path or a name; prints which file a name stands for."""
    from quell_tuning.study.bundled_studies import find

    file = study and find(study)
    if file != study and not context.resilient_parsing:
        print(f"study {study}: {file}", file=sys.stderr)
    return file


def complete_study_file(incomplete: str) -> list[str]:
    """Completes the name of a study file of the package."""
    from quell_tuning.study.bundled_studies import bundled

    return [name for name in bundled() if name.startswith(incomplete)]


def _database(context: typer.Context) -> Path | None:
    """The SQLite file of a command line that is being completed; None for any other storage."""
    url = context.params.get("storage") or context.params.get("storage_file") or environment.STORAGE.get()
    return None if url else Path(context.params.get("runs") or "runs") / "quell.db"


def _complete_study_name(context: typer.Context, incomplete: str) -> list[str]:
    from quell_tuning.sqlite_file import study_names

    file = _database(context)
    return [name for name in study_names(file) if name.startswith(incomplete)] if file else []


def complete_trial(context: typer.Context, incomplete: str) -> list[str]:
    """Completes the number of a completed trial of the study."""
    from quell_tuning.sqlite_file import completed_trials

    # While the value of an option is completed, arguments are not assigned yet.
    file, study = _database(context), context.params.get("study") or next(iter(context.args), None)
    numbers = completed_trials(file, study) if file and study else []
    return [str(number) for number in numbers if str(number).startswith(incomplete)]


StudyFile = Annotated[
    Path,
    typer.Argument(
        metavar="STUDY",
        help="A study file (TOML), or the name of one that `quell studies` lists.",
        callback=_find_study,
        autocompletion=complete_study_file,
    ),
]
StudyName = Annotated[
    str | None,
    typer.Argument(
        metavar="[STUDY]",
        help="A study file, or a study's name; the latest study if omitted.",
        autocompletion=_complete_study_name,
    ),
]
StudyOption = Annotated[
    Path | None,
    typer.Option(
        help="A study file, or the name of one, whose test split is used.",
        callback=_find_study,
        autocompletion=complete_study_file,
    ),
]
ModelFiles = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Files made by `quell export`, FILE@RATE for third-party TorchScript or ONNX models, or quell for the "
        "included model (also if omitted). The table by SNR is about the first. A .pt file is a program: from others, "
        "take .onnx.",
    ),
]
Runs = Annotated[Path, typer.Option(envvar=environment.RUNS.name, help="Folder for the database, weights and logs.")]
Storage = Annotated[
    str | None,
    typer.Option(
        help="sqlite:///FILE, postgresql+psycopg://..., grpc://HOST:PORT, or postgres for a server that Quell starts "
        f"under RUNS. Also {environment.STORAGE.name}; RUNS/quell.db if omitted.",
    ),
]
StorageFile = Annotated[
    Path | None, typer.Option(help="A file that contains the storage URL, for a URL with a password.")
]
Artifacts = Annotated[
    str | None,
    typer.Option(
        envvar=environment.ARTIFACTS.name,
        help="Folder or s3://BUCKET/PREFIX for sounds and pictures; a bucket also stores weights and checkpoints, for "
        "workers on other machines. RUNS/artifacts if omitted.",
    ),
]
Track = Annotated[str | None, typer.Option(help="wandb: also log every trial as a run of Weights & Biases.")]
Corpus = Annotated[
    Path | None,
    typer.Option(envvar=environment.CORPUS.name, help="Folder that contains the study's clean and noise folders."),
]
Device = Annotated[str, typer.Option(help="cpu or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def load_spec(study: Path, trials: int | None = None, confirm: int | None = None) -> StudySpec:
    """The specification of a study file, with other numbers of trials and confirmations if they are given."""
    from quell_tuning.study import study_file

    return study_file.load(study, trials=trials, confirm=confirm)


def open_workspace(
    runs: Path,
    storage: str | None,
    storage_file: Path | None,
    corpus: Path | None = None,
    artifacts: str | None = None,
) -> Workspace:
    """The folders and the storage of a command."""
    from quell_tuning.storage.urls import storage_url
    from quell_tuning.workspace.bucket_mirror import open_mirror
    from quell_tuning.workspace.run_folder import RunFolder
    from quell_tuning.workspace.workspace import Workspace

    folder = RunFolder(runs, open_mirror(artifacts, runs))
    return Workspace(folder, storage_url(storage, storage_file, folder.storage_url), corpus, artifacts)


def local_workspace(runs: Path, corpus: Path | None = None) -> Workspace:
    """The workspace of a command without --storage: its database is RUNS/quell.db, whatever QUELL_STORAGE is."""
    from quell_tuning.workspace.run_folder import RunFolder
    from quell_tuning.workspace.workspace import Workspace

    folder = RunFolder(runs)
    return Workspace(folder, folder.storage_url, corpus)


def open_study(study: str | None, place: Workspace) -> optuna.Study:
    """The stored study of a study file or of a name, else the latest."""
    import optuna

    from quell_tuning.study.stored_study import load_study

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = load_spec(Path(study)).study.name if study is not None and study.endswith(".toml") else study
    return load_study(name, place.open_storage())


def log_to_stderr() -> None:
    """Logs to stderr, with timestamps."""
    import logging

    import optuna

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def stdout() -> Console:
    return _console(sys.stdout)


def stderr() -> Console:
    return _console(sys.stderr)


def _console(file: Any) -> Console:
    from rich.console import Console

    console = Console(file=file)
    # Piped, rich assumes 80 columns and cuts names.
    return console if console.is_terminal else Console(file=file, width=400, soft_wrap=True)
