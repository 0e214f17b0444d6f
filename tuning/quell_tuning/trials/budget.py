"""The exact budget: a study ends after exactly N trials, whatever the number of workers and whatever dies.

`trials = N` means N slots, 0 to N - 1. Every trial carries its slot; a slot is filled while it has a trial that
waits, runs or ended. Workers claim waiting trials (compare and set in the storage), and of several in one slot only
the lowest number is ever claimed, so the budget cannot be overshot. A trial that was lost with its worker ends as
failed, does not fill its slot, and is enqueued again with the same parameters: until attempt after attempt was lost
and got no further. Workers that are interrupted, however often, cost a trial nothing while its checkpoints advance.
"""

import random
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials.lease_watch import RENEWALS, LeaseWatch, grace_s
from quell_tuning.trials.ranking import AGAIN, is_lost, lost_all_workers, offered_again
from quell_tuning.trials.worker_id import worker_name

# A trial that was lost so often in a row, and got no further, fails: its configuration is taken for the cause.
ATTEMPTS = 3
# So many failures in a row for the same reason are taken for the study's fault.
SAME_FAILURES = 5
# Trials that wait at any time. More would slow down every read of the study, fewer would keep quick workers waiting.
AHEAD = 8
# Reaping reads every running trial: 64 workers that all did so every 5 s used two cores. Only the workers of the
# first MAX_REAPERS running trials reap at every renewal; the others at every REAP_EVERY-th.
MAX_REAPERS = 8
REAP_EVERY = 6
MISSED_LOOKS = 3  # after so many renewals without a look, silences are measured from the start again


class Slots:
    """A study's trials at one moment, by slot."""

    def __init__(self, stored: Sequence[FrozenTrial], trials: int) -> None:
        self.trials = trials
        self.lost: dict[int, list[FrozenTrial]] = {}
        self.asked: Counter[int] = Counter()  # how often a slot's trial was given up as a duplicate of a running one
        self.superfluous: list[FrozenTrial] = []  # waiting in a slot that another trial fills
        self._with_slot = with_slot = [trial for trial in stored if "slot" in trial.user_attrs]
        again = offered_again(with_slot)
        self.running = [trial for trial in with_slot if trial.state == TrialState.RUNNING]  # also beyond `trials`
        filled: dict[int, FrozenTrial] = {}  # of several live ones the lowest number: a storage numbers trials in order
        for trial in with_slot:
            slot = trial.user_attrs["slot"]
            if "superfluous" in trial.user_attrs:
                self.asked[slot] += "asked" in trial.user_attrs
            elif is_lost(trial) or trial.number in again:
                self.lost.setdefault(slot, []).append(trial)
            elif slot not in filled:
                filled[slot] = trial
            elif trial.state == TrialState.WAITING:
                self.superfluous.append(trial)
        self.filled = {slot: filled[slot] for slot in sorted(filled) if slot < trials}

    @property
    def waiting(self) -> list[FrozenTrial]:
        return [trial for trial in self.filled.values() if trial.state == TrialState.WAITING]

    @property
    def ended(self) -> list[FrozenTrial]:
        """Trials that count: complete, pruned, infeasible, or failed by their own fault."""
        return [trial for trial in self.filled.values() if trial.state.is_finished()]

    @property
    def empty(self) -> list[int]:
        return [slot for slot in range(self.trials) if slot not in self.filled]

    @property
    def left(self) -> int:
        return self.trials - len(self.ended)

    @property
    def progress(self) -> tuple[int, float]:
        """Rises whenever a trial ends or a checkpoint gets further: (ended trials, hours of audio in checkpoints)."""
        hours: dict[int, float] = {}
        for trial in self._with_slot:
            slot = trial.user_attrs["slot"]
            hours[slot] = max(hours.get(slot, 0.0), _checkpoint_hours(trial))
        return len(self.ended), sum(hours.values())


class Budget:
    """The slots of one study; any number of processes may have a budget of the same study.

    The study's attribute `plan` says what slots start from: slot -> {"params": ..., "attributes": ...}.
    """

    def __init__(self, study: optuna.Study, trials: int) -> None:
        storage = storage_of(study)
        assert isinstance(storage, RetryingStorage), "a study of quell_tuning.storage.backends"
        self.study = study
        self.storage = storage
        self.trials = trials
        self.grace_s = grace_s(study)
        self.renew_s = self.grace_s / RENEWALS  # between two renewals of a lease
        self._watch = LeaseWatch(self.grace_s, away_s=MISSED_LOOKS * self.renew_s)

    def slots(self) -> Slots:
        return Slots(self.study.get_trials(deepcopy=False), self.trials)

    def reconcile(self, own: int | None = None) -> Slots:
        """Reaps lost trials and fills empty slots; returns the slots as they are then. To be called every few seconds.

        Args:
            own: number of the caller's trial, where the caller is a worker. Only the worker of the first running trial
                fills: eight that did so at once, over a storage that took a second, filled each slot eight times.
        """
        slots = self.slots()
        reaped = self.reap(slots)
        first = own is None or own in self._watch.renewed[:1]
        if reaped or (first and (slots.superfluous or (slots.empty and len(slots.waiting) < AHEAD))):
            self.enqueue_missing()
            slots = self.slots()
        return slots

    def is_reaper(self, number: int) -> bool:
        """Whether the worker of a running trial is a reaper: one of the first that renewed before the last look."""
        return number in self._watch.renewed[:MAX_REAPERS]

    def enqueue_missing(self) -> None:
        """Puts waiting trials into the lowest empty slots, until AHEAD of them wait; ends superfluous ones."""
        slots = self.slots()
        for trial in slots.superfluous:
            if self._claim(trial):  # so that no worker runs it meanwhile
                self._fail(trial, "superfluous", "another trial fills its slot")
        self._enqueue(slots, slots.empty[: max(0, AHEAD - len(slots.waiting))])

    def _enqueue(self, slots: Slots, chosen: Sequence[int], **more: int) -> None:
        plan = self.study.user_attrs.get("plan", {}) if chosen else {}
        for slot in chosen:
            planned = plan.get(str(slot), {})
            lost = slots.lost.get(slot, [])
            parameters: dict[str, Any] = dict(planned.get("params", {}))
            for trial in lost:  # a worker that was killed while it sampled left only some of them
                parameters |= trial.system_attrs.get("fixed_params", {}) | trial.params
            attributes = {"slot": slot, "attempt": len(lost) + 1, **planned.get("attributes", {}), **more}
            self.study.enqueue_trial(parameters, user_attrs=attributes)

    def claim(self, slots: Slots | None = None) -> optuna.Trial | None:
        """Claims a trial of these slots, or of those now, for this process; None when all are running or have ended."""
        while True:
            slots = slots or self.slots()
            waiting = slots.waiting
            if len(slots.running) > MAX_REAPERS:
                # Else many workers that become free at once would all try the same one first.
                random.shuffle(waiting)
            for trial in waiting:
                if self._claim(trial):
                    self.storage.set_trial_user_attr(trial_id_of(trial), "worker", worker_name())
                    return optuna.Trial(self.study, trial_id_of(trial))
            if slots.empty:
                # At random, so that workers that start at once do not all fill the same one.
                self._enqueue(slots, [random.choice(slots.empty)])
            elif not waiting:
                return None
            slots = None

    def _claim(self, trial: FrozenTrial) -> bool:
        try:
            return self.storage.set_trial_state_values(trial_id_of(trial), TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def give_up(self, trial: optuna.Trial, reason: str) -> None:
        """Ends a trial of this process that need not be run; its slot gets another one, with new parameters."""
        with suppress(UpdateFinishedTrialError):  # this worker was taken for dead
            trial.set_user_attr("asked", reason)
            self._fail(trial, "superfluous", reason)

    def hand_back(self, trial: optuna.Trial) -> None:
        """Lets a running trial of this process wait again, as when the worker is asked to stop."""
        with suppress(UpdateFinishedTrialError):  # this worker was taken for dead, and the trial replaced
            # A worker that has claimed it and not yet written its name must not be taken for this one.
            trial.set_user_attr("worker", "")
            self.storage.set_trial_state_values(trial_id_of(trial), TrialState.WAITING)

    def reap(self, slots: Slots) -> list[int]:
        """Ends running trials whose worker is lost; `enqueue_missing` replaces them. Returns their numbers.

        To be called every few seconds, since leases are compared between calls.
        """
        self._watch.look(slots.running)
        reaped = []
        for trial in slots.running:
            reason = self._watch.lost(trial)
            if reason:
                try_again = _in_vain([*slots.lost.get(trial.user_attrs["slot"], ()), trial]) < ATTEMPTS
                error = trial.user_attrs.get("error")  # as the worker wrote
                text = f"{reason} ({error})" if error else reason
                key, text = ("lost", text) if try_again else ("failure", f"{text}, {ATTEMPTS} times")
                with suppress(UpdateFinishedTrialError):  # it ended, or another worker reaped it
                    self._fail(trial, key, text)
                    reaped.append(trial.number)
        return reaped

    def _fail(self, trial: optuna.Trial | FrozenTrial, key: str, reason: str) -> None:
        self.storage.set_trial_user_attr(trial_id_of(trial), key, reason)
        self.storage.set_trial_state_values(trial_id_of(trial), TrialState.FAIL)

    def common_failure(self, slots: Slots) -> str | None:
        """The reason for which the last SAME_FAILURES trials all failed, numbers in it aside; None when they did not.

        Failures before the last `ignore_past_failures` do not count.
        """
        if not _same_reason(slots.ended):
            return None
        forgiven = self.study.user_attrs.get("forgiven", [])
        return _same_reason([trial for trial in slots.ended if trial.number not in forgiven])

    def ignore_past_failures(self) -> None:
        """Lets the failures so far not count as a common failure: the user has started the search again."""
        failed = [trial.number for trial in self.slots().ended if trial.state == TrialState.FAIL]
        if failed:
            self.study.set_user_attr("forgiven", failed)

    def retry_failed(self) -> int:
        """Offers the trials again that failed because their workers were lost; returns their number."""
        slots = self.slots()
        failed = [trial for trial in slots.ended if trial.state == TrialState.FAIL and lost_all_workers(trial)]
        for trial in failed:
            slot = trial.user_attrs["slot"]
            slots.lost.setdefault(slot, []).append(trial)  # the next attempt continues from its checkpoint
            self._enqueue(slots, [slot], **{AGAIN: trial.number})
        return len(failed)


def _in_vain(attempts: Sequence[FrozenTrial]) -> int:
    """How many of a slot's lost attempts, counted from the last one back, got no further than those before them."""
    furthest, count = 0.0, 0
    for trial in attempts:
        hours = _checkpoint_hours(trial)
        count = 0 if hours > furthest or "failure" in trial.user_attrs else count + 1  # a failure was offered again
        furthest = max(furthest, hours)
    return count


def _checkpoint_hours(trial: FrozenTrial) -> float:
    """Hours of audio in the checkpoint of an attempt, by its lease; 0 in one of an older version."""
    lease = trial.user_attrs.get("lease")
    return float(lease[2]) if isinstance(lease, list) and len(lease) > 2 else 0.0


def _same_reason(ended: Sequence[FrozenTrial]) -> str | None:
    latest = sorted(ended, key=lambda trial: str(trial.datetime_complete))[-SAME_FAILURES:]
    if len(latest) < SAME_FAILURES or any(trial.state != TrialState.FAIL for trial in latest):
        return None
    reasons = [str(trial.user_attrs["failure"]) for trial in latest]
    same = len({re.sub(r"\d[\d.e+-]*", "#", reason) for reason in reasons}) == 1
    return reasons[-1] if same else None
