"""Commands on one trial of a study: export, reproduce."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell.config import FORMATS
from quell_tuning.cli import options
from quell_tuning.cli.options import complete_trial, open_study, open_workspace, stderr, stdout

if TYPE_CHECKING:
    from quell_tuning.export.model_card import ExportedTrial


def export(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="The file to write; the model card is written beside it.")
    ],
    study: options.StudyName = None,
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Number of the trial; the best if omitted.", autocompletion=complete_trial),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--format", help=f"One of {', '.join(FORMATS)}; by the suffix of -o if omitted.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence to state in the model card and the metadata.")] = "",
    refit: Annotated[bool, typer.Option("--refit", help="First train it again, on train and validation.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file and its card if they exist.")
    ] = False,
    device: options.Device = "cpu",
    artifacts: options.Artifacts = None,
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Export the best trial as one file with a model card. Or another trial, see --trial."""
    from quell_tuning.export.export_trial import export_best
    from quell_tuning.workers.devices import check_device

    if kind is not None and kind not in FORMATS:
        raise typer.BadParameter(f"{kind!r}, expected one of {', '.join(FORMATS)}", param_hint="--format")
    suffixes = [FORMATS[kind]] if kind else list(FORMATS.values())
    if output.suffix not in suffixes:
        problem = f"{output}: ends in {output.suffix!r}, expected {' or '.join(suffixes)}"
        raise typer.BadParameter(problem, param_hint="--output")
    place = open_workspace(runs, storage, storage_file, artifacts=artifacts)
    place.runs.check(write=False)
    stored = open_study(study, place)
    again_on = check_device(device) if refit else None
    exported = export_best(
        stored, place.runs, output, trial, licence=licence, again_on=again_on, overwrite=overwrite, console=stderr()
    )
    print(f"{output}: {exported.chosen.label}; card: {output.with_suffix('.md')}")
    print(validation_line(exported, refit=refit))
    print(f"{exported.costs.parameters:,} parameters, {exported.costs.macs_per_s / 1e6:.0f} M MAC/s")
    latency = "infinite" if math.isinf(exported.costs.latency_ms) else f"{exported.costs.latency_ms:.0f} ms"
    rtf = "" if exported.rtf is None else f", real-time factor {exported.rtf:.4f} on one thread"
    print(f"latency {latency}{rtf}")
    return 0


def validation_line(exported: "ExportedTrial", *, refit: bool) -> str:
    """The file's own scores, or the trial's where the file was not scored."""
    stored, own = exported.metadata["validation"], exported.validation
    before, after = (own.noisy.means(), own.denoised.means()) if own else (stored["noisy"], stored["denoised"])
    scores = ", ".join(f"{name} {value:.3f} (noisy {before[name]:.3f})" for name, value in after.items())
    if own is not None:
        reason = exported.uncompared
        return f"validation: {scores}" + (f"; not compared with the trial: {reason}" if reason else "")
    heading = "validation, measured before refitting" if refit else "validation of the trial, the file was not scored"
    return f"{heading}: {scores or 'no scores'}"


def reproduce(
    study: options.StudyName,
    trial: Annotated[int, typer.Argument(metavar="TRIAL", help="Number of the trial.", autocompletion=complete_trial)],
    device: options.Device = "cpu",
    runs: options.Runs = Path("runs"),
    storage: options.Storage = None,
    storage_file: options.StorageFile = None,
) -> int:
    """Train a trial again and compare its score. Exits with 1 if it differs."""
    from quell_tuning.export.retraining import reproduce as train_again
    from quell_tuning.workers.devices import check_device

    place = open_workspace(runs, storage, storage_file)
    check_device(device)
    return train_again(open_study(study, place), trial, place.runs, device, stdout(), stderr())
