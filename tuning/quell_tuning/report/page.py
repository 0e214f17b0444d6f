"""`quell report`: template, style and script rendered to one HTML file."""

import base64
import hashlib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import optuna
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from rich.console import Console

from quell.atomic import EXISTS, WRITTEN_MEANWHILE, replacing
from quell_tuning import progress
from quell_tuning.artifacts.artifact_store import ArtifactStore
from quell_tuning.errors import TuningError
from quell_tuning.formatting import cost_number, parameter_value, plain, title
from quell_tuning.report import formatting
from quell_tuning.report.content import Content
from quell_tuning.report.media import Gallery, gallery
from quell_tuning.report.plots import Plot, plots

# By their names in the template: filters have one argument, functions a name and a value.
FILTERS: dict[str, Callable[..., str]] = {
    "decibels": formatting.decibels,
    "duration": formatting.duration,
    "latency": formatting.latency,
    "parameter_value": parameter_value,
    "plain": plain,
    "title": title,
}
FUNCTIONS: dict[str, Callable[..., str]] = {"number": formatting.number, "cost_number": cost_number}


def render(content: Content, gallery: Gallery, plots: list[Plot]) -> str:
    """The page. Text from the study is escaped, and the policy lets only our script run."""
    folder = files("quell_tuning.report")
    style, script, template = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= FILTERS
    environment.globals |= FUNCTIONS
    return environment.from_string(template).render(
        content=content,
        gallery=gallery,
        plots=plots,
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing from any server, only data URIs, this style and this script."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )


def check(path: Path, overwrite: bool) -> None:
    """Raises TuningError where `write` could not write the file, or would replace it without `overwrite`."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise TuningError(f"{path}: not a file in a folder that exists, expected one; give another -o")
    if path.exists() and not overwrite:
        raise TuningError(f"{path}: {EXISTS}")


def write(
    study: optuna.Study,
    store: ArtifactStore,
    path: Path,
    best: int,
    listen: int,
    console: Console,
    *,
    overwrite: bool = False,
) -> str:
    """Writes the page and returns its summary in one line. A page of a study without finished trials says so.

    A page has 0.4 MB without sounds, 0.9 MB with 1000 trials in its plots. Noisy and clean clips add 0.9 MB, each trial
    with sounds 1.8 MB: four clips of 3 to 6 s at 16 kHz with their pictures. With four trials that is 8 MB, and at most
    13 MB for the longest clips of the gallery, 8 s.

    Args:
        best: length of the leaderboard.
        listen: number of best trials whose sounds are included, beside those of the best preset.
        overwrite: replace a file of that name.

    Raises:
        TuningError: the file cannot be written.
    """
    content = Content(study, best)
    with progress.bar("sounds", console) as update:
        sounds = gallery(content, store, listen, update)
    with progress.bar("plots", console) as update:
        drawn = list(plots(content, update))
    page = render(content, sounds, drawn).encode()
    try:
        with replacing(path, overwrite=overwrite) as partial:
            partial.write_bytes(page)
    except FileExistsError:
        raise TuningError(f"{path}: {WRITTEN_MEANWHILE}") from None
    except OSError as error:
        raise TuningError(f"{path}: {error.strerror}, expected a file that can be written; give another -o") from None
    included = f"sounds of {len(sounds.rows)}" if sounds.clips else "no sounds"
    size = formatting.size(len(page))
    return f"study {content.name}, best {len(content.leaderboard)} trials, {included}, {size}"
