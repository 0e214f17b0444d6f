"""Commands about a denoiser that was found: export, denoise."""

import math
from pathlib import Path
from typing import Annotated

import typer

from quell_tuning.options import (
    ArtifactsOption,
    DeviceOption,
    RunsOption,
    StorageFileOption,
    StorageOption,
    StudyName,
    open_place,
    open_study,
    stderr,
)

MODELS = (".pt", ".onnx")  # how files end that Quell runs


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write; a card goes beside it.")],
    study: StudyName = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="A trial's number, instead of the best.")] = None,
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
    from quell_tuning.devices import check_device
    from quell_tuning.exporting import export_best

    formats = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}
    if kind is not None and kind not in formats:
        raise typer.BadParameter(f"{kind!r}, expected one of {', '.join(formats)}", param_hint="--format")
    needed = [formats[kind]] if kind else list(formats.values())
    if output.suffix not in needed:
        found = f"{output}: ends in {output.suffix!r}"
        raise typer.BadParameter(f"{found}, expected {' or '.join(needed)}", param_hint="--output")
    place = open_place(runs, storage, storage_file, artifacts=artifacts)
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


def denoise(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] INPUT",
            help="Recordings, folders, patterns; - for raw samples. A first one that ends in .pt or .onnx is a model "
            "made by `quell export`; without it each recording gets the denoiser that comes with Quell: the one of "
            "8 kHz at rates up to that, else the one of 16 kHz.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A file for one recording, else a folder; - for stdout.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=0, help="Recordings at once; 0: one for each core.")] = 0,
    wet: Annotated[float, typer.Option("--wet", min=0, max=1, help="Share of the denoised signal.")] = 1.0,
    attenuation_limit: Annotated[
        float | None, typer.Option("--attenuation-limit", min=0, help="Lower the noise by so many dB at most.")
    ] = None,
    rate: Annotated[int, typer.Option("--rate", min=1000, help="Hz, of raw samples.")] = 16000,
    channels: Annotated[int, typer.Option("--channels", min=1, help="Of raw samples, interleaved.")] = 1,
    encoding: Annotated[str, typer.Option("--encoding", help="Of raw samples: s16le, s24le, s32le, f32le.")] = "s16le",
) -> int:
    """Clean recordings, with a model of yours or the one that comes with Quell; rate, channels, length and format are
    kept."""
    from quell.audio import ENCODINGS, Raw
    from quell.settings import Mix
    from quell_tuning.denoising import files, stream

    model, inputs = _parted(inputs)
    try:
        mix = Mix(wet, attenuation_limit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if Path("-") not in inputs:
        if output == Path("-"):
            raise typer.BadParameter("- for recordings, expected a file or a folder", param_hint="--output")
        return files(model, inputs, output, mix, overwrite=overwrite, processes=jobs, console=stderr())
    if len(inputs) > 1:
        raise typer.BadParameter("- among others, expected it alone", param_hint="INPUT")
    if encoding not in ENCODINGS:
        raise typer.BadParameter(f"{encoding!r}, expected one of {', '.join(ENCODINGS)}", param_hint="--encoding")
    return stream(model, output, Raw(rate, channels, ENCODINGS[encoding]), mix, overwrite=overwrite, console=stderr())


def _parted(given: list[Path]) -> tuple[Path | None, list[Path]]:
    """The model, where the first argument is one, and the inputs.

    Raises:
        BadParameter: nothing but a model, or one that is not the first.
    """
    count = 1 if given[0].suffix in MODELS else 0
    inputs = given[count:]
    if not inputs:
        raise typer.BadParameter(f"nothing after {given[0]}, expected recordings", param_hint="INPUT")
    late = [path for path in inputs if path.suffix in MODELS]
    if late:
        raise typer.BadParameter(f"{late[0]} among recordings, expected one model, first", param_hint="MODEL")
    return given[0] if count else None, inputs
