"""The exact budget: slots.

`trials = N` means N slots, 0 to N - 1. Every trial carries its slot; a slot is filled while it has a trial that
waits, runs or ended. Workers claim waiting trials (compare and set in the storage), never make new ones, so the
budget cannot be overshot. A trial that was lost with its worker ends as failed, does not fill its slot, and is put
back in line with the same parameters.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from tuning.presets import Value

# A configuration that took its worker down this often is at fault itself.
ATTEMPTS = 3
# A worker says this often that it is alive (`tuning.lease`), and is taken for dead after this long without a word.
RENEW_S = 5.0
GRACE_S = float(os.environ.get("QUELL_GRACE_S", "30"))
LIVE = (TrialState.WAITING, TrialState.RUNNING)


class Budget:
    """The slots of one study. Any number of processes may hold one at the same time.

    Args:
        trials: number of slots.
        first: searched parameters of the first slots' trials (presets), by name.
    """

    def __init__(
        self,
        study: optuna.Study,
        storage: optuna.storages.BaseStorage,
        trials: int,
        first: Mapping[str, Mapping[str, Value]] | None = None,
    ) -> None:
        self.study = study
        self.storage = storage
        self.trials = trials
        self.first = list((first or {}).items())
        self._signs: dict[int, object] = {}  # of running trials: who runs them, and the last word
        self._silent_s: dict[int, float] = {}  # for how long that has been the same, by our own clock
        self._looked = time.monotonic()

    def slots(self) -> dict[int, FrozenTrial]:
        """Slot -> the trial that fills it. Of several the lowest number counts: a storage numbers trials in order."""
        filled: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            slot = trial.user_attrs.get("slot")
            if slot is not None and slot < self.trials and "lost" not in trial.user_attrs:
                filled.setdefault(slot, trial)
        return filled

    def fill(self) -> None:
        """Puts a waiting trial into every empty slot."""
        filled = self.slots()
        for slot in range(self.trials):
            if slot in filled:
                continue
            lost = self._lost(slot)
            if lost:
                parameters: Mapping[str, Value] = lost[-1].params or lost[-1].system_attrs.get("fixed_params", {})
                attributes = {key: lost[-1].user_attrs[key] for key in ("preset",) if key in lost[-1].user_attrs}
            else:
                name, parameters = self.first[slot] if slot < len(self.first) else ("", {})
                attributes = {"preset": name} if name else {}
            self.study.enqueue_trial(
                dict(parameters), user_attrs={"slot": slot, "attempt": len(lost) + 1, **attributes}
            )

    def claim(self) -> optuna.Trial | None:
        """A trial to run, which is this process's from now on; None when none waits."""
        for trial in self.slots().values():
            if trial.state != TrialState.WAITING:
                continue
            try:
                mine = self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue
            if mine:
                claimed = optuna.Trial(self.study, trial._trial_id)
                claimed.set_user_attr("worker", worker_name())
                return claimed
        return None

    def hand_back(self, trial: optuna.Trial) -> None:
        """Puts a running trial of this process back in line, as when the worker is asked to leave."""
        with suppress(optuna.exceptions.UpdateFinishedTrialError):  # somebody took us for dead: it is back already
            trial.set_user_attr("worker", "")  # the next one must not be taken for this process while it signs in
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def reap(self) -> list[int]:
        """Ends running trials whose worker is gone; `fill` replaces them. Returns their numbers.

        To be called every few seconds: a worker is gone when its process on this machine is, or when nothing was heard
        of it in GRACE_S of looking.
        """
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        claimed = [trial for trial in running if "slot" in trial.user_attrs]
        self._listen(claimed)
        reaped = []
        for trial in claimed:
            reason = self._gone(trial)
            if reason:
                with suppress(optuna.exceptions.UpdateFinishedTrialError):  # another process was faster
                    self._end(trial, reason)
                    reaped.append(trial.number)
        return reaped

    def _listen(self, claimed: Sequence[FrozenTrial]) -> None:
        # Time in which this process did not look, since it was frozen or the database away, is nobody's silence.
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, 2 * RENEW_S), now
        signs = {trial.number: (trial.user_attrs.get("worker"), trial.user_attrs.get("lease")) for trial in claimed}
        self._silent_s = {
            number: self._silent_s[number] + passed if self._signs.get(number) == sign else 0.0
            for number, sign in signs.items()
        }
        self._signs = dict(signs)

    def _gone(self, trial: FrozenTrial) -> str:
        """Why nobody runs this running trial; empty when somebody does, or may."""
        if trial.user_attrs.get("worker"):
            host, process, start = str(trial.user_attrs["worker"]).split(":")
            if host == socket.gethostname() and str(_start(int(process))) != start:
                return f"its worker {host}:{process} ended"
            who = f"its worker {host}:{process}"
        else:  # killed between claiming the trial and writing its name on it
            who = "whoever claimed it"
        silent = self._silent_s[trial.number]
        return f"{who} said nothing for {silent:.0f} s" if silent > GRACE_S else ""

    def _end(self, trial: FrozenTrial, reason: str) -> None:
        again = len(self._lost(trial.user_attrs["slot"])) + 1 < ATTEMPTS
        kind, text = ("lost", reason) if again else ("failure", f"{reason}, {ATTEMPTS} times")
        self.storage.set_trial_user_attr(trial._trial_id, kind, text)
        self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def ended(self) -> list[FrozenTrial]:
        """Trials that count: complete, pruned, infeasible, or failed by their own fault."""
        return [trial for trial in self.slots().values() if trial.state.is_finished()]

    def left(self) -> int:
        return self.trials - len(self.ended())

    def _lost(self, slot: int) -> Sequence[FrozenTrial]:
        trials = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return [trial for trial in trials if trial.user_attrs.get("slot") == slot and "lost" in trial.user_attrs]


def worker_name() -> str:
    """host:process:start of this process; the start tells it from another one that is given its number later."""
    return f"{socket.gethostname()}:{os.getpid()}:{_start(os.getpid())}"


def _start(process: int) -> int | None:
    """When a process started, in clock ticks since boot; 0 where that cannot be told, None when there is none."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0
