"""Commands about a denoiser that was found: export, denoise."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quell_tuning.cli.options import stderr
from quell_tuning.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from quell import audio
    from quell.inference import batch
    from quell.inference.jobs import DenoiseOptions, Report

MODELS = (".pt", ".onnx")  # how files end that Quell runs


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
    from quell.inference.jobs import DenoiseOptions

    model, inputs = _parted(inputs)
    try:
        options = DenoiseOptions(wet, attenuation_limit)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if Path("-") not in inputs:
        if output == Path("-"):
            raise typer.BadParameter("- for recordings, expected a file or a folder", param_hint="--output")
        return files(model, inputs, output, options, overwrite=overwrite, processes=jobs, console=stderr())
    if len(inputs) > 1:
        raise typer.BadParameter("- among others, expected it alone", param_hint="INPUT")
    if encoding not in ENCODINGS:
        raise typer.BadParameter(f"{encoding!r}, expected one of {', '.join(ENCODINGS)}", param_hint="--encoding")
    return stream(
        model, output, Raw(rate, channels, ENCODINGS[encoding]), options, overwrite=overwrite, console=stderr()
    )


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


def files(
    model: Path | None,
    inputs: Sequence[Path],
    output: Path,
    options: DenoiseOptions,
    *,
    overwrite: bool,
    processes: int,
    console: Console,
) -> int:
    """Denoises recordings and folders; returns the exit code: 1 when some could not be done.

    Without a model each recording gets the shipped one that fits its rate.

    Raises:
        AudioError: what was asked for cannot be begun.
        ExportError: the model cannot be loaded.
    """
    from quell.inference import batch, pretrained
    from quell.inference.journal import Journal, settings_key
    from quell.processes import cores
    from quell_tuning import progress

    if model is not None and not model.is_file():
        from quell.export.exported_model import load

        load(model)  # says so; imported here, since torch takes seconds and each worker imports its own
    settings = " ".join(settings_key(file, options) for file in (pretrained.paths() if model is None else [model]))
    plan = batch.plan(inputs, output, overwrite=overwrite, journal=Journal(output, settings))
    if plan.already_done:
        _say(f"{len(plan.already_done)} recordings were done before, by the same model", console)
    failed = 0
    with _going_on(plan), progress.bar("denoising, seconds", console) as move:

        def moved(done: float, total: float) -> None:
            move(round(done), round(total))

        with closing(batch.run(plan.jobs, model, options, processes or cores(), moved, plan.journal)) as ended:
            for done in ended:
                if done.error is not None:
                    failed += 1
                    _say(f"quell: {done.error}", console)
                elif done.report is not None:
                    _warn(str(done.job.target), done.report, console)
                    if plan.journal is not None:
                        plan.journal.add(done.job)
    if plan.journal is not None and not failed:
        plan.journal.close([*plan.jobs, *plan.already_done])
    with _to_stdout():
        print(_one_line(f"{len(plan.jobs) - failed} of {len(plan.jobs)} recordings denoised to {output}"), flush=True)
    return 1 if failed else 0


def stream(
    model: Path | None, output: Path, raw: audio.Raw, options: DenoiseOptions, *, overwrite: bool, console: Console
) -> int:
    """Denoises raw samples from standard input; returns the exit code.

    Raises:
        AudioError: nothing usable came, or the output exists or cannot be written.
        ExportError: the model cannot be loaded.
    """
    from quell import audio
    from quell.atomic import replacing
    from quell.errors import AudioError
    from quell.inference import pretrained
    from quell.inference.pipe import pipe
    from quell_tuning import progress

    loaded = pretrained.load(model, raw.sample_rate)
    if sys.stdin is None:
        raise AudioError("standard input: closed, expected raw samples; pipe them in")
    if output == Path("-"):
        if sys.stdout is None:
            raise AudioError("standard output: closed, expected to write samples to it; give -o a file")
        with _to_stdout(), progress.stream(console) as move:
            report = pipe(sys.stdin.buffer, sys.stdout.buffer, loaded, raw, options, move)
        _warn("standard output", report, console)
        return 0
    if output.suffix.lower() in audio.SUFFIXES:
        needed = "expected a name like out.raw, since raw samples have no header"
        raise AudioError(f"{output}: ends in {output.suffix}, {needed}; rename it")
    try:
        if output.exists() and not overwrite:
            raise AudioError(f"{output}: exists already, expected a new file; remove it, or give --overwrite")
        with replacing(output) as partial, partial.open("wb") as file, progress.stream(console) as move:
            report = pipe(sys.stdin.buffer, file, loaded, raw, options, move)
    except OSError as error:
        raise AudioError(f"{output}: {error.strerror}, expected a file that can be written; give another -o") from error
    _warn(str(output), report, console)
    return 0


@contextmanager
def _going_on(plan: batch.Plan) -> Iterator[None]:
    """Leaves the notes that the same command goes on with, and says so to whoever interrupts this one."""
    try:
        yield
    except Interrupted as left:
        if plan.journal is not None:
            left.advice = "the same command goes on with what is left"
        raise
    finally:
        if plan.journal is not None:
            plan.journal.close(job for job in plan.jobs if not job.target.exists())


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Leaves as others in a pipe do when whoever read the standard output has gone.

    Raises:
        AudioError: the standard output cannot be written.
    """
    from quell.errors import AudioError

    try:
        yield
    except BrokenPipeError:
        _drop_output()
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _drop_output()
        raise AudioError(f"standard output: {error.strerror}, expected to write to it; redirect it") from error


def _drop_output() -> None:
    """What is still buffered has nowhere to go; Python would complain about that at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _warn(name: str, report: Report, console: Console) -> None:
    if report.limited:
        found = f"{report.limited} samples beyond full scale were limited (peak {report.peak:.2f})"
        _say(f"quell: {name}: {found}; a float format holds them, a lower input level avoids them", console)
    elif report.peak > 1:
        _say(f"quell: {name}: peak {report.peak:.2f}, beyond full scale; its format holds that", console)


def _say(text: str, console: Console) -> None:
    """A line as it is: what looks like markup in a file's name is none."""
    from rich.text import Text

    console.print(Text(_one_line(text)), soft_wrap=True)


def _one_line(text: str) -> str:
    """Line ends and escape sequences in a file's name are shown, not sent; so are bytes that are no text."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
