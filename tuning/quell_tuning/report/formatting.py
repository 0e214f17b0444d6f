"""Numbers, lists and limits as the report writes them, for readers who know no study file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from quell_tuning import formatting
from quell_tuning.formatting import COSTS, cost_number

MINUS = "\N{MINUS SIGN}"


def number(name: str, value: float | None, sign: str = "") -> str:
    """As `quell_tuning.formatting.number`, with a typographic minus."""
    return formatting.number(name, value, sign).replace("-", MINUS)


def decibels(value: float) -> str:
    return f"{value:g} dB".replace("-", MINUS)


def latency(latency_ms: float | None) -> str:
    """Milliseconds; None stands for the whole recording."""
    return "\N{INFINITY}" if latency_ms is None else f"{latency_ms:.0f}"


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def size(count: int) -> str:
    """Of a file, in bytes of which a million make a megabyte."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def listed(parts: Iterable[str]) -> str:
    """`a, b and c`."""
    found = list(parts)
    return " and ".join(filter(None, (", ".join(found[:-1]), *found[-1:])))


def parameter(key: str) -> str:
    """A parameter's name without its unit."""
    return "window" if key == "win_ms" else key.replace("_", " ")


def limits(given: Mapping[str, float | None]) -> list[str]:
    """Limits of a study in words."""
    return [COSTS[name].limit.format(cost_number(name, value)) for name, value in given.items() if value is not None]
