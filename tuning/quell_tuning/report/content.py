"""What a report says, read from a study once: rows of its tables, its facts, the trials behind its plots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

import quell
from quell_tuning.formatting import COSTS, SCORED_COSTS, plain, title
from quell_tuning.optuna_private import storage_of
from quell_tuning.report import formatting
from quell_tuning.results.costs import infeasible
from quell_tuning.results.snapshot import StudySnapshot, beside, gains, hours, seconds
from quell_tuning.study.parameters import configuration, domain, one_line
from quell_tuning.trials.ranking import feasible, is_lost


@dataclass(frozen=True)
class Row:
    """A trial as tables and plots show it."""

    study: str
    trial: FrozenTrial
    noisy: Mapping[str, float]  # metric -> mean of the unprocessed mixtures

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def preset(self) -> str:
        return str(self.trial.user_attrs.get("preset", ""))

    @property
    def label(self) -> str:
        return self.preset or f"trial {self.number}"

    @property
    def ranks(self) -> bool:
        """Whether it is complete and keeps to all constraints."""
        return self.trial.state == TrialState.COMPLETE and feasible(self.trial)

    @property
    def metrics(self) -> dict[str, float]:
        return dict(self.trial.user_attrs.get("metrics", {}))

    @property
    def by_snr(self) -> dict[str, dict[str, float]]:
        return dict(self.trial.user_attrs.get("by_snr", {}))

    @property
    def worse(self) -> dict[str, float]:
        """Metric -> share of clips made worse."""
        return dict(self.trial.user_attrs.get("worse", {}))

    @property
    def cost(self) -> dict[str, Any]:
        return dict(self.trial.user_attrs.get("cost", {}))

    @property
    def gallery(self) -> list[dict[str, Any]]:
        return list(self.trial.user_attrs.get("gallery", []))

    @property
    def seconds(self) -> float:
        return seconds(self.trial)

    @property
    def configuration(self) -> list[tuple[str, str]]:
        return configuration(*self._configs)

    @property
    def short(self) -> str:
        """The configuration in one line."""
        return one_line(*self._configs)

    @property
    def _configs(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.trial.user_attrs.get("denoiser", {}), self.trial.user_attrs.get("training", {})

    @property
    def state(self) -> str:
        """How it ended, with the reason where it cannot be compared."""
        key = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failure"}.get(self.trial.state, "")
        reason, broken = str(self.trial.user_attrs.get(key, "")), infeasible(self.trial)
        told = f": {reason}" if reason else f", but {broken}" if broken else ""
        return self.trial.state.name.lower() + told

    def gain(self, name: str) -> float | None:
        """Of a metric over the noisy input; None where one is not known."""
        return gains(self.metrics, self.noisy).get(name)

    def over(self, other: Row | None, name: str) -> float | None:
        """Of a metric over another trial; None where one is not known."""
        return None if other is None else gains(self.metrics, other.metrics).get(name)


class Content:
    """What is stored of a study, in the words of the page.

    Args:
        best: length of the leaderboard.
    """

    def __init__(self, study: optuna.Study, best: int) -> None:
        self.snapshot = StudySnapshot.of(study, *beside(study, storage_of(study)))
        self.name, self.metric = self.snapshot.name, self.snapshot.metric
        self.attributes = self.snapshot.attributes
        self.spec: dict[str, Any] = self.attributes["spec"]
        self.noisy: dict[str, float] = self.attributes.get("noisy", {})
        self.trials = [trial for trial in self.snapshot.trials if not is_lost(trial)]
        self.leaderboard = [self.row(trial) for trial in self.snapshot.ranked[:best]]
        self.presets = [self.row(preset.trial, preset.study) for preset in self.snapshot.presets]
        self.trials_wanted = int(self.attributes.get("trials", len(self.trials)))
        self.hours = hours(self.snapshot.trials, self.trials_wanted)
        self.quell = quell.__version__
        self.written = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

    def row(self, trial: FrozenTrial, study: str | None = None) -> Row:
        return Row(study or self.name, trial, self.noisy)

    @property
    def best(self) -> Row | None:
        return next(iter(self.leaderboard), None)

    @property
    def best_preset(self) -> Row | None:
        return next((row for row in self.presets if row.ranks), None)

    @property
    def rival(self) -> Row | None:
        """The best preset, where it is not the best trial itself."""
        known = self.best is not None and self.snapshot.rival(self.best.trial) is not None
        return self.best_preset if known else None

    @cached_property
    def metrics(self) -> list[str]:
        """The score's own first."""
        return list(dict.fromkeys([self.metric, *(self.best.metrics if self.best else ()), *self.noisy]))

    @property
    def sentence(self) -> str:
        """What is searched."""
        wanted = f"the highest {plain(self.metric)}"
        if self.costs:
            wanted += f" at the fewest {formatting.listed(self.costs)}"
        names = formatting.listed(map(formatting.parameter, self.searched)) or "nothing but the presets"
        low, high = map(formatting.decibels, self.spec["corpus"]["snr_db"])
        return (
            f"A search for the speech denoiser with {wanted} on mixtures at {low} to {high} SNR, "
            f"{self.spec['corpus']['sample_rate'] / 1000:g}\N{NO-BREAK SPACE}kHz, over {names}"
            + (f", within {self.limits}." if self.limits else ".")
        )

    @property
    def costs(self) -> list[str]:
        """The scores that are to be low."""
        return [COSTS[SCORED_COSTS[name]].name for name in self.snapshot.scores[1:]]

    @property
    def scores(self) -> str:
        mixtures = self.spec["training"]["validation_mixtures"]
        return formatting.listed([f"{title(self.metric)}, mean over {mixtures} mixtures", *self.costs])

    @property
    def states(self) -> str:
        counts = Counter(trial.state.name.lower() if feasible(trial) else "infeasible" for trial in self.trials)
        counts["failed"] = counts.pop("fail", 0)
        return ", ".join(f"{counts[name]} {name}" for name in sorted(counts) if counts[name]) or "none yet"

    @property
    def infeasible(self) -> int:
        """Complete trials that the leaderboard leaves out."""
        return sum(trial.state == TrialState.COMPLETE and not feasible(trial) for trial in self.trials)

    @property
    def failures(self) -> list[tuple[int, str]]:
        failed = [trial for trial in self.trials if trial.state == TrialState.FAIL]
        return [(trial.number, str(trial.user_attrs["failure"])) for trial in failed]

    @property
    def searched(self) -> dict[str, str]:
        """Parameter -> what it was searched over."""
        search: Mapping[str, Any] = self.spec.get("search", {})
        return {name: domain(name, values) for name, values in search.items() if isinstance(values, dict)}

    @property
    def limits(self) -> str:
        return formatting.listed(formatting.limits(self.spec.get("limits", {})))

    @property
    def snrs(self) -> list[str]:
        """SNRs in dB at which the best trial was scored, ascending."""
        return sorted(self.best.by_snr, key=float) if self.best else []

    @property
    def noisy_by_snr(self) -> dict[str, dict[str, float]]:
        return dict(self.attributes.get("noisy_by_snr", {}))

    @property
    def minutes(self) -> dict[str, dict[str, float]]:
        """Split -> minutes of clean speech and of noise."""
        return dict(self.attributes.get("minutes", {}))

    @property
    def confirmed(self) -> str:
        """Which trial won over several seeds; empty where none was confirmed."""
        found = self.attributes.get("confirmed")
        if not found:
            return ""
        mean = formatting.number(self.metric, found["means"][str(found["winner"])])
        return f"Over several seeds, trial {found['winner']} won: mean {plain(self.metric)} {mean}."
