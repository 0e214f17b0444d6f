"""Numbers and lists as the report writes them, for readers who know no study file."""

from collections.abc import Iterable

from quell_tuning import formatting

MINUS = "\N{MINUS SIGN}"


def number(name: str, value: float | None, sign: str = "") -> str:
    """As `quell_tuning.formatting.number`, with a typographic minus."""
    return formatting.number(name, value, sign).replace("-", MINUS)


def decibels(value: float) -> str:
    return f"{value:g} dB".replace("-", MINUS)


def latency(latency_ms: float | None) -> str:
    """Milliseconds; None is an infinite latency."""
    return "\N{INFINITY}" if latency_ms is None else f"{latency_ms:.0f}"


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def size(count: int) -> str:
    """Size of a file in kB or MB (1e6 bytes)."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.0f} kB"


def listed(parts: Iterable[str]) -> str:
    """Parts as `a, b and c`."""
    *first, last = [*parts] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def parameter(key: str) -> str:
    """A parameter's name without its unit."""
    return "window" if key == "win_ms" else key.replace("_", " ")
