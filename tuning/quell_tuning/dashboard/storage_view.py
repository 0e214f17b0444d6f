"""A study's storage as optuna-dashboard should see it: the best trial is feasible, and little goes to the page.

What the dashboard 0.21 does not know is put right here: constraints as Optuna 5 writes them, databases that are away,
notes in pieces that it puts together again for every trial.
"""

from __future__ import annotations

import copy
import heapq
import re
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar, cast

from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from quell_tuning import formatting
from quell_tuning.errors import StorageError
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials.ranking import feasible

T = TypeVar("T")

# A page asks again every few seconds; a database that restarts is back within this.
WAIT_S = 2.0
# What a page shows of a trial as it is. Long lists (`clips`), what only workers read (`lease`, `slot`, `training`) and
# what the notes say in words (`denoiser`, `by_snr`, `worst`, `gallery`) stay behind: of 1000 trials they are 5 MB.
PLAIN = ("preset", "warm_start", "same_as", "of", "repeat", "pruned", "failure", "lost", "failures", "worker")
COSTS = {"parameters": ("parameters", 1), "macs_per_s": ("MAC/s (million)", 1e6), "latency_ms": ("latency (ms)", 1)}
# So many trials, the best ones, have a curve in the plot of what was reported at the rungs; all have them as text.
# Drawing 1000 lines and their legend took a browser 2 s, half of what opening the page took.
CURVES = 100
# Of a study; the others are for programs, and its note says what they mean.
STUDY_PLAIN = ("corpus", "spec_hash", "trials", "tuned")
# Optuna's databases once held 2048 characters in a field: the dashboard still cuts notes and plots into pieces.
PIECE = re.compile(r"(dashboard:(?:\d+:)?note_str:|dashboard:plot_data:.*:)(\d+)", re.DOTALL)
TRIAL_NOTE = re.compile(r"(dashboard:\d+:note_)(ver$|str:)")


class DatabaseUnavailable(BaseException):
    """The database is away. No Exception, so that it passes through all of the dashboard; the text is one line."""


class _Infeasible:
    """A state that the page shows as complete, and that nobody who looks for the best among the complete ones finds."""

    name = TrialState.COMPLETE.name

    @staticmethod
    def is_finished() -> bool:
        return True


INFEASIBLE = _Infeasible()


class DashboardStorage(RetryingStorage):
    """A view of another storage; what is written goes through, but for new trials: those seen here lack attributes.

    Raises:
        Away: from any method, when the database was away for longer than WAIT_S.
    """

    def __init__(self, storage: RetryingStorage) -> None:
        super().__init__(storage.backend, storage.close, storage._reading)
        # Of finished trials: as stored, as shown, and as shown without a curve.
        self._seen: dict[int, tuple[FrozenTrial, FrozenTrial, FrozenTrial]] = {}

    def _call(self, method: Callable[..., T], *arguments: Any) -> T:
        try:
            with self.waiting(at_most_s=WAIT_S):
                return super()._call(method, *arguments)
        except StorageError as error:
            raise DatabaseUnavailable(str(error)) from error

    def get_all_studies(self) -> list[FrozenStudy]:
        return [_study(study) for study in super().get_all_studies()]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        stored = super().get_all_trials(study_id, False, states)
        drawn = _drawn(stored)
        shown = [self._trial(trial, trial.number in drawn) for trial in stored]
        return copy.deepcopy(shown) if deepcopy else shown

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trial(super().get_trial(trial_id))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        complete = [t for t in self.get_all_trials(study_id, deepcopy=False) if t.state == TrialState.COMPLETE]
        if not complete:
            raise ValueError("no trial is complete and feasible yet")
        (direction,) = self.get_study_directions(study_id)
        best = max if direction == StudyDirection.MAXIMIZE else min
        return best(complete, key=lambda trial: cast(float, trial.value))

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise RuntimeError("trials are made by `quell tune`, not by the dashboard")

    def _trial(self, stored: FrozenTrial, drawn: bool = True) -> FrozenTrial:
        """Converted once when it has ended: storages give the same object every time then."""
        seen = self._seen.get(trial_id_of(stored))
        if seen is None or seen[0] is not stored:
            shown = _trial(stored)
            plain = copy.copy(shown)
            plain.intermediate_values = {}
            seen = stored, shown, plain
            if stored.state.is_finished():
                self._seen[trial_id_of(stored)] = seen
        return seen[1] if drawn else seen[2]


def _drawn(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials whose curves are drawn: all that run, and of the others those with the best last report."""
    running = {trial.number for trial in trials if not trial.state.is_finished()}
    last = {t.number: t.intermediate_values[max(t.intermediate_values)] for t in trials if t.intermediate_values}
    return running | set(heapq.nlargest(CURVES, last, key=lambda number: last[number]))


def _trial(stored: FrozenTrial) -> FrozenTrial:
    shown = copy.copy(stored)
    constraints = list(stored.constraints.values())
    attributes = {key: value for key, value in stored.system_attrs.items() if not key.startswith("constraints:")}
    shown.system_attrs = attributes | ({"constraints": constraints} if constraints else {})
    over = [name for name, value in stored.constraints.items() if value > 0]
    rungs = sorted(stored.intermediate_values.items())  # seconds of audio, score
    reports = [f"{score:.4g} after {step / 3600:.3g} h of audio" for step, score in rungs]
    texts = {"infeasible": ", ".join(over), "at the rungs": ", ".join(reports)}
    shown.user_attrs = _attributes(stored.user_attrs) | {name: text for name, text in texts.items() if text}
    if stored.state == TrialState.COMPLETE and not feasible(stored):
        shown.state = cast(TrialState, INFEASIBLE)
    return shown


def _attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers under names with units: the page sorts by them, and puts them on the axes of its plots."""
    metrics = {formatting.title(name): value for name, value in stored.get("metrics", {}).items()}
    counted = {name: value for name, value in stored.get("cost", {}).items() if name in COSTS and value is not None}
    costs = {COSTS[name][0]: value / COSTS[name][1] for name, value in counted.items()}
    training = {"training (s)": stored["seconds"]} if "seconds" in stored else {}
    plain = {name: stored[name] for name in PLAIN if name in stored}
    return {**metrics, **costs, **training, **plain}


def _study(stored: FrozenStudy) -> FrozenStudy:
    shown = copy.copy(stored)
    noisy = {
        f"noisy input: {formatting.title(name)}": value for name, value in stored.user_attrs.get("noisy", {}).items()
    }
    shown.user_attrs = {name: stored.user_attrs[name] for name in STUDY_PLAIN if name in stored.user_attrs} | noisy
    shown.system_attrs = _arranged(stored.system_attrs)
    return shown


class _Attributes(dict[str, Any]):
    """A study's attributes; of its trials' notes, who goes through them meets that of the trial last asked for.

    The dashboard looks a note's version up, then goes through all attributes for its text, and for every trial through
    all of them once more: with 5000 notes that took 14 s for a page.
    """

    def __init__(self, of_study: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(of_study)
        self.notes = notes  # by the key of the version
        self.asked: Mapping[str, Any] = {}

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.notes

    def __getitem__(self, key: str) -> Any:
        if key not in self.notes:
            return super().__getitem__(key)
        self.asked = self.notes[key]
        return self.asked[key]

    def items(self) -> Any:
        return [*super().items(), *self.asked.items()]


def _arranged(stored: Mapping[str, Any]) -> _Attributes:
    of_study: dict[str, Any] = {}
    notes: dict[str, dict[str, Any]] = {}
    for key, value in _whole(stored).items():
        found = TRIAL_NOTE.match(key)
        (notes.setdefault(f"{found[1]}ver", {}) if found else of_study)[key] = value
    return _Attributes(of_study, {key: note for key, note in notes.items() if key in note})


def _whole(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """With every note and every plot in one piece."""
    whole: dict[str, Any] = {}
    pieces: dict[str, dict[int, str]] = {}
    for key, value in attributes.items():
        found = PIECE.fullmatch(key)
        if found:
            pieces.setdefault(found[1], {})[int(found[2])] = value
        else:
            whole[key] = value
    return whole | {f"{key}0": "".join(found[number] for number in sorted(found)) for key, found in pieces.items()}
