"""Commands that take a trial out of a study: export, reproduce."""

import math
from pathlib import Path
from typing import Annotated

import typer

from quell_tuning.cli.options import (
    ArtifactsOption,
    DeviceOption,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyName,
    complete_trial,
    open_study,
    open_workspace,
    stderr,
    stdout,
)


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write; a card goes beside it.")],
    study: StudyName = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", min=0, help="A trial's number, instead of the best.", autocompletion=complete_trial),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--format", help="torchscript, onnx or pt2; by the suffix of -o without."),
    ] = None,
    licence: Annotated[str, typer.Option("--licence", help="For the card and the file's metadata.")] = "",
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train it again before, on train and validation."),
    ] = False,
    device: DeviceOption = "cpu",
    artifacts: ArtifactsOption = None,
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """The best (or a given) trial as one file, with a model card."""
    from quell.config import FORMATS
    from quell_tuning.export.export_trial import export_best
    from quell_tuning.workers.devices import check_device

    if kind is not None and kind not in FORMATS:
        raise typer.BadParameter(f"{kind!r}, expected one of {', '.join(FORMATS)}", param_hint="--format")
    needed = [FORMATS[kind]] if kind else list(FORMATS.values())
    if output.suffix not in needed:
        found = f"{output}: ends in {output.suffix!r}"
        raise typer.BadParameter(f"{found}, expected {' or '.join(needed)}", param_hint="--output")
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored = open_study(study, place)
    again_on = check_device(device) if refit else None
    made = export_best(stored, place.runs, output, trial, licence=licence, again_on=again_on, console=stderr())
    print(f"{output}: {made.chosen.label}; card: {output.with_suffix('.md')}")
    before, after = made.metadata["validation"]["noisy"], made.metadata["validation"]["denoised"]
    whose = "validation, of the trial before it was trained again: " if refit else "validation: "
    print(whose + ", ".join(f"{name} {value:.3f} (noisy {before[name]:.3f})" for name, value in after.items()))
    print(f"{made.costs.parameters:,} parameters, {made.costs.macs_per_s / 1e6:.0f} M MAC/s")
    latency = "infinite" if math.isinf(made.costs.latency_ms) else f"{made.costs.latency_ms:.0f} ms"
    print(f"latency {latency}" + (f", real-time factor {made.rtf:.4f} on one thread" if made.rtf is not None else ""))
    return 0


def reproduce(
    study: StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="A trial's number.", autocompletion=complete_trial)],
    device: DeviceOption = "cpu",
    runs: RunsOption = Path("runs"),
    storage: StorageOption = None,
    storage_file: StorageFileOption = None,
) -> int:
    """Train a trial again and compare its score; exit 1 when it differs."""
    from quell_tuning.export.retraining import reproduce as train_again
    from quell_tuning.workers.devices import check_device

    place = open_workspace(runs, storage, storage_file)
    used = check_device(device)
    return train_again(open_study(study, place), trial, place.runs, used, stdout(), stderr())
