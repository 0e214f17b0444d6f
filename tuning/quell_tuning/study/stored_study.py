"""A study in the database: created, checked against its specification and corpus, and loaded."""

import json
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna

from quell.corpus.memory_map import Corpus, open_store
from quell.mixing.recipe import FIRST_RECIPE, recipe
from quell_tuning import environment, formatting, version
from quell_tuning.errors import StorageError, StudyMismatch, StudyNotFound
from quell_tuning.optuna_private import storage_of
from quell_tuning.study.study_file import StudySpec, completed, restore

CREATED_S, POLL_S = 5.0, 0.2  # within which a study that another process creates has its specification
# Attributes of a study.
SPEC = "spec"  # its specification, set first: a study without is another program's
HASH = "spec_hash"  # of its specification, set last
RECIPE = "recipe"  # {"number": of `quell.mixing.recipe`, "quell": the `version.record` that made the study}
GRACE = "grace_s"  # seconds after which a worker that does not renew its lease is considered lost
TUNED = "tuned"  # time of the last `quell tune`, ISO 8601 in UTC; only searches have it
SKIPPED = "skipped"  # names (`quell.corpus.recordings.Recording.name`) of recordings that the study leaves out


def create_study(spec: StudySpec, corpus: Corpus, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """Creates the study of a specification, or loads it, which raises as `check_same` and `load_study`."""
    name, directions = spec.study.name, spec.study.directions
    if name in {study.study_name for study in storage.get_all_studies()}:
        _wait_until_ours(name, storage)
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    if HASH not in study.user_attrs:
        study.set_user_attr(SPEC, spec.resolved())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([formatting.title(name) for name in spec.study.scores])  # on optuna-dashboard's axes
        study.set_user_attr("corpus", corpus.fingerprint)
        study.set_user_attr(RECIPE, {"number": recipe(corpus), "quell": version.record()})
        study.set_user_attr(GRACE, environment.GRACE_S.seconds())
        study.set_user_attr(HASH, spec.hash())
    check_same(study, spec, corpus)
    return study


def _wait_until_ours(name: str, storage: optuna.storages.BaseStorage) -> None:
    """Raises StudyMismatch for a study that another program made; another process of ours may be about to make one."""
    deadline = time.monotonic() + CREATED_S
    while True:
        attributes = optuna.load_study(study_name=name, storage=storage).user_attrs
        if SPEC in attributes:
            return
        if time.monotonic() > deadline:
            raise _foreign(name)
        time.sleep(POLL_S)


def _foreign(name: str) -> StudyMismatch:
    found = f"study {name!r}: made by another program, expected a study of quell"
    return StudyMismatch(f"{found}; give the study file another name, or use another storage")


def check_same(study: optuna.Study, spec: StudySpec, corpus: Corpus) -> None:
    """Raises StudyMismatch, with what differs, unless the study has this specification, this corpus and our recipe."""
    attributes = study.user_attrs
    # The hash of an older version lacks the keys that came later.
    if attributes[HASH] != spec.hash() and (differs := difference(completed(attributes[SPEC]), spec.resolved())):
        raise StudyMismatch(
            f"study {spec.study.name!r}: {differs}; give the study file another name, or put the value back"
        )
    if attributes["corpus"] != corpus.fingerprint:
        raise StudyMismatch(
            f"study {spec.study.name!r}: corpus {corpus.fingerprint}, expected {attributes['corpus']}: recordings were "
            "added, removed or changed since it began; put them back, or give the study file another name"
        )
    check_recipe(study, corpus)


def check_recipe(study: optuna.Study, corpus: Corpus) -> None:
    """Raises StudyMismatch unless this version trains and scores on the corpus as the one that made the study."""
    stored = study.user_attrs.get(RECIPE, {"number": FIRST_RECIPE, "quell": None})
    ours = recipe(corpus)
    if stored["number"] != ours:
        here, then = version.shown(version.record()), version.shown(stored["quell"])
        raise StudyMismatch(
            f"study {study.study_name!r}: recipe {ours} of {here}, expected recipe {stored['number']} of {then}, which "
            "made it: scores cannot be compared; use that version, or begin a study of another name"
        )


def spec_of(study: optuna.Study) -> StudySpec:
    """The specification that a study was made from, without its folders."""
    return restore(study.user_attrs[SPEC], study.study_name)


def corpus_of(study: optuna.Study, corpora: Path) -> Corpus:
    """The decoded corpus that a study was made from; raises CorpusError if it is not in the folder `corpora`."""
    return open_store(corpora / study.user_attrs["corpus"])


def metric(study: optuna.Study) -> str:
    """The first score of a study, a metric of quality."""
    score = study.user_attrs["spec"]["study"]["score"]
    return str(score if isinstance(score, str) else score[0])


def difference(stored: dict[str, Any], current: dict[str, Any], prefix: str = "") -> str:
    """The first key with another value, as `<key> is <current>, expected <stored>`; empty when there is none."""
    for key in sorted({*stored, *current}):
        new, old = current.get(key), stored.get(key)
        if isinstance(new, dict) and isinstance(old, dict) and "choices" not in new and "low" not in new:
            if inner := difference(old, new, f"{prefix}{key}."):
                return inner
        elif json.dumps(new, sort_keys=True) != json.dumps(old, sort_keys=True):
            return f"{prefix}{key} is {json.dumps(new)}, expected {json.dumps(old)} as when it began"
    return ""


@contextmanager
def there(study: optuna.Study) -> Iterator[None]:
    """For a block that reads and writes a study; raises StudyNotFound for an error that its deletion explains."""
    try:
        yield
    except StorageError:  # the database is away
        raise
    except Exception as error:
        if study.study_name in {stored.study_name for stored in storage_of(study).get_all_studies()}:
            raise
        needed = "expected it to stay; `quell tune` makes a new one"
        raise StudyNotFound(f"study {study.study_name!r}: deleted while it ran, {needed}") from error


def load_study(name: str | None, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A stored study by name; without a name the search that was tuned last. Studies of other programs are not read.

    Raises:
        StudyNotFound: there is none.
        StudyMismatch: another program made it.
    """
    stored = storage.get_all_studies()  # Optuna's summaries read every trial: 1.3 s for 1000
    ours = [study for study in stored if SPEC in study.user_attrs]
    names = [study.study_name for study in ours]
    if name is not None and name not in names and name in {study.study_name for study in stored}:
        raise _foreign(name)
    if not names:
        found = f"{len(stored)} studies of other programs" if stored else "no studies"
        raise StudyNotFound(f"storage: {found}, expected at least one of quell; run `quell tune STUDY`")
    if name is None:
        name = max(ours, key=lambda study: str(study.user_attrs.get(TUNED, ""))).study_name
    elif name not in names:
        raise StudyNotFound(f"study {name!r}: not in the storage, expected one of {', '.join(names)}")
    return optuna.load_study(study_name=name, storage=storage)
