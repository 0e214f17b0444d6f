"""The report's page: template, style and script into one file."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from quell_tuning.note_tables import shown_cost
from quell_tuning.report import words
from quell_tuning.report.content import Content
from quell_tuning.report.media import Gallery
from quell_tuning.report.plots import Plot
from quell_tuning.space import PARAMETERS
from quell_tuning.words import plain, title, value

FILTERS = (words.decibels, words.duration, words.latency, words.number, value, shown_cost, plain, title)


def render(content: Content, gallery: Gallery, plots: list[Plot]) -> str:
    """The page. Whatever comes from the study is escaped, and a policy lets nothing run that is not ours."""
    folder = files("quell_tuning.report")
    style, script, template = (
        (folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {filter.__name__: filter for filter in FILTERS}
    return environment.from_string(template).render(
        content=content,
        gallery=gallery,
        plots=plots,
        units={name: parameter.unit for name, parameter in PARAMETERS.items()},
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )


def _policy(style: str, script: str) -> str:
    """A Content-Security-Policy: nothing from anywhere, sounds and pictures inside the page, these two texts."""
    style_hash, script_hash = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, script)
    )
    return (
        f"default-src 'none'; img-src data:; media-src data:; style-src 'sha256-{style_hash}'; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )
