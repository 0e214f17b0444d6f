"""The command denoise: recordings, folders, and raw samples from a pipe."""

from __future__ import annotations

import os
import signal
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

from quell_tuning.cli.options import stderr
from quell_tuning.errors import Interrupted

if TYPE_CHECKING:
    from rich.console import Console

    from quell import audio
    from quell.export.exported_model import Model
    from quell.inference import batch
    from quell.inference.jobs import DenoiseJob, DenoiseOptions, Report

MODELS = (".pt", ".onnx")  # suffixes of the exported models that Quell runs, in any case
# Files inside those of TorchScript, of weights and of torch.export, which are archives of any suffix.
MEMBERS = ("data.pkl", "archive_format")


def denoise(
    inputs: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] INPUT",
            help="Recordings, folders, patterns; - for raw samples. A first argument that is a .pt or .onnx file is a "
            "model made by `quell export`; if omitted, recordings at 8 kHz or below use the included 8 kHz model, all "
            "others the 16 kHz model. A .pt file is a program: from others, take .onnx.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="A file for one recording, else a folder; - for stdout.")
    ],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")] = False,
    jobs: Annotated[int, typer.Option(min=0, help="Recordings at once; 0: one per core.")] = 0,
    wet: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the denoised signal in the output; the rest is input.")
    ] = 1.0,
    attenuation_limit: Annotated[float | None, typer.Option(min=0, help="Lower the noise by at most N dB.")] = None,
    rate: Annotated[int, typer.Option(min=1000, help="Sample rate of raw samples in Hz.")] = 16000,
    channels: Annotated[int, typer.Option(min=1, help="Channels of raw samples, interleaved.")] = 1,
    encoding: Annotated[str, typer.Option(help="Encoding of raw samples: s16le, s24le, s32le or f32le.")] = "s16le",
) -> int:
    """Denoise recordings. With the included or your own model; sample rate, channels, length and format stay."""
    from quell.audio import ENCODINGS, Raw
    from quell.inference.jobs import DenoiseOptions

    model, inputs = _split_model(inputs)
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


def _split_model(arguments: list[Path]) -> tuple[Path | None, list[Path]]:
    """The model, if the first argument is one, and the inputs; BadParameter without any, or for a model among them."""
    model = arguments[0] if _is_model(arguments[0]) else None
    inputs = arguments if model is None else arguments[1:]
    if not inputs:
        raise typer.BadParameter(f"nothing after {model}, expected recordings", param_hint="INPUT")
    for path in inputs:
        if _is_model(path):
            raise typer.BadParameter(f"{path} among recordings, expected one model, first", param_hint="MODEL")
    return model, inputs


def _is_model(path: Path) -> bool:
    if path.suffix.lower() in MODELS:
        return True
    try:
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return any(PurePosixPath(name).name in MEMBERS for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


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
    """Denoises recordings and folders, each independent of the others; returns the exit code, 1 if any failed.

    Args:
        model: an exported file; None for the included models, chosen by each recording's sample rate.

    Raises:
        AudioError: an input or output that cannot be used, before anything is denoised.
        ExportError: the model cannot be loaded.
    """
    from quell import audio
    from quell.inference import batch, pretrained, process_pool
    from quell.inference.journal import Journal, settings_key
    from quell.processes import cores
    from quell_tuning import progress

    if model is not None and not model.is_file():
        from quell.export.exported_model import load

        load(model)  # raises; imported only then, since torch takes seconds and each worker imports its own
    settings = " ".join(settings_key(file, options) for file in (pretrained.paths() if model is None else [model]))
    plan = batch.plan(inputs, output, overwrite=overwrite, journal=Journal(output, settings))
    if plan.already_done:
        _print(f"{len(plan.already_done)} recordings were done before, by the same model", console)
    if plan.unread:
        _print(f"quell: {', '.join(map(str, inputs))}: {audio.left_out(plan.unread)}", console)
    failed: list[DenoiseJob] = []
    without_tags = 0
    with (
        _resumable(plan, failed),
        progress.bar("denoising, seconds", console) as update,
        closing(process_pool.denoise(plan.jobs, model, options, processes or cores(), update, plan.journal)) as results,
    ):
        for result in results:
            if result.error is not None:
                failed.append(result.job)
                _print(f"quell: {result.error}", console)
            elif result.report is not None:
                _warn(str(result.job.target), result.report, console)
                without_tags += result.report.tags_lost
                if plan.journal is not None:
                    plan.journal.add(result.job)
    if plan.journal is not None and not failed:
        plan.journal.close([*plan.jobs, *plan.already_done])
    if without_tags:
        lost = f"{without_tags} recordings have tags, marks or pictures that their output's format does not keep"
        _print(f"quell: {output}: {lost}, expected all of them in WAV, AIFF, FLAC and MP3; copy them yourself", console)
    with _writing_stdout():
        print(
            _one_line(f"{len(plan.jobs) - len(failed)} of {len(plan.jobs)} recordings denoised to {output}"), flush=True
        )
    return 1 if failed else 0


def stream(
    model: Path | None, output: Path, raw: audio.Raw, options: DenoiseOptions, *, overwrite: bool, console: Console
) -> int:
    """Denoises raw samples from standard input; returns the exit code.

    Args:
        model: an exported file, which runs in another process; None for the included one that fits the rate.

    Raises:
        AudioError: no usable samples, or the output exists or cannot be written.
        ExportError: the model cannot be loaded, or does not answer.
    """
    from quell.export import model_process
    from quell.inference import pretrained

    if model is None:
        return _stream(pretrained.load(sample_rate=raw.sample_rate), output, raw, options, overwrite, console)
    with closing(model_process.load(model)) as loaded:
        return _stream(loaded, output, raw, options, overwrite, console)


def _stream(
    loaded: Model, output: Path, raw: audio.Raw, options: DenoiseOptions, overwrite: bool, console: Console
) -> int:
    from quell import audio
    from quell.atomic import EXISTS, WRITTEN_MEANWHILE, replacing
    from quell.errors import AudioError
    from quell.inference.pipe import pipe
    from quell_tuning import progress

    if sys.stdin is None:
        raise AudioError("standard input: closed, expected raw samples; pipe them in")
    if output == Path("-"):
        if sys.stdout is None:
            raise AudioError("standard output: closed, expected to write samples to it; give -o a file")
        with _writing_stdout(), progress.stream(console) as update:
            report = pipe(sys.stdin.buffer, sys.stdout.buffer, loaded, raw, options, update)
        _warn("standard output", report, console)
        return 0
    if output.suffix.lower() in audio.SUFFIXES:
        expected = "expected a name like out.raw, since raw samples have no header"
        raise AudioError(f"{output}: ends in {output.suffix}, {expected}; rename it")
    try:
        if output.exists() and not overwrite:
            raise AudioError(f"{output}: {EXISTS}")
        with (
            replacing(output, overwrite=overwrite) as partial,
            partial.open("wb") as file,
            progress.stream(console) as update,
        ):
            report = pipe(sys.stdin.buffer, file, loaded, raw, options, update)
    except FileExistsError as error:
        raise AudioError(f"{output}: {WRITTEN_MEANWHILE}") from error
    except OSError as error:
        raise AudioError(f"{output}: {error.strerror}, expected a file that can be written; give another -o") from error
    _warn(str(output), report, console)
    return 0


@contextmanager
def _resumable(plan: batch.Plan, failed: Sequence[DenoiseJob]) -> Iterator[None]:
    """Closes the journal, which the same command resumes from, and says so when interrupted.

    A job that failed does not stay in it: another run may have written a file of that name.
    """
    try:
        yield
    except Interrupted as interruption:
        if plan.journal is not None:
            interruption.advice = "the same command resumes with the rest"
        raise
    finally:
        if plan.journal is not None:
            plan.journal.close([*failed, *(job for job in plan.jobs if not job.target.exists())])


@contextmanager
def _writing_stdout() -> Iterator[None]:
    """Exits as by SIGPIPE when the reader of standard output has closed it.

    Raises:
        AudioError: the standard output cannot be written.
    """
    from quell.errors import AudioError

    try:
        yield
    except OSError as error:
        # Discards buffered output, which Python would otherwise fail to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            sys.exit(128 + signal.SIGPIPE)
        raise AudioError(f"standard output: {error.strerror}, expected to write to it; redirect it") from error


def _warn(name: str, report: Report, console: Console) -> None:
    if report.limited:
        clipped = f"{report.limited} samples beyond full scale were limited (peak {report.peak:.2f})"
        _print(f"quell: {name}: {clipped}; a float format stores them, a lower input level avoids them", console)
    elif report.peak > 1:
        _print(f"quell: {name}: peak {report.peak:.2f}, beyond full scale; its format stores that", console)


def _print(text: str, console: Console) -> None:
    """Prints a line without markup: a file's name may look like it."""
    from rich.text import Text

    console.print(Text(_one_line(text)), soft_wrap=True)


def _one_line(text: str) -> str:
    """The text with line ends, escape sequences and undecodable bytes of file names spelt out."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
