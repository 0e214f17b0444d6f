"""What a trial costs, and which constraints it breaks, in words."""

import math
from collections.abc import Mapping

from optuna.trial import FrozenTrial

from quell.metrics.intrusive import UNITS
from quell_tuning import formatting
from quell_tuning.formatting import COSTS
from quell_tuning.study.sections import RTF_MARGIN


def costs(trial: FrozenTrial, limits: Mapping[str, float | None]) -> dict[str, float | None]:
    """The costs that are known, in the order of COSTS; None is an infinite latency.

    Of a trial that was refused before its training, and of the real-time factor, only the constraint is stored: how far
    the cost is off its limit. The cost is computed from that.
    """
    values: dict[str, float | None] = dict(trial.user_attrs.get("cost", {}))
    for name, excess in trial.constraints.items():
        limit = limits.get(name)
        if limit is None or name in values:
            continue
        if name != "real_time_factor":
            values[name] = None if excess == math.inf else (excess + 1) * limit
        elif excess != 0:  # 0 stands for not measured
            values[name] = (excess + 1) * RTF_MARGIN * limit
    return {name: values[name] for name in COSTS if name in values}


def infeasible(trial: FrozenTrial) -> str:
    """The constraints that a trial breaks, in words; empty when it is feasible."""
    return " and ".join(_excess(name, value) for name, value in trial.constraints.items() if value > 0)


def _excess(name: str, value: float) -> str:
    if name not in COSTS:
        unit = " dB" if UNITS.get(name) == "dB" else ""
        return f"{formatting.plain(name)} {formatting.number(name, value)}{unit} below the noisy input's"
    times = (value + 1) * (RTF_MARGIN if name == "real_time_factor" else 1)
    return f"{COSTS[name].name} infinite" if times == math.inf else f"{COSTS[name].name} {times:.3g} times the limit"
