"""Private names of Optuna, read in version 5.0.0: the storage of a study, and the database ids of studies and trials.

Optuna's gRPC service, which ours extends, has its own in `storage.grpc_service`.
"""

import optuna
from optuna.study._frozen import FrozenStudy as FrozenStudy  # what BaseStorage.get_all_studies returns

# A study or trial lists its artifacts in system attributes: this prefix and the artifact's id (`artifacts._upload`).
ARTIFACT_KEY = "artifacts:"


def storage_of(study: optuna.Study) -> optuna.storages.BaseStorage:
    return study._storage


def study_id_of(study: optuna.Study) -> int:
    """The study's id in the database, which the methods of storages take."""
    return study._study_id


def trial_id_of(trial: optuna.Trial | optuna.trial.FrozenTrial) -> int:
    """The trial's id in the database, unique over all studies; `trial.number` counts within a study."""
    return trial._trial_id
