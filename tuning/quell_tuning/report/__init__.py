"""`quell report`: a study as one HTML page with its sounds and pictures inside, for readers without the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from quell_tuning.errors import TuningError

if TYPE_CHECKING:
    import optuna
    from optuna.artifacts._protocol import ArtifactStore
    from rich.console import Console


def check(path: Path, overwrite: bool) -> None:
    """Raises TuningError where `write` must not or could not write."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise TuningError(f"{path}: not a file in a folder that exists, expected one; give another -o")
    if path.exists() and not overwrite:
        raise TuningError(f"{path}: exists already, expected a new file; remove it, or give --overwrite")


def write(study: optuna.Study, store: ArtifactStore, path: Path, best: int, listen: int, console: Console) -> str:
    """Writes the page and returns a line on what is in it. A study without finished trials gives a page that says so.

    A page has 0.4 MB without sounds, 0.9 MB with 1000 trials in its plots. Noisy and clean clips add 0.9 MB, and every
    trial that is heard 1.8 MB: four clips of 3 to 6 s at 16 kHz with their pictures. With four trials that is 8 MB, and
    at most 13 MB for the longest clips of the gallery, 8 s.

    Args:
        best: length of the leaderboard.
        listen: so many of the best trials come with their sounds, and the best preset beside them.

    Raises:
        TuningError: the disk refuses.
    """
    from quell.atomic import replacing
    from quell_tuning import progress
    from quell_tuning.report.content import Content
    from quell_tuning.report.media import gallery
    from quell_tuning.report.page import render
    from quell_tuning.report.plots import plots
    from quell_tuning.report.words import size

    content = Content(study, best)
    with progress.bar("sounds", console) as move:
        sounds = gallery(content, store, listen, move)
    with progress.bar("plots", console) as move:
        drawn = list(plots(content, move))
    page = render(content, sounds, drawn).encode()
    try:
        with replacing(path) as partial:
            partial.write_bytes(page)
    except OSError as error:
        raise TuningError(f"{path}: {error.strerror}, expected a file that can be written; give another -o") from None
    heard = f"sounds of {len(sounds.rows)}" if sounds.clips else "no sounds"
    return f"study {content.name}, best {len(content.leaderboard)} trials, {heard}, {size(len(page))}"
