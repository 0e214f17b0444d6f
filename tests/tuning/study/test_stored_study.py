"""Studies of other programs, of older versions and of other recipes: refused or continued, and named in one line."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import optuna
import pydantic
import pytest
from quell_tuning import version
from quell_tuning.errors import StudyMismatch, StudyNotFound
from quell_tuning.optuna_private import storage_of, study_id_of
from quell_tuning.results.snapshot import beside
from quell_tuning.study import stored_study, study_file
from quell_tuning.study.stored_study import GRACE, HASH, RECIPE, SPEC, check_same, create_study, load_study, spec_of

from quell.corpus.memory_map import Clip, Corpus, Split
from quell.mixing import recipe

RATE = 8_000


def corpus_of(seconds):
    """A corpus of one recording, of noise and then silence, in each split."""
    samples = (1000 * np.random.default_rng(0).standard_normal(seconds * RATE)).astype(np.int16)
    samples[10 * RATE :] = 0
    split = Split(samples, [Clip("clean", "a.wav", "a", "", 0, len(samples))])
    return Corpus(Path(), "0123", RATE, {"train": split, "validation": split})


CORPUS = corpus_of(2)  # of an utterance
# Specifications of tests/data/older.toml as commits stored them, by commit.
OLDER = json.loads((Path(__file__).parents[2] / "data" / "specifications.json").read_text())
OLDER_FILE = Path(__file__).parents[2] / "data" / "older.toml"


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


def test_a_study_stores_recipe_version_and_grace_period(storage, tiny_spec, monkeypatch):
    monkeypatch.setenv("QUELL_GRACE_S", "12")
    attributes = create_study(tiny_spec(), CORPUS, storage).user_attrs
    assert attributes[RECIPE] == {"number": recipe.RECIPE_OF_UTTERANCES, "quell": version.record()}
    assert attributes[GRACE] == 12
    monkeypatch.setenv("QUELL_GRACE_S", "13")
    assert create_study(tiny_spec(), CORPUS, storage).user_attrs[GRACE] == 12


def test_a_version_of_another_recipe_takes_no_part_and_names_both(storage, tiny_spec, monkeypatch):
    study = create_study(tiny_spec(), CORPUS, storage)
    monkeypatch.setattr(recipe, "RECIPE_OF_UTTERANCES", 3)
    monkeypatch.setattr(version, "record", lambda: {"version": "9.1", "commit": "abc1234+"})
    ours = version.shown(study.user_attrs[RECIPE]["quell"])
    message = f"study 'tiny': recipe 3 of quell 9.1 (abc1234+), expected recipe 1 of {ours}, which made it"
    with pytest.raises(StudyMismatch, match=f"^{re.escape(message)}.*; use that version[^\n]*$"):
        check_same(study, tiny_spec(), CORPUS)


def test_a_study_of_an_older_version_has_the_first_recipe(storage, tiny_spec):
    study = create_study(tiny_spec(), CORPUS, storage)
    study = _without(study, storage, RECIPE)
    check_same(study, tiny_spec(), CORPUS)
    with pytest.raises(StudyMismatch, match=r"recipe 2 of quell .*, expected recipe 1 of an older quell, which"):
        check_same(study, tiny_spec(), corpus_of(60))


def _without(study, storage, key):
    """A study without an attribute, as older versions made it; Optuna cannot remove one."""
    other = optuna.create_study(study_name="older", storage=storage, direction="maximize")
    for name in study.user_attrs.keys() - {key}:
        other.set_user_attr(name, study.user_attrs[name])
    return other


def older(commit, storage, name="older"):
    """A study as a commit stored it."""
    study = optuna.create_study(study_name=name, storage=storage, direction="maximize")
    for key, value in ((SPEC, OLDER[commit]["spec"]), ("corpus", "0123"), (HASH, OLDER[commit]["hash"])):
        study.set_user_attr(key, value)
    return study


@pytest.mark.parametrize("commit", OLDER)
def test_a_study_of_an_older_version_goes_on(storage, commit):
    study, spec = older(commit, storage), study_file.load(OLDER_FILE)
    # 62f5625 and 2d3f207 pruned by the median; later studies say how.
    pruner = OLDER[commit]["spec"]["study"].get("pruner", "median")
    spec = spec.model_copy(update={"study": spec.study.model_copy(update={"pruner": pruner})})
    assert "pruner" in OLDER[commit]["spec"]["study"] or spec.hash() != study_file.load(OLDER_FILE).hash()
    check_same(study, spec, CORPUS)
    assert spec_of(study).hash() == spec.hash()
    assert spec_of(study).search == {**spec_of(study).search, **spec.search}


def test_what_an_older_version_did_without_a_key_is_told_where_the_file_says_otherwise(storage):
    study = older("2d3f207", storage)
    with pytest.raises(StudyMismatch, match=r'study\.pruner is "asha", expected "median" as when it began'):
        check_same(study, study_file.load(OLDER_FILE), CORPUS)


@pytest.mark.parametrize("commit", OLDER)
def test_the_stored_specifications_are_those_of_the_hashes(commit):
    text = json.dumps(OLDER[commit]["spec"], sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == OLDER[commit]["hash"]


def test_a_specification_with_a_key_of_another_version_is_refused_in_one_line(storage):
    study = older("07148a2", storage)
    spec = study.user_attrs[SPEC]
    assert spec["training"].pop("synthetic") == 0.0  # dropped since: 0 did nothing
    study.set_user_attr(SPEC, spec | {"training": spec["training"] | {"synthetic": 0.3}})
    message = (
        r"^study 'older': training.synthetic: unknown key, expected .* in this version; use the version that made it$"
    )
    with pytest.raises(StudyMismatch, match=message):
        spec_of(study)
