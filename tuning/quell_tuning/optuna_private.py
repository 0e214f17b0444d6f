"""Private names of Optuna: the storage of a study, and the numbers of studies and trials in the database.

Read in Optuna 5.0.0. `study._storage` has no public twin; `optuna.Trial.storage` and `.study` are public.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

# A study or trial lists its artifacts in system attributes: this prefix and the artifact's id (`artifacts._upload`).
ARTIFACT_KEY = "artifacts:"


def storage_of(study: optuna.Study) -> optuna.storages.BaseStorage:
    return study._storage


def study_id_of(study: optuna.Study) -> int:
    """The study's number in the database, which all storages' methods take."""
    return study._study_id


def trial_id_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """The trial's number in the database, unique over all studies; `trial.number` counts within a study."""
    return trial._trial_id
