"""A trial as notes, tables and plots show it; what a study of an older version has not stored is empty."""

import math
from collections.abc import Mapping
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from quell.metrics.intrusive import UNITS
from quell_tuning import formatting
from quell_tuning.formatting import COSTS
from quell_tuning.study.parameters import configuration, one_line
from quell_tuning.study.sections import RTF_MARGIN
from quell_tuning.trials.ranking import feasible


class TrialRow:
    """One trial.

    Args:
        study: the name of its study.
        noisy: metric -> mean of the noisy mixtures.
    """

    def __init__(self, study: str, trial: FrozenTrial, noisy: Mapping[str, float]) -> None:
        attributes = trial.user_attrs
        self.study, self.trial, self.noisy = study, trial, noisy
        self.number = trial.number
        self.preset: str = attributes.get("preset", "")
        self.label = self.preset or f"trial {trial.number}"
        self.complete = state_name(trial) == "complete"  # and feasible
        self.metrics: dict[str, float] = attributes.get("metrics", {})
        self.by_snr: dict[str, dict[str, float]] = attributes.get("by_snr", {})
        self.worse: dict[str, float] = attributes.get("worse", {})  # metric -> share of clips made worse
        self.cost: dict[str, Any] = attributes.get("cost", {})
        self.gallery: list[dict[str, Any]] = attributes.get("gallery", [])
        self.seconds = seconds(trial)

    @property
    def configuration(self) -> dict[str, str]:
        """The configuration in words, by the names of `quell_tuning.study.parameters.ROWS`."""
        return configuration(self.trial.user_attrs.get("denoiser", {}), self.trial.user_attrs.get("training", {}))

    @property
    def one_line(self) -> str:
        """The configuration in one line."""
        return one_line(self.configuration)

    @property
    def state(self) -> str:
        """The trial's state, with the reason where it cannot be compared."""
        key = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failure"}.get(self.trial.state, "")
        reason, excess = self.trial.user_attrs.get(key, ""), infeasible(self.trial)
        return self.trial.state.name.lower() + (f": {reason}" if reason else f", but {excess}" if excess else "")

    def gain(self, name: str) -> float | None:
        """Gain of a metric over the noisy input; None where one of them is missing."""
        return gains(self.metrics, self.noisy).get(name)

    def over(self, other: Self | None, name: str) -> float | None:
        """Gain of a metric over another trial; None where one of them is missing."""
        return gains(self.metrics, other.metrics).get(name) if other else None


def state_name(trial: FrozenTrial) -> str:
    """A trial's state in lower case, or "infeasible", whatever its state, where it breaks a constraint."""
    return trial.state.name.lower() if feasible(trial) else "infeasible"


def seconds(trial: FrozenTrial) -> float:
    """Seconds that an ended trial took its worker; from its dates where it has not recorded them."""
    if "seconds" in trial.user_attrs:
        return float(trial.user_attrs["seconds"])
    if trial.datetime_start is None or trial.datetime_complete is None:
        return 0.0
    return max(0.0, (trial.datetime_complete - trial.datetime_start).total_seconds())


def trained_hours(trial: FrozenTrial) -> float:
    """Hours of audio that a running trial was trained on, by its lease or by its last rung."""
    lease = trial.user_attrs.get("lease", (0, 0.0))
    return float(max(lease[1], max(trial.intermediate_values, default=0) / 3600))


def gains(values: Mapping[str, float], reference: Mapping[str, float]) -> dict[str, float]:
    """How much better each metric is than in the reference, for the metrics that both have."""
    return {name: value - reference[name] for name, value in values.items() if name in reference}


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
