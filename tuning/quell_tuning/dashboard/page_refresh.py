"""Brings a study's page in optuna-dashboard up to date: its notes and plots, which are attributes of the study.

Only what changed is written, each text in one piece. The dashboard's own functions cut texts into pieces for databases
of old versions, and take a second to import.
"""

import json

import optuna
from optuna.storages import BaseStorage

from quell_tuning.dashboard.page_keys import note_keys, note_owner, piece_keys, plot_key
from quell_tuning.dashboard.plots import plots
from quell_tuning.dashboard.study_note import study_note
from quell_tuning.dashboard.trial_note import trial_note
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.results.snapshot import StudySnapshot, beside

# Trials with a note, besides the presets: each note adds to what every reader of the study loads.
NOTES = 50
# Versions of the notes written here are multiples of this. The dashboard adds one when a user edits a note, which marks
# it as the user's. Two processes that write at once, or one that is killed halfway, leave no version of that kind.
STEP = 1_000_000


def refresh(study: optuna.Study, storage: BaseStorage) -> None:
    """Brings notes and plots of a study and of its presets up to date; from any process, at any time.

    A note that a user edited stays as it is, until the user empties it.
    """
    others = beside(study, storage)
    _refresh(StudySnapshot(study, *others), storage)
    for other in others:
        _refresh(StudySnapshot(other, study), storage)


def _refresh(snapshot: StudySnapshot, storage: BaseStorage) -> None:
    page = _Page(snapshot.study_id, storage)
    presets = [row for row in snapshot.presets if row.study == snapshot.name and row.trial.state.is_finished()]
    noted = {trial_id_of(row.trial): row for row in [*snapshot.ranked[:NOTES], *presets]}
    for trial_id, row in noted.items():
        page.note(trial_id, trial_note(snapshot, row))
    for trial_id in page.noted() - noted.keys():
        page.note(trial_id, "")
    page.note(None, study_note(snapshot))
    for name, figure in plots(snapshot).items():
        page.write(plot_key(name), json.dumps(figure, separators=(",", ":")))


class _Page:
    """What the dashboard has stored of a study."""

    def __init__(self, study_id: int, storage: BaseStorage) -> None:
        self.study_id = study_id
        self.storage = storage
        self.stored = storage.get_study_system_attrs(study_id)

    def noted(self) -> set[int]:
        """Numbers in the database of the trials that have or had a note."""
        return {owner for key in self.stored if (owner := note_owner(key)) is not None}

    def note(self, trial_id: int | None, text: str) -> None:
        """Changes the note of a trial, or of the study, unless a user edited it."""
        keys = note_keys(trial_id)
        if self._read(keys.text) == text:
            return
        self.stored = self.storage.get_study_system_attrs(self.study_id)  # a user may just have edited it
        version = self.stored.get(keys.version, 0)
        if self._read(keys.text) and (version == 0 or version % STEP):
            return
        # The version first: if the process is killed in between, the text left behind still counts as written here.
        self.storage.set_study_system_attr(self.study_id, keys.version, (version // STEP + 1) * STEP)
        self.write(keys.text, text)

    def write(self, key: str, text: str) -> None:
        """Stores a text, if it changed, as one piece; further pieces, which the dashboard wrote, are emptied."""
        if self._read(key) == text:
            return
        self.storage.set_study_system_attr(self.study_id, f"{key}0", text)
        for piece in piece_keys(self.stored, key)[1:]:
            self.storage.set_study_system_attr(self.study_id, piece, "")

    def _read(self, key: str) -> str:
        return "".join(self.stored[piece] for piece in piece_keys(self.stored, key))
