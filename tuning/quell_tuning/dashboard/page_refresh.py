"""A study's pages in optuna-dashboard: its notes and plots, brought up to date.

The dashboard keeps them in attributes of the study. They are written as it reads them, but only where they changed, and
each in one piece: its own functions cut them up for databases of old, and take a second to be imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from quell_tuning.dashboard.plots import plots
from quell_tuning.dashboard.study_note import study_note
from quell_tuning.dashboard.trial_note import trial_note
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.results.snapshot import StudySnapshot, beside

# Trials with a note, besides the presets: every note costs every reader of the study.
NOTES = 50
# Versions of our own notes are multiples of this. Whoever edits a note adds one to its version, which makes it theirs.
# Of two processes that write at once neither takes the other for a person, nor one that was killed in the middle.
STEP = 1_000_000
NOTED = re.compile(r"dashboard:(\d+):note_ver")


def refresh(study: optuna.Study, storage: BaseStorage) -> None:
    """Brings notes and plots of a study and of its presets up to date; from any process, at any time.

    A note that somebody edited stays as it is, until it is emptied.
    """
    others = beside(study, storage)
    _refresh(StudySnapshot.of(study, *others), storage)
    for other in others:
        _refresh(StudySnapshot.of(other, study), storage)


def _refresh(standing: StudySnapshot, storage: BaseStorage) -> None:
    page = _Page(standing.study_id, storage)
    here = [preset.trial for preset in standing.presets if preset.study == standing.name]
    ended = [trial for trial in here if trial.state.is_finished()]
    noted = {trial_id_of(trial): trial for trial in [*standing.ranked[:NOTES], *ended]}
    for trial_id, trial in noted.items():
        page.note(f"dashboard:{trial_id}:", trial_note(standing, trial))
    for trial_id in page.noted() - noted.keys():
        page.note(f"dashboard:{trial_id}:", "")
    page.note("dashboard:", study_note(standing))
    for name, figure in plots(standing).items():
        page.write(f"dashboard:plot_data:{name}:", json.dumps(figure, separators=(",", ":")))


class _Page:
    """What the dashboard has of a study."""

    def __init__(self, study_id: int, storage: BaseStorage) -> None:
        self.study_id = study_id
        self.storage = storage
        self.stored = storage.get_study_system_attrs(study_id)

    def noted(self) -> set[int]:
        """Trials, by their ids in the database, that have or had a note."""
        return {int(found[1]) for key in self.stored if (found := NOTED.fullmatch(key))}

    def note(self, prefix: str, text: str) -> None:
        """Changes a note, unless it is somebody's."""
        version, body = f"{prefix}note_ver", f"{prefix}note_str:"
        if _read(self.stored, body) == text:
            return
        self.stored = self.storage.get_study_system_attrs(self.study_id)  # somebody may just have edited it
        number = self.stored.get(version, 0)
        if _read(self.stored, body) and (number == 0 or number % STEP):
            return
        # The version first: killed in between, the text left behind is ours to replace.
        self.storage.set_study_system_attr(self.study_id, version, (number // STEP + 1) * STEP)
        self.write(body, text)

    def write(self, prefix: str, text: str) -> None:
        """Stores a text where it changed; what others left of it in further pieces is emptied."""
        if _read(self.stored, prefix) == text:
            return
        self.storage.set_study_system_attr(self.study_id, f"{prefix}0", text)
        for key in _pieces(self.stored, prefix)[1:]:
            self.storage.set_study_system_attr(self.study_id, key, "")


def _read(attributes: Mapping[str, Any], prefix: str) -> str:
    return "".join(attributes[key] for key in _pieces(attributes, prefix))


def _pieces(attributes: Mapping[str, Any], prefix: str) -> list[str]:
    """Keys of a text's pieces, in their order."""
    keys: list[str] = []
    while (key := f"{prefix}{len(keys)}") in attributes:
        keys.append(key)
    return keys
