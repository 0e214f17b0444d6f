"""What Quell writes on a study: its specification, its corpus, and the configurations it starts from."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from quell_tuning import formatting
from quell_tuning.errors import StudyMismatch, StudyNotFound

if TYPE_CHECKING:
    from quell.corpus.memory_map import Corpus
    from quell_tuning.study.study_file import StudySpec

# When a search was created or continued, ISO 8601 in UTC.
TUNED = "tuned"
# Recordings that a study leaves out, named as `quell.corpus.recordings.Recording.name` does.
SKIPPED = "skipped"


def create_study(spec: StudySpec, corpus: Corpus, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study of a spec, made when it is new, checked against spec and corpus when it is there.

    Raises:
        StudyMismatch: the stored study was made from another spec or corpus; the message names the key.
    """
    study = optuna.create_study(
        study_name=spec.study.name,
        storage=storage,
        directions=spec.study.directions,
        load_if_exists=True,
        sampler=None,
        pruner=None,
    )
    if "spec_hash" not in study.user_attrs:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([formatting.title(name) for name in spec.study.scores])  # on optuna-dashboard's axes
        study.set_user_attr("spec", spec.resolved())
        study.set_user_attr("corpus", corpus.fingerprint)
        study.set_user_attr("spec_hash", spec.hash())
    check_same(study, spec, corpus)
    return study


def check_same(study: optuna.Study, spec: StudySpec, corpus: Corpus) -> None:
    """Refuses a study that was made from another specification or corpus.

    Raises:
        StudyMismatch: the message names the key, or the corpus.
    """
    attributes = study.user_attrs
    if attributes["spec_hash"] != spec.hash():
        raise StudyMismatch(
            f"study {spec.study.name!r}: {difference(attributes['spec'], spec.resolved())}; "
            "give the study file another name, or put the value back"
        )
    if attributes["corpus"] != corpus.fingerprint:
        raise StudyMismatch(
            f"study {spec.study.name!r}: corpus {corpus.fingerprint}, expected {attributes['corpus']}: recordings were "
            "added, removed or changed since it began; put them back, or give the study file another name"
        )


def spec_of(study: optuna.Study) -> StudySpec:
    """The specification that a study was made from, without its folders."""
    from quell_tuning.study.study_file import restore  # loads pydantic, which a study's name needs not

    return restore(study.user_attrs["spec"], study.study_name)


def corpus_of(study: optuna.Study, corpora: Path) -> Corpus:
    """The decoded corpus that a study was made from.

    Raises:
        CorpusError: it is not in the folder `corpora`.
    """
    from quell.corpus.memory_map import open_store

    return open_store(corpora / study.user_attrs["corpus"])


def metric(study: optuna.Study) -> str:
    """The first score of a study, which says how good it sounds."""
    score = study.user_attrs["spec"]["study"]["score"]
    return str(score if isinstance(score, str) else score[0])


def difference(stored: dict[str, Any], given: dict[str, Any], prefix: str = "") -> str:
    """First key whose value differs, as `<key> is <given>, expected <stored>`."""
    for key in sorted({*stored, *given}):
        ours, theirs = given.get(key), stored.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict) and "choices" not in ours and "low" not in ours:
            inner = difference(theirs, ours, f"{prefix}{key}.")
            if inner:
                return inner
        elif json.dumps(ours, sort_keys=True) != json.dumps(theirs, sort_keys=True):
            return f"{prefix}{key} is {json.dumps(ours)}, expected {json.dumps(theirs)} as when it began"
    return ""


def load_study(name: str | None, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """A stored study by name; without a name the one that was tuned last, never one that lies beside a search.

    Raises:
        StudyNotFound: there is none.
    """
    stored = storage.get_all_studies()  # Optuna's summaries read every trial: 1.3 s for a thousand
    names = [study.study_name for study in stored]
    if not names:
        raise StudyNotFound("storage: no studies, expected at least one; run `quell tune STUDY`")
    if name is None:
        name = max(stored, key=lambda study: str(study.user_attrs.get(TUNED, ""))).study_name
    elif name not in names:
        raise StudyNotFound(f"study {name!r}: not in the storage, expected one of {', '.join(names)}")
    return optuna.load_study(study_name=name, storage=storage)
