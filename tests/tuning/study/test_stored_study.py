"""A study that another program made is never written into, and every command says whose it is."""

import re
from types import SimpleNamespace

import optuna
import pydantic
import pytest
from quell_tuning.errors import StudyMismatch, StudyNotFound
from quell_tuning.optuna_private import storage_of, study_id_of
from quell_tuning.results.snapshot import beside
from quell_tuning.study import stored_study
from quell_tuning.study.stored_study import HASH, create_study, load_study

CORPUS = SimpleNamespace(fingerprint="0123")


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    monkeypatch.setattr(stored_study, "CREATED_S", 0.3)


def foreign(storage, name="tiny", trials=3):
    study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
    study.optimize(lambda trial: trial.suggest_float("dropout", 0, 1), n_trials=trials)
    return study


def content(study):
    attributes = storage_of(study).get_study_system_attrs(study_id_of(study))
    return [trial.state for trial in study.trials], study.user_attrs, attributes, study.metric_names


@pytest.mark.parametrize("trials", [0, 3])
def test_a_study_of_another_program_is_refused_and_stays_as_it_was(storage, tiny_spec, trials):
    study = foreign(storage, trials=trials)
    before = content(study)
    with pytest.raises(StudyMismatch, match=r"study 'tiny': made by another program, expected .*; give the study file"):
        create_study(tiny_spec(), CORPUS, storage)
    assert content(optuna.load_study(study_name="tiny", storage=storage)) == before


def test_a_study_of_another_program_is_not_read_by_name(storage, tiny_spec):
    foreign(storage, "theirs")
    with pytest.raises(
        StudyMismatch, match=r"study 'theirs': made by another program, .*; give the study file another name"
    ):
        load_study("theirs", storage)
    create_study(tiny_spec(), CORPUS, storage)
    with pytest.raises(StudyMismatch, match=r"study 'theirs': made by another program, .*, or use another storage"):
        load_study("theirs", storage)
    with pytest.raises(StudyNotFound, match=r"study 'other': not in the storage, expected one of tiny$"):
        load_study("other", storage)


def test_the_latest_study_is_one_of_quell(storage, tiny_spec):
    foreign(storage, "theirs")
    with pytest.raises(StudyNotFound, match="storage: 1 studies of other programs, expected at least one of quell"):
        load_study(None, storage)
    create_study(tiny_spec(), CORPUS, storage)
    foreign(storage, "later")
    assert load_study(None, storage).study_name == "tiny"


def test_a_study_that_was_begun_and_not_finished_is_completed(storage, tiny_spec):
    spec = tiny_spec()
    optuna.create_study(study_name="tiny", storage=storage, direction="maximize").set_user_attr("spec", spec.resolved())
    assert create_study(spec, CORPUS, storage).user_attrs[HASH] == spec.hash()


def test_the_page_of_presets_is_not_that_of_another_program(storage, tiny_spec):
    study = create_study(tiny_spec(), CORPUS, storage)
    foreign(storage, "tiny-presets")
    assert beside(study, storage) == []


@pytest.mark.parametrize("name", ["n" * 101, "n" * 600, "a b", "", "-a"])
def test_a_name_that_no_folder_or_database_takes_is_refused_in_the_file(tiny_spec, name):
    with pytest.raises(pydantic.ValidationError, match=re.escape("study.name")):
        tiny_spec(study={"name": name})
    assert tiny_spec(study={"name": "n" * 100}).study.name == "n" * 100
