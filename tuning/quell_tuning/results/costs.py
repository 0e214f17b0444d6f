"""Costs and limits of a trial in numbers and words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import FrozenTrial

from quell.metrics.intrusive import UNITS
from quell_tuning import formatting
from quell_tuning.formatting import COSTS
from quell_tuning.study.sections import RTF_MARGIN


def costs(trial: FrozenTrial, limits: Mapping[str, float | None]) -> dict[str, float | None]:
    """What a trial costs, as far as it is known; None where a latency is infinite.

    A trial that was refused before its training, or has a limited real-time factor, tells its costs by how far they
    are off their limits.
    """
    known: dict[str, float | None] = dict(trial.user_attrs.get("cost", {}))
    for name, excess in trial.constraints.items():
        limit = limits.get(name)
        if limit is None or name in known:
            continue
        if name != "real_time_factor":
            known[name] = None if excess == math.inf else (excess + 1) * limit
        elif excess != 0:  # 0 stands for not measured
            known[name] = (excess + 1) * RTF_MARGIN * limit
    return {name: known[name] for name in COSTS if name in known}


def infeasible(trial: FrozenTrial) -> str:
    """Why a trial is not feasible; empty when it is."""
    return " and ".join(_excess(name, value) for name, value in trial.constraints.items() if value > 0)


def _excess(name: str, value: float) -> str:
    if name not in COSTS:
        unit = " dB" if UNITS.get(name) == "dB" else ""
        return f"{formatting.plain(name)} {formatting.number(name, value)}{unit} below the noisy input's"
    times = (value + 1) * (RTF_MARGIN if name == "real_time_factor" else 1)
    return f"{COSTS[name].name} infinite" if times == math.inf else f"{COSTS[name].name} {times:.3g} times the limit"
