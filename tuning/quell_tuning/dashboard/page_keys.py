"""Private keys of optuna-dashboard in a study's system attributes: notes and plots, texts in numbered pieces.

Read in optuna-dashboard 0.21.0: `_note.py`, `_custom_plot_data.py`, and `_serializer.py` for the constraints.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

# Of a trial: a list of numbers; where one is above 0 the trial is infeasible.
CONSTRAINTS = "constraints"
TRIAL_NOTE = re.compile(r"dashboard:(\d+):note_(?:ver$|str:)")


class NoteKeys(NamedTuple):
    """Where a note is."""

    version: str
    text: str  # without the number of a piece


def note_keys(trial_id: int | None = None) -> NoteKeys:
    """Keys of a trial's note, by the trial's number in the database, or of the study's."""
    owner = "dashboard:" if trial_id is None else f"dashboard:{trial_id}:"
    return NoteKeys(f"{owner}note_ver", f"{owner}note_str:")


def plot_key(name: str) -> str:
    """Key of a plot's JSON, without the number of a piece."""
    return f"dashboard:plot_data:{name}:"


def note_owner(key: str) -> int | None:
    """The number in the database of the trial whose note the key belongs to; None for every other key."""
    match = TRIAL_NOTE.match(key)
    return int(match[1]) if match else None


def piece_keys(attributes: Iterable[str], key: str) -> list[str]:
    """Keys of a text's pieces, in their order."""
    keys: list[str] = []
    while (piece := f"{key}{len(keys)}") in attributes:
        keys.append(piece)
    return keys
