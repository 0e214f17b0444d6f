"""Commands that show a study to look at and listen to: dashboard, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from quell_tuning.cli.options import (
    ArtifactsOption,
    JsonOption,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyName,
    log_to_stderr,
    open_study,
    open_workspace,
    stderr,
    stdout,
)
from quell_tuning.optuna_private import storage_of


def dashboard(
    study: StudyName = None,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others than this machine's own need a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="TCP port; 0: any that is free.")] = 8080,
    password_file: Annotated[
        Path | None,
        typer.Option("--password-file", help="A file that holds the password. Also QUELL_DASHBOARD_PASSWORD."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Nobody writes notes or deletes anything.")] = False,
    artifacts: ArtifactsOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Trials, sounds and pictures of a study in the browser."""
    from quell_tuning.dashboard import access_control

    password = access_control.password(password_file)
    access_control.check(host, password)

    from quell_tuning.artifacts.artifact_store import open_artifacts
    from quell_tuning.dashboard import page_refresh
    from quell_tuning.dashboard.server import Access, serve

    log_to_stderr()
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored = open_study(study, place)

    def refresh() -> None:
        page_refresh.refresh(stored, storage_of(stored))

    return serve(
        stored,
        open_artifacts(place.artifacts_url, place.runs),
        Access(host, port, password, read_only),
        stderr(),
        refresh,
    )


def report(
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")],
    study: StudyName = None,
    best: Annotated[int, typer.Option("--best", min=1, help="Trials on the leaderboard.")] = 10,
    listen: Annotated[
        int, typer.Option("--listen", min=0, help="Best trials that come with their sounds; about 2 MB each.")
    ] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    artifacts: ArtifactsOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """A study as one HTML page with its sounds inside, for readers without the dashboard."""
    from quell_tuning.artifacts.artifact_store import open_artifacts
    from quell_tuning.report.page import check, write

    if output.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{output}: ends in {output.suffix!r}, expected .html", param_hint="--output")
    check(output, overwrite)
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored = open_study(study, place)
    print(f"{output}: {write(stored, open_artifacts(place.artifacts_url, place.runs), output, best, listen, stderr())}")
    return 0


def status(
    study: StudyName = None,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look every 2 s until all trials have ended.")] = False,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Trials by state, who works on what, the best so far and the time left."""
    from quell_tuning.results import status as state

    stored = open_study(study, open_workspace(runs, storage, storage_file))
    if watch:
        from quell_tuning.results.status import watch as look_on

        look_on(stored, stdout(), as_json=as_json)
    elif as_json:
        print(json.dumps(state.summary(stored)))
    else:
        state.show(state.summary(stored), stdout())
    return 0
