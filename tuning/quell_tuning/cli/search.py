"""Commands that search: demo, studies, tune, worker, storage serve."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from quell_tuning import environment
from quell_tuning.cli import options
from quell_tuning.cli.options import (
    complete_study_file,
    load_spec,
    local_workspace,
    log_to_stderr,
    open_study,
    open_workspace,
    stderr,
    stdout,
)
from quell_tuning.errors import Interrupted, TuningError, UsageError


def demo(runs: options.Runs = Path("runs"), study: options.StudyFile = Path("demo")) -> int:
    """Search, export and denoise on a synthetic corpus."""
    from quell_tuning.cli.demo import demo as run_demo

    return _exit_code(run_demo(study, local_workspace(runs), stdout(), stderr()))


def studies(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The study file to copy.", autocompletion=complete_study_file)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file to write; printed if omitted.")
    ] = None,
) -> int:
    """List the included study files, or copy one."""
    from quell.atomic import replacing
    from quell_tuning.study.bundled_studies import bundled, purpose

    files = bundled()
    if name is None:
        if output is not None:
            raise typer.BadParameter(f"{output}, expected a name before it", param_hint="--output")
        width = max(map(len, files))
        for title, file in files.items():
            print(f"{title:<{width}}  {purpose(file)}")
        return 0
    if name not in files:
        raise typer.BadParameter(f"{name!r}, expected one of {', '.join(files)}", param_hint="NAME")
    if output is None:
        print(files[name].read_text(encoding="utf-8"), end="")
        return 0
    if output.exists():
        raise UsageError(f"{output}: exists already, expected a new file; name another")
    try:
        with replacing(output, overwrite=False) as partial:
            partial.write_bytes(files[name].read_bytes())
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}, expected a file that can be written; name another") from None
    print(output)
    return 0


def tune(
    study: options.StudyFile,
    corpus: options.Corpus = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, help="Worker processes on this machine; one per device if omitted. 0 only creates the study."
        ),
    ] = None,
    devices: Annotated[str, typer.Option(help="cpu, cuda:0,cuda:1, ...; assigned to the workers in turn.")] = "",
    per_gpu: Annotated[int, typer.Option(min=1, help="Workers per device.")] = 1,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Total number of trials, instead of the study file's.")
    ] = None,
    presets: Annotated[
        bool, typer.Option("--presets", help="Also train the presets, outside the search, in the study NAME-presets.")
    ] = False,
    confirm: Annotated[
        int | None, typer.Option(min=0, help="At the end, train the best N trials with two more seeds.")
    ] = None,
    warm_start: Annotated[str | None, typer.Option(help="A study whose best trials are run first.")] = None,
    warm_start_storage: Annotated[str | None, typer.Option(help="The storage of that study, if another.")] = None,
    warm_start_best: Annotated[int, typer.Option(min=1, help="Number of its best trials to run.")] = 5,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run the workers on a Ray cluster: HOST:PORT or auto.")
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of a Ray cluster; 0.25 puts four workers on a GPU. If omitted, 1 where the cluster has GPUs."
        ),
    ] = None,
    cpus_per_worker: Annotated[
        float, typer.Option(min=0, help="Of a Ray cluster; 1 or more is also the threads per worker.")
    ] = 1.0,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run trials again that failed because their workers were lost.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out recordings with errors, and list them in the study.")
    ] = False,
    artifacts: options.Artifacts = None,
    track: options.Track = None,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Create or continue a study and run it."""
    from quell_tuning.results import status as state
    from quell_tuning.trials.starting_points import warm_starts
    from quell_tuning.trials.tracking import check_tracking
    from quell_tuning.workers.devices import check_devices, share_devices
    from quell_tuning.workers.ray_pool import RayCluster, check_storage
    from quell_tuning.workers.tune import Tune

    log_to_stderr()
    spec, console = load_spec(study, trials, confirm), stderr()
    place = open_workspace(runs, storage, storage_file, corpus, artifacts)
    if ray is None:
        names = [name.strip() for name in devices.split(",") if name.strip()]
        cluster, worker_devices = None, share_devices(check_devices(names), per_gpu, workers)
    elif not workers or devices or per_gpu > 1:
        problem = "--devices or --per-gpu beside it" if workers else "no number of workers"
        raise UsageError(f"--ray: {problem}, expected --workers N and --gpus-per-worker SHARE; change the options")
    else:
        check_storage(place.storage_url)
        cluster, worker_devices = RayCluster(ray, workers, gpus_per_worker, cpus_per_worker), []
    check_tracking(track)
    starts: list[dict[str, Any]] = []
    if warm_start is not None:
        other = replace(place, storage_url=warm_start_storage or place.storage_url)
        starts, outside = warm_starts(open_study(warm_start, other), spec, warm_start_best)
        console.print(f"warm start: {len(starts)} trials of {warm_start}; {outside} lie outside the search")
    search = Tune(spec, study, place, worker_devices, console, starts, track, skip_bad, retry_failed, cluster)
    with nullcontext() if cluster is None else cluster.connected():
        code, studies = search.run(presets=presets)
    summaries = [state.summary(stored) for stored in studies]
    for summary in summaries:
        state.show(summary, stdout())
    if code == 0 and summaries[0]["done"] and summaries[0]["best"] is None:
        raise TuningError(state.without_best(studies[0]))
    return _exit_code(code)


def worker(
    study: options.StudyFile,
    corpus: options.Corpus = None,
    device: Annotated[str, typer.Option(help="cpu, cuda:N, or auto: the GPU with the fewest workers.")] = "auto",
    part: Annotated[str, typer.Option(help="search, or one of its sub-studies: presets, confirm.")] = "search",
    artifacts: options.Artifacts = None,
    track: options.Track = None,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Add a worker, on this machine, to an existing study."""
    from quell_tuning.study.substudies import PARTS
    from quell_tuning.trials.tracking import check_tracking
    from quell_tuning.workers import devices
    from quell_tuning.workers.joining import join
    from quell_tuning.workers.worker import end_with_pool

    log_to_stderr()
    end_with_pool()
    if part not in PARTS:
        raise typer.BadParameter(f"{part!r}, expected one of {', '.join(PARTS)}", param_hint="--part")
    spec = load_spec(study)
    check_tracking(track)
    place = open_workspace(runs, storage, storage_file, corpus, artifacts)
    with devices.choose(device, place.runs.folder / "devices") as claim:
        return _exit_code(join(spec, part, place, claim.device, stderr(), track))


def serve(
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 13000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file with the token that clients must send; without one, all who can connect may change studies. "
            f"Also {environment.STORAGE_TOKEN_FILE.name}, which clients read."
        ),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Server processes that share the clients; each uses one core.")
    ] = 1,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Serve a database through Optuna's gRPC proxy, for many workers."""
    from quell_tuning.storage.grpc_server import Backend
    from quell_tuning.storage.grpc_server import serve as run_server
    from quell_tuning.storage.urls import proxy_token

    log_to_stderr()
    place = open_workspace(runs, storage, storage_file)
    backend = Backend(place.storage_url, proxy_token(token_file), place.runs.postgres)
    return run_server(backend, host, port, processes, stderr())


def upgrade(
    runs: options.Runs = Path("runs"), storage: options.Storage = None, storage_file: options.StorageFile = None
) -> int:
    """Upgrade the tables of an older Optuna; a copy of an SQLite file stays beside it."""
    from quell_tuning.storage.backends import upgrade_storage

    place, console = open_workspace(runs, storage, storage_file), stderr()
    before, after, saved = upgrade_storage(place.storage_url, place.runs.postgres)
    text = f"tables of revision {after}" + ("" if before == after else f", before of {before}")
    kept = f"; the file of before is {saved}" if saved else ""
    console.print(f"{text}{kept}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _exit_code(code: int) -> int:
    """The exit code of a search, or Interrupted with advice: all but 0 is 130 or 143."""
    if code:
        raise Interrupted(code, "the same command resumes its trials where they stopped")
    return code
