"""Who works on a study: running trials, and what is known of the workers that have them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from quell_tuning.trials.budget import GRACE_S
from quell_tuning.trials.worker_id import runs_here, shown

Sign = tuple[object, object]  # who runs a trial, and the last word


class Liveness:
    """Remembers when running trials were last heard of, by this process's clock.

    One look tells of a worker on this machine whether its process is there, and nothing of the others: that needs
    another look, after the next word of theirs.
    """

    def __init__(self) -> None:
        self._since: dict[int, tuple[Sign, float, bool]] = {}  # number -> its sign, since when, not the first one

    def look(self, running: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
        """What is known of each running trial and its worker, as JSON.

        `alive` is None where that is not known, and `silent_s` where there was one look only.
        """
        now, before = time.monotonic(), self._since
        self._since = {}
        found = []
        for trial in running:
            sign = trial.user_attrs.get("worker"), trial.user_attrs.get("lease")
            last, since, heard = before.get(trial.number, (sign, now, False))
            if sign != last:
                since, heard = now, True
            self._since[trial.number] = sign, since, heard
            silent_s = round(now - since, 1) if trial.number in before else None
            found.append(_known(trial) | {"alive": _alive(trial, silent_s, heard), "silent_s": silent_s})
        return found


def _known(trial: FrozenTrial) -> dict[str, Any]:
    told = trial.intermediate_values
    rung = max(told, default=None)
    lease = trial.user_attrs.get("lease", (0, 0.0))
    return {
        "worker": shown(trial.user_attrs.get("worker", "")),
        "trial": trial.number,
        "rung_hours": None if rung is None else rung / 3600,
        "score": None if rung is None else told[rung],
        "audio_hours": max(lease[1], (rung or 0) / 3600),
    }


def _alive(trial: FrozenTrial, silent_s: float | None, heard: bool) -> bool | None:
    if silent_s is not None and silent_s > GRACE_S:
        return False
    here = runs_here(trial.user_attrs.get("worker", ""))
    return here if here is not None else True if heard else None
