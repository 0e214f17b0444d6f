"""Which running trials have lost their worker: its process on this machine ended, or its lease stands still."""

import math
import time
from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial

from quell_tuning import environment
from quell_tuning.study.stored_study import GRACE
from quell_tuning.trials.worker_id import runs_here, shown

# A worker is lost when it has not renewed its lease (`quell_tuning.trials.lease`) for so long: of a study that stores
# no grace period, as those that older versions created.
GRACE_S = environment.GRACE_S.seconds()
RENEWALS = 6  # of a lease within the grace period
RENEW_S = GRACE_S / RENEWALS


def grace_s(study: optuna.Study) -> float:
    """The grace period of a study, in seconds: the same for all its processes."""
    return float(study.user_attrs.get(GRACE, GRACE_S))


class LeaseWatch:
    """For how long running trials have not renewed their leases, by this process's own clock.

    Args:
        grace_s: the study's, see `grace_s`.
        away_s: after so long without a look, as when this process was frozen or the database was away, nothing is
            known of the silence: others could not write either. All silences then start again.

    Attributes:
        silent_s: by trial number, since the first look that found the lease as it is; 0 for a new one.
        renewed: trials whose lease changed since the look before, or that are new, in the order of the look.
    """

    def __init__(self, grace_s: float, away_s: float = math.inf) -> None:
        self.grace_s = grace_s
        self.away_s = away_s
        self.silent_s: dict[int, float] = {}
        self.renewed: list[int] = []
        self._leases: dict[int, tuple[object, object]] = {}  # who runs the trial, and the lease
        self._looked = time.monotonic()

    def look(self, running: Sequence[FrozenTrial]) -> None:
        now = time.monotonic()
        passed_s, self._looked = now - self._looked, now
        before = self._leases
        self._leases = {
            trial.number: (trial.user_attrs.get("worker"), trial.user_attrs.get("lease")) for trial in running
        }
        self.renewed = [number for number, lease in self._leases.items() if before.get(number) != lease]
        known = passed_s <= self.away_s
        self.silent_s = {
            number: self.silent_s[number] + passed_s if known and before.get(number) == lease else 0.0
            for number, lease in self._leases.items()
        }

    def lost(self, trial: FrozenTrial) -> str:
        """Why the worker of a trial of the last look is lost; empty when it is not, or may not be.

        `ranking.lost_all_workers` knows the reason by its first words.
        """
        worker = trial.user_attrs.get("worker")
        # No name: it was killed between claiming the trial and writing its name on it.
        who = f"its worker {shown(worker)}" if worker else "the worker that claimed it"
        if worker and runs_here(worker) is False:
            return f"{who} ended"
        silent_s = self.silent_s[trial.number]
        return f"{who} was silent for {silent_s:.0f} s" if silent_s > self.grace_s else ""
