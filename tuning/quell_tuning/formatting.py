"""Metrics and costs as text: their names, units, and numbers with the digits that mean something."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quell.metrics import dnsmos
from quell.metrics.intrusive import UNITS


@dataclass(frozen=True)
class CostText:
    """How a cost is written."""

    name: str
    limit: str  # a limit in a sentence; {} stands for the number
    unit: str = ""
    scale: float = 1.0  # so many of the unit are written as 1; 1e6 as M
    score: str = ""  # its name in `[study] score`; empty: no score

    @property
    def title(self) -> str:
        """The name with the unit of `cost_number`."""
        prefix = "M " if self.scale == 1e6 else ""
        return f"{self.name} ({prefix}{self.unit})" if self.unit else self.name


# The keys are those of `[limits]` and, but for the real-time factor, fields of `quell.export.cost.Cost`.
COSTS: Mapping[str, CostText] = {
    "parameters": CostText("parameters", "{} parameters", score="parameters"),
    "macs_per_s": CostText("multiply-accumulates", "{} M MAC/s", "MAC/s", 1e6, score="macs"),
    "latency_ms": CostText("latency", "{} ms of latency", "ms"),
    "real_time_factor": CostText("real-time factor", "a real-time factor of {} on one CPU thread"),
}
# Costs that a study may minimise beside a metric: name of the score -> key of COSTS.
SCORED_COSTS = {cost.score: name for name, cost in COSTS.items() if cost.score}
NAMES = {"pesq": "PESQ", "stoi": "STOI", "estoi": "ESTOI", "si_sdr": "SI-SDR"}
TWO_DIGITS = ("pesq", "si_sdr", *dnsmos.NAMES)
# Leading digits of axis labels, the roundest first.
ROUND: Sequence[Sequence[float]] = (
    (1,),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9),
)


def title(name: str) -> str:
    """A score with its unit, as an axis says it: `PESQ (MOS-LQO)`."""
    unit = COSTS[SCORED_COSTS[name]].unit if name in SCORED_COSTS else UNITS.get(name)
    return f"{plain(name)} ({unit})" if unit else plain(name)


def plain(name: str) -> str:
    """A score's name without its unit."""
    return COSTS[SCORED_COSTS[name]].name if name in SCORED_COSTS else NAMES.get(name, name.replace("_", " "))


def number(name: str, value: float | None, sign: str = "") -> str:
    """A score with the digits that mean something; empty for None. `sign` is "+" for a difference."""
    if value is None:
        return ""
    if name in SCORED_COSTS:
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.2f}" if name in TWO_DIGITS else f"{value:{sign}.3f}"


def cost_number(name: str, value: float | None) -> str:
    """A cost with the digits that mean something, in the unit of its title; None is an infinite latency."""
    if value is None:
        return "needs the whole recording"
    if name == "parameters":
        return f"{value:,.0f}"
    value /= COSTS[name].scale
    if name == "macs_per_s":
        return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    return f"{value:.3g}" if name == "real_time_factor" else f"{value:.4g}"


def parameter_value(value: object) -> str:
    """The value of a searched parameter."""
    return str(value).lower() if isinstance(value, bool) else f"{value:.4g}" if isinstance(value, float) else str(value)


def round_numbers(low: float, high: float) -> list[float]:
    """The roundest numbers from low to high, for a logarithmic axis; three or more where high is 1.2 times low."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ROUND:
        numbers = [float(f"{digit * 10.0**power:g}") for power in powers for digit in digits]
        inside = [number for number in numbers if low <= number <= high]
        if len(inside) >= 3:
            break
    return inside
