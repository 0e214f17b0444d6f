"""The private keys written down here are those of the installed optuna-dashboard and Optuna."""

import pytest
from optuna.artifacts._upload import ARTIFACTS_ATTR_PREFIX
from optuna_dashboard._custom_plot_data import SYSTEM_ATTR_PLOT_DATA
from optuna_dashboard._note import note_str_key_prefix, note_ver_key
from optuna_dashboard._serializer import CONSTRAINTS_KEY
from quell_tuning.dashboard import page_keys
from quell_tuning.optuna_private import ARTIFACT_KEY


@pytest.mark.parametrize("trial_id", [None, 17])
def test_keys_of_notes_are_those_of_the_dashboard(trial_id: int | None) -> None:
    keys = page_keys.note_keys(trial_id)
    assert keys == (note_ver_key(trial_id), note_str_key_prefix(trial_id))
    assert [page_keys.note_owner(key) for key in (keys.version, f"{keys.text}0")] == [trial_id, trial_id]


def test_keys_of_plots_constraints_and_artifacts_are_those_of_dashboard_and_optuna() -> None:
    assert page_keys.plot_key("name") == f"{SYSTEM_ATTR_PLOT_DATA}name:"
    assert page_keys.CONSTRAINTS == CONSTRAINTS_KEY
    assert ARTIFACT_KEY == ARTIFACTS_ATTR_PREFIX
