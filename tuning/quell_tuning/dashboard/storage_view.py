"""A storage as optuna-dashboard should see it: infeasible trials are never the best, and pages stay small.

It makes up for what optuna-dashboard 0.21 lacks: constraints in Optuna 5's form, databases that are unavailable for a
while, and notes that are not searched for among all attributes.
"""

import copy
import heapq
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, TypeVar, cast

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from quell_tuning import formatting
from quell_tuning.dashboard.access_control import Refusal
from quell_tuning.dashboard.page_keys import CONSTRAINTS, note_keys, note_owner
from quell_tuning.errors import DatabaseGone, StorageError
from quell_tuning.formatting import COSTS
from quell_tuning.optuna_private import FrozenStudy, trial_id_of
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.trials.ranking import feasible

T = TypeVar("T")

# A page asks again every few seconds; a database that restarts is back within this.
WAIT_S = 2.0
# Attributes of a trial that a page shows unchanged. Long lists (`clips`), what only workers read (`lease`, `slot`,
# `training`) and what the notes say in words (`denoiser`, `by_snr`, `worst`, `gallery`) are left out: of 1000 trials
# they are 5 MB.
OF_TRIALS = ("preset", "warm_start", "same_as", "of", "repeat", "pruned", "failure", "lost", "failures", "worker")
# So many trials, the best ones, have a curve in the plot of what was reported at the rungs; all have them as text.
# Drawing 1000 lines and their legend took a browser 2 s, half of what opening the page took.
CURVES = 100
# Attributes of a study that a page shows; the others are for programs, and the study's note explains them.
OF_STUDIES = ("corpus", "spec_hash", "trials", "tuned")


class _Infeasible:
    """A state that the page shows as complete, and that no search for the best of the complete trials finds."""

    name = TrialState.COMPLETE.name

    @staticmethod
    def is_finished() -> bool:
        return True


INFEASIBLE = _Infeasible()


class DashboardStorage(RetryingStorage):
    """A view of another storage. Writes go through, except new trials: those read here lack attributes.

    Raises:
        Refusal: from any method, when the database does not answer for longer than WAIT_S.
    """

    def __init__(self, storage: RetryingStorage) -> None:
        super().__init__(storage.backend, storage.close, storage.reading, storage.check, storage.holder)
        # Of finished trials: as stored, as the page gets them, and the same without a curve.
        self._converted: dict[int, tuple[FrozenTrial, FrozenTrial, FrozenTrial]] = {}

    def _call(self, method: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
        try:
            with self.waiting(at_most_s=WAIT_S):
                return super()._call(method, *arguments, **keywords)
        except DatabaseGone as error:
            raise Refusal("503 Service Unavailable", str(error)) from error
        except StorageError as error:
            reason = "the study's database does not answer; this goes on when it is back"
            raise Refusal("503 Service Unavailable", reason, {"Retry-After": "5"}) from error

    def get_all_studies(self) -> list[FrozenStudy]:
        return [_study(study) for study in super().get_all_studies()]

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        stored = super().get_all_trials(study_id, False, states)
        curves = _with_curve(stored)
        converted = (self._trial(trial, trial.number in curves) for trial in stored)
        trials = [trial for trial in converted if states is None or trial.state in states]
        return copy.deepcopy(trials) if deepcopy else trials

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._trial(super().get_trial(trial_id))

    def get_best_trial(self, study_id: int) -> FrozenTrial:
        return BaseStorage.get_best_trial(self, study_id)  # of the trials seen here: no backend knows INFEASIBLE

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        raise RuntimeError("trials are made by `quell tune`, not by the dashboard")

    def _trial(self, stored: FrozenTrial, curve: bool = True) -> FrozenTrial:
        """A finished trial is converted once: storages return the same object for it every time."""
        known = self._converted.get(trial_id_of(stored))
        if known is None or known[0] is not stored:
            trial = _trial(stored)
            plain = copy.copy(trial)
            plain.intermediate_values = {}
            known = stored, trial, plain
            if stored.state.is_finished():
                self._converted[trial_id_of(stored)] = known
        return known[1] if curve else known[2]


def _with_curve(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of the trials whose curves are drawn: all that run, and of the others those with the best last report."""
    running = {trial.number for trial in trials if not trial.state.is_finished()}
    last = {t.number: t.intermediate_values[max(t.intermediate_values)] for t in trials if t.intermediate_values}
    return running | set(heapq.nlargest(CURVES, last, key=lambda number: last[number]))


def _trial(stored: FrozenTrial) -> FrozenTrial:
    trial = copy.copy(stored)
    constraints = list(stored.constraints.values())
    attributes = {key: value for key, value in stored.system_attrs.items() if not key.startswith(f"{CONSTRAINTS}:")}
    trial.system_attrs = attributes | ({CONSTRAINTS: constraints} if constraints else {})
    exceeded = [name for name, value in stored.constraints.items() if value > 0]
    rungs = sorted(stored.intermediate_values.items())  # seconds of audio, score
    reports = [f"{score:.4g} after {step / 3600:.3g} h of audio" for step, score in rungs]
    texts = {"infeasible": ", ".join(exceeded), "at the rungs": ", ".join(reports)}
    trial.user_attrs = _attributes(stored.user_attrs) | {name: text for name, text in texts.items() if text}
    if stored.state == TrialState.COMPLETE and not feasible(stored):
        trial.state = cast(TrialState, INFEASIBLE)
    return trial


def _attributes(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers under names with units: the page sorts by them, and puts them on the axes of its plots."""
    metrics = {formatting.title(name): value for name, value in stored.get("metrics", {}).items()}
    counted = {name: value for name, value in stored.get("cost", {}).items() if name in COSTS and value is not None}
    costs = {COSTS[name].title: value / COSTS[name].scale for name, value in counted.items()}
    training = {"training (s)": stored["seconds"]} if "seconds" in stored else {}
    return {**metrics, **costs, **training, **{name: stored[name] for name in OF_TRIALS if name in stored}}


def _study(stored: FrozenStudy) -> FrozenStudy:
    study = copy.copy(stored)
    attributes = stored.user_attrs
    noisy = {f"noisy input: {formatting.title(name)}": value for name, value in attributes.get("noisy", {}).items()}
    study.user_attrs = {name: attributes[name] for name in OF_STUDIES if name in attributes} | noisy
    study.system_attrs = _arranged(stored.system_attrs)
    return study


class _Attributes(dict[str, Any]):
    """A study's attributes; iteration meets no note of a trial but that of the trial that was last looked up.

    The dashboard looks a note's version up, then goes through all attributes for its text, and for every trial through
    all of them once more: with 5000 notes that took 14 s for a page.
    """

    def __init__(self, of_study: Mapping[str, Any], notes: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(of_study)
        self.notes = notes  # by the key of the version
        self.last: Mapping[str, Any] = {}

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) or key in self.notes

    def __getitem__(self, key: str) -> Any:
        if key not in self.notes:
            return super().__getitem__(key)
        self.last = self.notes[key]
        return self.last[key]

    def items(self) -> Any:
        return [*super().items(), *self.last.items()]


def _arranged(stored: Mapping[str, Any]) -> _Attributes:
    of_study: dict[str, Any] = {}
    notes: dict[str, dict[str, Any]] = {}
    for key, value in stored.items():
        trial_id = note_owner(key)
        (of_study if trial_id is None else notes.setdefault(note_keys(trial_id).version, {}))[key] = value
    return _Attributes(of_study, {version: note for version, note in notes.items() if version in note})
