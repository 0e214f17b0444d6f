"""The workers of a study: which running trial each of them has, and whether it is alive."""

from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from quell_tuning.results.trial_row import trained_hours
from quell_tuning.trials.lease_watch import LeaseWatch, grace_s
from quell_tuning.trials.worker_id import runs_here, shown


class Liveness:
    """Whether the workers of a study's running trials are alive, by this process's clock.

    A worker on this machine is checked by its process. One elsewhere counts as alive once its lease has changed
    between two looks.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._watch = LeaseWatch(grace_s(study))
        self._renewing: set[int] = set()  # trials whose lease changed between two looks

    def look(self, running: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        """Each running trial and its worker, as JSON.

        `alive` is None where that is not known yet, and `silent_s` at the first look at a trial.
        """
        before = set(self._watch.silent_s)
        self._watch.look(running)
        self._renewing = (self._renewing | {*self._watch.renewed}) & before & {*self._watch.silent_s}
        workers = []
        for trial in running:
            silent_s = round(self._watch.silent_s[trial.number], 1) if trial.number in before else None
            workers.append(_worker(trial) | {"alive": self._alive(trial), "silent_s": silent_s})
        return workers

    def _alive(self, trial: FrozenTrial) -> bool | None:
        if self._watch.lost(trial):
            return False
        return runs_here(trial.user_attrs.get("worker", "")) or (True if trial.number in self._renewing else None)


def _worker(trial: FrozenTrial) -> dict[str, Any]:
    rung = max(trial.intermediate_values, default=None)
    return {
        "worker": shown(trial.user_attrs.get("worker", "")),
        "trial": trial.number,
        "rung_hours": None if rung is None else rung / 3600,
        "score": None if rung is None else trial.intermediate_values[rung],
        "audio_hours": trained_hours(trial),
    }
