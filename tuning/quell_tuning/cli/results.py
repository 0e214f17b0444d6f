"""Commands that show the results of a study: dashboard, report, status."""

import json
from pathlib import Path
from typing import Annotated

import typer

from quell_tuning import environment
from quell_tuning.cli import options
from quell_tuning.cli.options import log_to_stderr, open_study, open_workspace, stderr, stdout


def dashboard(
    study: options.StudyName = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port; 0 chooses a free one.")] = 8080,
    password_file: Annotated[
        Path | None,
        typer.Option(help=f"A file that contains the password. Also {environment.DASHBOARD_PASSWORD.name}."),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Allow no notes and no deletions.")] = False,
    artifacts: options.Artifacts = None,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Show trials, sounds and pictures of a study in the browser."""
    from quell_tuning.dashboard import access_control

    password = access_control.password(password_file)
    access_control.check(host, password)

    from quell_tuning.artifacts.artifact_store import open_artifacts
    from quell_tuning.dashboard.server import Access, serve

    log_to_stderr()
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored, store = open_study(study, place), open_artifacts(place.artifacts_url, place.runs)
    return serve(stored, store, Access(host, port, password, read_only), stderr())


def report(
    output: Annotated[Path, typer.Option("-o", "--output", help="The HTML file to write.")],
    study: options.StudyName = None,
    best: Annotated[int, typer.Option(min=1, help="Number of trials on the leaderboard.")] = 10,
    listen: Annotated[int, typer.Option(min=0, help="Number of best trials with sounds; about 2 MB each.")] = 3,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
    artifacts: options.Artifacts = None,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Write a study as one HTML page with sounds. For readers without the dashboard."""
    from quell_tuning.artifacts.artifact_store import open_artifacts
    from quell_tuning.report.page import check, write

    if output.suffix.lower() not in (".html", ".htm"):
        raise typer.BadParameter(f"{output}: ends in {output.suffix!r}, expected .html", param_hint="--output")
    check(output, overwrite)
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored = open_study(study, place)
    store = open_artifacts(place.artifacts_url, place.runs)
    summary = write(stored, store, output, best, listen, stderr(), overwrite=overwrite)
    print(f"{output}: {summary}")
    return 0


def status(
    study: options.StudyName = None,
    as_json: options.Json = False,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh every 2 s until all trials have ended.")] = False,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Show the progress of a study. Trials by state, running workers, the best trials and the time left."""
    from quell_tuning.results import status as state

    stored = open_study(study, open_workspace(runs, storage, storage_file))
    if watch:
        state.watch(stored, stdout(), as_json=as_json)
    elif as_json:
        print(json.dumps(state.summary(stored)))
    else:
        state.show(state.summary(stored), stdout())
    return 0
