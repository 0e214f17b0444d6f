"""The content of a report, read from a study once: its facts, the rows of its tables, the trials behind its plots."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import optuna
from optuna.trial import TrialState

import quell
from quell_tuning.formatting import COSTS, SCORED_COSTS, cost_number, plain, title
from quell_tuning.optuna_private import storage_of
from quell_tuning.report import formatting
from quell_tuning.results.snapshot import StudySnapshot, beside, hours
from quell_tuning.results.trial_row import state_name
from quell_tuning.study.parameters import domain
from quell_tuning.trials.ranking import counted, feasible


class Content:
    """A study as the page shows it.

    Args:
        best: length of the leaderboard.
    """

    def __init__(self, study: optuna.Study, best: int) -> None:
        self.snapshot = StudySnapshot(study, *beside(study, storage_of(study)))
        self.name, self.metric = self.snapshot.name, self.snapshot.metric
        self.attributes = self.snapshot.attributes
        self.spec: dict[str, Any] = self.attributes["spec"]
        self.noisy = self.snapshot.noisy
        self.costs = [COSTS[SCORED_COSTS[name]].name for name in self.snapshot.scores[1:]]  # that are minimised
        self.noisy_by_snr: dict[str, dict[str, float]] = self.attributes.get("noisy_by_snr", {})
        self.minutes: dict[str, dict[str, float]] = self.attributes.get("minutes", {})  # of speech and noise, by split
        self.trials = counted(self.snapshot.trials)
        # Complete trials that the leaderboard leaves out.
        self.infeasible = sum(trial.state == TrialState.COMPLETE and not feasible(trial) for trial in self.trials)
        failed = [trial for trial in self.trials if trial.state == TrialState.FAIL]
        self.failures = [(trial.number, str(trial.user_attrs["failure"])) for trial in failed]
        self.leaderboard = self.snapshot.ranked[:best]
        self.best = self.leaderboard[0] if self.leaderboard else None
        self.presets, self.best_preset = self.snapshot.presets, self.snapshot.best_preset
        self.rival = self.snapshot.rival(self.best) if self.best else None
        # Metrics, the score first; SNRs of the best trial in dB, ascending.
        self.metrics = list(dict.fromkeys([self.metric, *(self.best.metrics if self.best else ()), *self.noisy]))
        self.snrs = sorted(self.best.by_snr, key=float) if self.best else []
        search: Mapping[str, Any] = self.spec.get("search", {})
        self.searched = {name: domain(name, values) for name, values in search.items() if isinstance(values, dict)}
        limits: Mapping[str, float | None] = self.spec.get("limits", {})
        self.limits = formatting.listed(
            COSTS[name].limit.format(cost_number(name, limit)) for name, limit in limits.items() if limit is not None
        )
        self.planned_trials = int(self.attributes.get("trials", len(self.trials)))
        self.hours = hours(self.snapshot.trials, self.planned_trials)
        self.quell = quell.__version__
        self.written = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"

    @property
    def sentence(self) -> str:
        """What is searched for, in one sentence."""
        goal = f"the highest {plain(self.metric)}"
        if self.costs:
            goal += f" at the fewest {formatting.listed(self.costs)}"
        names = formatting.listed(map(formatting.parameter, self.searched)) or "nothing but the presets"
        low, high = map(formatting.decibels, self.spec["corpus"]["snr_db"])
        return (
            f"A search for the speech denoiser with {goal} on mixtures at {low} to {high} SNR, "
            f"{self.spec['corpus']['sample_rate'] / 1000:g}\N{NO-BREAK SPACE}kHz, over {names}"
            + (f", within {self.limits}." if self.limits else ".")
        )

    @property
    def scores(self) -> str:
        mixtures = self.spec["training"]["validation_mixtures"]
        return formatting.listed([f"{title(self.metric)}, mean over {mixtures} mixtures", *self.costs])

    @property
    def states(self) -> str:
        """Number of trials by state."""
        counts = Counter(map(state_name, self.trials))
        counts["failed"] = counts.pop("fail", 0)
        return ", ".join(f"{counts[name]} {name}" for name in sorted(counts) if counts[name]) or "none yet"

    @property
    def confirmed(self) -> str:
        """The trial that won over several seeds; empty where none was confirmed."""
        confirmed = self.attributes.get("confirmed")
        if not confirmed:
            return ""
        winner = confirmed["winner"]
        mean = formatting.number(self.metric, confirmed["means"][str(winner)])
        return f"Over several seeds, trial {winner} won: mean {plain(self.metric)} {mean}."
