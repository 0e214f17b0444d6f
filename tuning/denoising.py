"""`quell denoise`: recordings with a progress bar, and what is to be said about each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from quell import audio, batch
from quell.atomic import replacing
from quell.enhance import Mix, Report
from quell.errors import AudioError
from quell.model import load
from quell.pipe import pipe
from tuning import progress


def files(
    model: Path, inputs: Sequence[Path], output: Path, mix: Mix, *, overwrite: bool, processes: int, console: Console
) -> int:
    """Denoises recordings and folders; returns the exit code: 1 when some could not be done.

    Raises:
        AudioError: what was asked for cannot be begun.
        ExportError: the model cannot be loaded.
    """
    load(model)  # what is wrong with it is said first
    journal = batch.Journal(output, batch.how(model, mix))
    jobs, before = batch.plan(inputs, output, overwrite=overwrite, journal=journal)
    if before:
        console.print(f"{before} recordings were done before, by the same model", highlight=False)
    failed = 0
    with progress.bar("denoising, seconds", console) as move:

        def moved(done: float, total: float) -> None:
            move(round(done), round(total))

        for done in batch.run(jobs, model, mix, processes or batch.cores(), moved):
            if done.error is not None:
                failed += 1
                console.print(f"quell: {done.error}", highlight=False)
            elif done.report is not None:
                _warn(str(done.job.target), done.report, console)
                if before + len(jobs) > 1:
                    journal.note(done.job)
    if not failed:
        journal.close()
    print(f"{len(jobs) - failed} of {len(jobs)} recordings denoised to {output}")
    return 1 if failed else 0


def stream(model: Path, output: Path, raw: audio.Raw, mix: Mix, *, overwrite: bool, console: Console) -> int:
    """Denoises raw samples from standard input; returns the exit code.

    Raises:
        AudioError: nothing usable came, or the output exists.
    """
    loaded = load(model)
    if output == Path("-"):
        _warn("standard output", pipe(sys.stdin.buffer, sys.stdout.buffer, loaded, raw, mix), console)
        return 0
    if output.exists() and not overwrite:
        raise AudioError(f"{output}: exists already, expected a new file; remove it, or give --overwrite")
    with replacing(output) as partial, partial.open("wb") as file:
        _warn(str(output), pipe(sys.stdin.buffer, file, loaded, raw, mix), console)
    return 0


def _warn(name: str, report: Report, console: Console) -> None:
    if report.limited:
        found = f"{report.limited} samples beyond full scale were limited (peak {report.peak:.2f})"
        console.print(f"quell: {name}: {found}; a float format holds them, a lower input level avoids them")
    elif report.peak > 1:
        console.print(f"quell: {name}: peak {report.peak:.2f}, beyond full scale; its format holds that")
