"""A trial as notes, tables and plots show it; what a study of an older version has not stored is empty."""

from collections.abc import Mapping
from typing import Any, Self

from optuna.trial import FrozenTrial, TrialState

from quell_tuning.results.costs import infeasible
from quell_tuning.study.parameters import configuration, one_line
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
