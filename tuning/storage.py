"""Optuna storages by URL, and what Quell writes on a study."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from quell.corpus import Corpus
from tuning.checkpoints import Checkpoints
from tuning.errors import StorageError, StudyMismatch, StudyNotFound
from tuning.study_file import StudySpec

# Seconds that a process waits for another one's write. Optuna's measured worst under 8 writers: 7 s.
BUSY_TIMEOUT_S = 60


@dataclass(frozen=True)
class Runs:
    """The folder that holds everything a study makes; never in the repository."""

    folder: Path

    @property
    def storage_url(self) -> str:
        return f"sqlite:///{self.folder / 'quell.db'}"

    @property
    def corpora(self) -> Path:
        return self.folder / "corpora"

    def study(self, name: str) -> Path:
        return self.folder / name

    def logs(self, name: str) -> Path:
        return self.study(name) / "logs"

    def checkpoints(self, name: str) -> Checkpoints:
        return Checkpoints(self.study(name) / "checkpoints")

    def weights(self, name: str, number: int) -> Path:
        return self.study(name) / "trials" / f"{number:05d}.weights"


def open_storage(url: str, *, create: bool = False) -> optuna.storages.RDBStorage:
    """The storage behind a URL: SQLite in write-ahead mode, so that readers never wait for a writer.

    Args:
        create: make the database file when it is absent.

    Raises:
        StorageError: another scheme, or the database cannot be opened.
    """
    scheme, _, location = url.partition(":///")
    if scheme != "sqlite" or not location:
        shown = sqlalchemy.engine.make_url(url).render_as_string(hide_password=True) if "://" in url else url
        raise StorageError(f"--storage: {shown}, expected sqlite:///FILE; leave it out for the database in --runs")
    file = Path(location)
    if not create and not file.exists():
        raise StorageError(
            f"{file}: no such database, expected one made by `quell tune`; run that, or name another --runs"
        )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(file.parent):  # of two that make the same tables at once, Optuna lets one fail
            storage = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": BUSY_TIMEOUT_S}})
        _lock_whole_transactions(storage.engine)
        with storage.engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        reason = str(getattr(error, "orig", error))
        raise StorageError(
            f"{file}: {reason}, expected a SQLite database that can be written; check the path"
        ) from error
    return storage


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Waits until no other process is inside for the same folder; a killed one leaves by being killed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lock_whole_transactions(engine: sqlalchemy.Engine) -> None:
    """Makes a transaction on SQLite take the write lock when it begins.

    Python's driver begins one at the first write only, and SQLite knows no SELECT ... FOR UPDATE. Optuna's change of a
    trial from WAITING to RUNNING therefore reads outside the transaction that writes: of 40 trials claimed by 4
    processes at once, some were given to 2 or 3 of them.
    """

    @sqlalchemy.event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself
        connection.execute("PRAGMA journal_mode=WAL")

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: sqlalchemy.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()  # connections from before the listeners


def create_study(spec: StudySpec, corpus: Corpus, storage: optuna.storages.BaseStorage) -> optuna.Study:
    """The study of a spec, made when it is new, checked against spec and corpus when it is there.

    Raises:
        StudyMismatch: the stored study was made from another spec or corpus; the message names the key.
    """
    study = optuna.create_study(
        study_name=spec.study.name,
        storage=storage,
        direction="maximize",
        load_if_exists=True,
        sampler=None,
        pruner=None,
    )
    attributes = study.user_attrs
    if "spec_hash" not in attributes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([spec.study.score])  # what optuna-dashboard writes on its axes
        study.set_user_attr("spec", spec.resolved())
        study.set_user_attr("corpus", corpus.fingerprint)
        study.set_user_attr("spec_hash", spec.hash())
        return study
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
    return study


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
    """A stored study by name; without a name the one that worked last.

    Raises:
        StudyNotFound: there is none.
    """
    summaries = optuna.get_all_study_summaries(storage)
    names = [summary.study_name for summary in summaries]
    if not names:
        raise StudyNotFound("storage: no studies, expected at least one; run `quell tune STUDY`")
    if name is None:
        latest = max(summaries, key=lambda s: (s.datetime_start is not None, s.datetime_start or 0))
        name = latest.study_name
    elif name not in names:
        raise StudyNotFound(f"study {name!r}: not in the storage, expected one of {', '.join(names)}")
    return optuna.load_study(study_name=name, storage=storage)
