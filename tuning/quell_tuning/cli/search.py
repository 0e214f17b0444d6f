"""Commands that search: demo, studies, tune, worker, status, reproduce, storage serve."""

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from quell_tuning.cli.options import (
    ArtifactsOption,
    CorpusOption,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyFile,
    TrackOption,
    TrialsOption,
    complete_study_file,
    load_spec,
    log_to_stderr,
    open_study,
    open_workspace,
    stderr,
    stdout,
)
from quell_tuning.errors import Interrupted, UsageError


def demo(runs: RunsOption = Path("runs"), study: StudyFile = Path("demo")) -> int:
    """Search, export and denoise on a synthetic corpus."""
    from quell_tuning.cli.demo import demo as run_demo
    from quell_tuning.workspace.run_folder import RunFolder
    from quell_tuning.workspace.workspace import Workspace

    return _ended(run_demo(study, Workspace(RunFolder(runs), RunFolder(runs).storage_url, None), stdout(), stderr()))


def studies(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The one to copy.", autocompletion=complete_study_file)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The new file.")] = None,
) -> int:
    """List the study files that come with Quell, or copy one."""
    from quell_tuning.study.bundled_studies import bundled, purpose

    files = bundled()
    if name is None:
        if output is not None:
            raise typer.BadParameter(f"{output}, expected a name before it", param_hint="--output")
        width = max(map(len, files))
        for known, file in files.items():
            print(f"{known:<{width}}  {purpose(file)}")
        return 0
    if name not in files:
        raise typer.BadParameter(f"{name!r}, expected one of {', '.join(files)}", param_hint="NAME")
    if output is None:
        print(files[name].read_text(encoding="utf-8"), end="")
        return 0
    if output.exists():
        raise UsageError(f"{output}: exists already, expected a new file; name another")
    try:
        output.write_bytes(files[name].read_bytes())
    except OSError as error:
        raise UsageError(f"{output}: {error.strerror}, expected a file that can be written; name another") from None
    print(output)
    return 0


def tune(
    study: StudyFile,
    corpus: CorpusOption = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Worker processes on this machine; one per device without. 0 makes the study only."
        ),
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
    ray: Annotated[
        str | None,
        typer.Option("--ray", metavar="ADDRESS", help="Place the workers on a Ray cluster: HOST:PORT or auto."),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            "--gpus-per-worker",
            min=0,
            help="Of a Ray cluster; 0.25: four workers on a GPU. 1 without, if it has any.",
        ),
    ] = None,
    cpus_per_worker: Annotated[
        float, typer.Option("--cpus-per-worker", min=0, help="Of a Ray cluster; threads of a worker, if 1 or more.")
    ] = 1.0,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave recordings with errors out, and name them on the study.")
    ] = False,
    artifacts: ArtifactsOption = None,
    track: TrackOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Create or continue a study and run it."""
    from dataclasses import replace

    from quell_tuning.results import status as state
    from quell_tuning.trials.starting_points import warm_starts
    from quell_tuning.trials.tracking import check_tracking
    from quell_tuning.workers.devices import check_devices, share_devices
    from quell_tuning.workers.tune import Tune

    log_to_stderr()
    spec = load_spec(study, trials, confirm)
    place = open_workspace(runs, storage, storage_file, corpus, artifacts)
    cluster = None
    if ray is not None:
        from quell_tuning.workers.ray_pool import RayCluster, check_storage

        if not workers or devices or per_gpu > 1:
            found = "--devices or --per-gpu beside it" if workers else "no number of workers"
            raise UsageError(f"--ray: {found}, expected --workers N and --gpus-per-worker SHARE; change the options")
        check_storage(place.storage_url)
        cluster = RayCluster(ray, workers, gpus_per_worker, cpus_per_worker)
    names = [name.strip() for name in devices.split(",") if name.strip()]
    used = share_devices(check_devices(names), per_gpu, workers) if cluster is None else []
    check_tracking(track)
    console = stderr()
    first: list[dict[str, Any]] = []
    if warm_start is not None:
        other = replace(place, storage_url=warm_start_storage or place.storage_url)
        first, beside = warm_starts(open_study(warm_start, other), spec, warm_start_best)
        console.print(f"warm start: {len(first)} trials of {warm_start}; {beside} lie outside the search")
    search = Tune(spec, study, place, used, console, first, track, skip_bad, cluster)
    with nullcontext() if cluster is None else cluster.connected():
        code, studies = search.run(presets=presets)
    for stored in studies:
        state.show(state.summary(stored), stdout())
    return _ended(code)


def worker(
    study: StudyFile,
    corpus: CorpusOption = None,
    device: Annotated[
        str, typer.Option("--device", help="cpu, cuda:<number>, or auto: the GPU that fewest workers have.")
    ] = "auto",
    part: Annotated[
        str, typer.Option("--part", help="search, or presets or confirm: the studies beside it.")
    ] = "search",
    artifacts: ArtifactsOption = None,
    track: TrackOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """One more worker, on this machine, for an existing study."""
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
    if device != devices.AUTO:
        devices.check_device(device, also=f" or {devices.AUTO}")
    check_tracking(track)
    place = open_workspace(runs, storage, storage_file, corpus, artifacts)
    with devices.choose(device, place.runs.folder / "devices") as claim:
        return _ended(join(spec, part, place, claim.device, stderr(), track))


def serve(
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="TCP port.")] = 13000,
    host: Annotated[str, typer.Option("--host", help="Address to listen on; nobody is asked for a password.")] = (
        "127.0.0.1"
    ),
    processes: Annotated[
        int, typer.Option("--processes", min=1, help="That share the clients; each can use one core.")
    ] = 1,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Optuna's gRPC proxy in front of a database, for very many workers."""
    from quell_tuning.storage.grpc_server import Backend
    from quell_tuning.storage.grpc_server import serve as run_server

    log_to_stderr()
    place = open_workspace(runs, storage, storage_file)
    return run_server(Backend(place.storage_url, place.runs.postgres), host, port, processes, stderr())


def _ended(code: int) -> int:
    """Says how a search goes on that was asked to stop: all but 0 is 130 or 143."""
    if code:
        raise Interrupted(code, "trials are handed back, and the same command goes on with them")
    return code
