"""Numbers and configurations as a reader who knows no study file wants them; added to those of
`quell_tuning.formatting`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from quell_tuning import formatting
from quell_tuning.results.costs import shown_cost

MINUS = "\N{MINUS SIGN}"
LIMITS = {
    "parameters": "{} parameters",
    "macs_per_s": "{} M MAC/s",
    "real_time_factor": "a real-time factor of {} on one CPU thread",
    "latency_ms": "{} ms of latency",
}
COSTS = {"macs": "multiply-accumulates per second", "parameters": "parameters"}
MEANINGS: Mapping[str, Mapping[Any, str]] = {
    "representation": {"power": "magnitude ** {power:.3g}", "linear": "magnitude", "log": "magnitude in dB"},
    "target": {"mask": "mask", "noise": "noise", "direct": "clean magnitude"},
    "phase": {"estimated": "phase turned"},
    "bottleneck": {
        "frequency": "{bottleneck_units} recurrent units over frequency",
        "forward": "{bottleneck_units} recurrent units over time, forwards",
        "both": "{bottleneck_units} recurrent units over time, both ways",
    },
    "causal": {True: "causal"},
}
SHORT = (
    "window {win_ms:.3g} ms, hop {hop_ms:.3g} ms",
    "{representation} \N{RIGHTWARDS ARROW} {target}",
    "{phase}",
    "{depth} levels from {base_channels} channels \N{MULTIPLICATION SIGN} {growth:.3g}",
    "{convolution} {kernel_bins} \N{MULTIPLICATION SIGN} {kernel_frames} convolutions",
    "{bottleneck}",
    "{causal}",
    "dropout {dropout:.2g}",
    "loss {loss}",
    "learning rate {learning_rate:.2g}",
    "batch {batch_size}",
)


def number(value: float, metric: str, sign: str = "") -> str:
    """A metric's value with the digits that mean something; `sign` "+" for a difference."""
    return formatting.number(metric, value, sign).replace("-", MINUS)


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
    return [LIMITS[key].format(shown_cost(key, value)) for key, value in given.items() if value is not None]


def short(denoiser: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    """A configuration in one line; what is not known of it, or is as if it were not there, is left out."""
    known = formatting.in_ms(denoiser, training)
    for key, meanings in MEANINGS.items():
        meaning = meanings.get(known.pop(key, None))
        if meaning:
            with suppress(KeyError):
                known[key] = meaning.format_map(known)
    if not known.get("dropout"):
        known.pop("dropout", None)
    parts = []
    for part in SHORT:
        with suppress(KeyError):
            parts.append(part.format_map(known))
    return "; ".join(parts)
