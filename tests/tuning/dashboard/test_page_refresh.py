"""Notes and plots are where the dashboard reads them, few and up to date; notes of users are kept."""

import json
from collections.abc import Callable
from typing import Any

import optuna
import optuna_dashboard
import plotly.graph_objects as go
import pytest
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects, is_valid_graph_object_id
from optuna_dashboard._note import (
    copy_notes,
    get_note_from_system_attrs,
    save_note_with_version,
    version_is_incremented,
)
from quell_tuning.dashboard import page_refresh
from quell_tuning.optuna_private import storage_of, study_id_of, trial_id_of
from quell_tuning.storage.retrying import RetryingStorage

Study = Callable[..., optuna.Study]


def trial(score: float, **more: Any) -> FrozenTrial:
    metrics = {"metrics": {"pesq": score}, "by_snr": {"5": {"pesq": score}}, "cost": {"macs_per_s": 1e6}}
    return create_trial(value=score, user_attrs={**metrics, **more})


def make(name: str, storage: BaseStorage | None = None, **more: Any) -> optuna.Study:
    study = optuna.create_study(study_name=name, storage=storage, **(more or {"direction": "maximize"}))
    study.set_user_attr("spec", {"study": {"score": ["pesq", "macs"] if more else "pesq"}})
    return study


@pytest.fixture
def study() -> optuna.Study:
    return make("s")


def refresh(study: optuna.Study) -> None:
    page_refresh.refresh(study, storage_of(study))


def notes(study: optuna.Study) -> dict[int, str]:
    """Notes by number of the trial, as the dashboard reads them; empty ones are left out."""
    stored = storage_of(study).get_study_system_attrs(study_id_of(study))
    found = {t.number: get_note_from_system_attrs(stored, trial_id_of(t))["body"] for t in study.trials}
    return {number: text for number, text in found.items() if text}


def edit(study: optuna.Study, text: str, number: int | None = None) -> None:
    """Saves a note as the dashboard does for a user."""
    stored = storage_of(study).get_study_system_attrs(study_id_of(study))
    trial_id = None if number is None else trial_id_of(study.trials[number])
    version = get_note_from_system_attrs(stored, trial_id)["version"] + 1
    assert version_is_incremented(stored, trial_id, version)
    save_note_with_version(storage_of(study), study_id_of(study), trial_id, version, text)


def writes(monkeypatch: pytest.MonkeyPatch, study: optuna.Study) -> list[str]:
    """The list of keys that are written from now on."""
    keys: list[str] = []
    write = storage_of(study).set_study_system_attr

    def noted(study_id: int, key: str, value: Any) -> None:
        keys.append(key)
        write(study_id, key, value)

    monkeypatch.setattr(storage_of(study), "set_study_system_attr", noted)
    return keys


def test_the_dashboard_reads_what_was_written(study: optuna.Study) -> None:
    study.add_trial(trial(2.0))
    refresh(study)
    assert optuna_dashboard.get_note(study).startswith("## Study s\n")
    assert notes(study)[0].startswith("## Trial 0 of s\n")
    drawn = get_plotly_graph_objects(storage_of(study).get_study_system_attrs(study_id_of(study)))
    assert set(drawn) == {"score-against-cost", "score-by-snr", "score-against-hours"}
    assert all(json.loads(text)["data"] for text in drawn.values())
    assert all(map(is_valid_graph_object_id, drawn))


def test_of_60_trials_the_best_50_have_notes_and_the_worst_10_have_none(study: optuna.Study) -> None:
    for number in range(60):
        study.add_trial(trial(1 + (number * 7 % 60) / 60))
    refresh(study)
    ranked = sorted(study.trials, key=lambda trial: -trial.values[0])
    assert set(notes(study)) == {trial.number for trial in ranked[: page_refresh.NOTES]}


def test_a_trial_that_is_no_longer_among_the_best_loses_its_note_but_presets_keep_theirs(study: optuna.Study) -> None:
    study.add_trial(trial(0.5, preset="plain-cnn"))
    study.add_trial(create_trial(state=TrialState.PRUNED, user_attrs={"preset": "mask-unet", "pruned": "over"}))
    study.add_trial(trial(1.0))
    refresh(study)
    assert set(notes(study)) == {0, 1, 2}
    for _ in range(page_refresh.NOTES):
        study.add_trial(trial(2.0))
    refresh(study)
    assert set(notes(study)) == {0, 1, *range(3, 3 + page_refresh.NOTES)}


def test_refreshing_again_writes_nothing(storage: RetryingStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make("s", storage)
    for score in (1.0, 2.0, 1.5):
        study.add_trial(trial(score))
    make("s-presets", storage).add_trial(trial(1.25, preset="mask-unet"))
    refresh(study)
    keys = writes(monkeypatch, study)
    refresh(study)
    assert keys == []
    study.add_trial(trial(1.75))
    refresh(study)
    ours = f"dashboard:{trial_id_of(study.trials[-1])}:"
    plots = {f"dashboard:plot_data:score-against-{what}:0" for what in ("cost", "hours")}
    assert set(keys) == {f"{ours}note_ver", f"{ours}note_str:0", *plots}  # neither the best nor the presets changed


@pytest.mark.parametrize("number", [None, 0])
@pytest.mark.parametrize("text", ["mine", "long " * 2000])
def test_a_note_that_a_user_edited_is_kept_until_it_is_emptied(
    study: optuna.Study, number: int | None, text: str
) -> None:
    def read() -> str:
        return optuna_dashboard.get_note(study) if number is None else notes(study).get(number, "")

    study.add_trial(trial(1.0))
    refresh(study)
    ours = read()
    edit(study, text, number)
    for _ in range(page_refresh.NOTES):
        study.add_trial(trial(2.0))  # a new best one, and no room for the old one
    refresh(study)
    assert read() == text
    edit(study, "", number)
    refresh(study)
    assert read() == ("" if number == 0 else ours.replace("trial 0", "trial 1").replace("1.00", "2.00"))


def test_a_note_that_a_user_wrote_first_is_kept(study: optuna.Study) -> None:
    study.add_trial(trial(1.0))
    edit(study, "mine", 0)
    edit(study, "also mine")
    refresh(study)
    assert notes(study) == {0: "mine"}
    assert optuna_dashboard.get_note(study) == "also mine"


def test_notes_of_a_copied_study_are_kept(study: optuna.Study) -> None:
    """The dashboard gives them the version 0, whether Quell or a user wrote them."""
    study.add_trial(trial(1.0))
    edit(study, "mine", 0)
    copied = make("copy", storage_of(study))
    copied.add_trial(trial(1.0))
    copy_notes(storage_of(study), study, copied)
    refresh(copied)
    assert notes(copied) == {0: "mine"}


def test_a_plot_that_the_dashboard_stored_in_pieces_is_replaced_as_a_whole(study: optuna.Study) -> None:
    study.add_trial(trial(1.0))
    long = go.Figure(go.Scatter(x=list(range(5000)), y=list(range(5000))))
    optuna_dashboard.save_plotly_graph_object(study, long, graph_object_id="score-by-snr")
    refresh(study)
    drawn = get_plotly_graph_objects(storage_of(study).get_study_system_attrs(study_id_of(study)))
    assert json.loads(drawn["score-by-snr"])["layout"]["title"]["text"] == "PESQ by SNR"


def test_a_user_who_edits_a_note_at_the_same_time_wins_or_gets_an_error(study: optuna.Study) -> None:
    study.add_trial(trial(1.0))
    page = page_refresh._Page(study_id_of(study), storage_of(study))  # has read the notes
    edit(study, "mine", 0)
    page.note(trial_id_of(study.trials[0]), "ours")
    assert notes(study) == {0: "mine"}
    edit(study, "", 0)
    version = get_note_from_system_attrs(storage_of(study).get_study_system_attrs(study_id_of(study)), None)["version"]
    refresh(study)
    assert not version_is_incremented(storage_of(study).get_study_system_attrs(study_id_of(study)), None, version + 1)


def test_notes_of_processes_that_write_at_once_or_are_killed_are_replaced(study: optuna.Study) -> None:
    study.add_trial(trial(1.0))
    one, other = (page_refresh._Page(study_id_of(study), storage_of(study)) for _ in range(2))
    trial_id = trial_id_of(study.trials[0])
    one.note(trial_id, "what one saw")
    other.note(trial_id, "what the other saw")
    storage_of(study).set_study_system_attr(
        study_id_of(study), "dashboard:note_ver", page_refresh.STEP
    )  # killed after this
    refresh(study)
    assert notes(study)[0].startswith("## Trial 0 of s\n")
    assert optuna_dashboard.get_note(study).startswith("## Study s\n")


def test_the_presets_beside_a_study_have_pages_of_their_own(study: optuna.Study) -> None:
    beside = make("s-presets", storage_of(study))
    beside.add_trial(trial(2.0, preset="mask-unet"))
    study.add_trial(trial(2.5))
    refresh(study)
    assert "+0.50 over the best preset, mask-unet" in notes(study)[0]
    assert "mask-unet" in optuna_dashboard.get_note(study)
    assert "quell reproduce s-presets 0" in notes(beside)[0]
    assert optuna_dashboard.get_note(beside).startswith("## Study s-presets\n")


def test_a_study_without_trials_and_one_of_several_scores_have_pages(study: optuna.Study) -> None:
    refresh(study)
    assert "No trial is complete and feasible yet." in optuna_dashboard.get_note(study)
    front = make("front", directions=["maximize", "minimize"])
    for score, macs in ((2.0, 2e6), (1.0, 1e6), (1.0, 2e6)):
        front.add_trial(create_trial(values=(score, macs), user_attrs=trial(score).user_attrs))
    refresh(front)
    assert set(notes(front)) == {0, 1}
    assert "2 trials that none beats" in optuna_dashboard.get_note(front)
