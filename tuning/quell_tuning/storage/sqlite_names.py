"""Names of studies and numbers of trials in an SQLite file, read without Optuna, in 1 ms: for shell completion.

Tables and columns are those of Optuna 5.0. What cannot be read has no names.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

TIMEOUT_S = 0.2  # for a lock of a worker that writes; a user waits for the completion


def study_names(file: Path) -> list[str]:
    """Names of all studies, the newest first."""
    return [name for (name,) in _rows(file, "SELECT study_name FROM studies ORDER BY study_id DESC")]


def completed_trials(file: Path, study: str) -> list[int]:
    """Numbers of a study's completed trials."""
    query = (
        "SELECT number FROM trials JOIN studies USING (study_id) "
        "WHERE study_name = ? AND state = 'COMPLETE' ORDER BY number"
    )
    return [number for (number,) in _rows(file, query, study)]


def _rows(file: Path, query: str, *values: str) -> list[tuple[Any, ...]]:
    try:
        address = f"{file.resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True, timeout=TIMEOUT_S)) as database:
            return database.execute(query, values).fetchall()
    except sqlite3.Error:
        return []
