"""Where a study's things are and what it may use: flag, else environment, else default."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from quell.corpus import Corpus
from quell.errors import CorpusError
from quell.processes import cores
from quell.recordings import CorpusConfig
from quell.store import prepare
from quell_tuning import progress
from quell_tuning.errors import StorageError, UsageError
from quell_tuning.patience import PatientStorage
from quell_tuning.runs import Runs
from quell_tuning.storage import CONNECTIONS, check_scheme, open_storage, with_password

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

    from quell_tuning.study_file import StudySpec

STORAGE = "QUELL_STORAGE"
PASSWORD_FILE = "QUELL_STORAGE_PASSWORD_FILE"
LOCAL_POSTGRES = "postgres"


def storage_url(flag: str | None, file: Path | None, runs: Runs) -> str:
    """The storage that was asked for; a URL with a password in it belongs in a file or in the environment. One without
    takes that of the file which the environment names (PASSWORD_FILE), as container engines hand out secrets.

    Raises:
        UsageError: both a URL and a file.
        StorageError: the file cannot be read, or what is asked for is no storage URL.
    """
    if flag and file:
        raise UsageError("--storage and --storage-file: both given, expected one; leave the other one out")
    url = _written(file) if file is not None else flag or os.environ.get(STORAGE) or runs.storage_url
    if url == LOCAL_POSTGRES:
        return url
    check_scheme(url)
    secret = os.environ.get(PASSWORD_FILE)
    return with_password(url, _written(Path(secret), "database's password")) if secret else url


def _written(file: Path, what: str = "storage URL") -> str:
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StorageError(f"{file}: {reason}, expected a file that holds a {what}; check the path") from None
    if len(lines) != 1:
        raise StorageError(f"{file}: {len(lines)} words, expected one, the {what}; remove the others")
    return lines[0]


@dataclass(frozen=True)
class Place:
    """Folders and storage of a command."""

    runs: Runs
    storage_url: str = field(repr=False)  # may hold a password
    corpus: Path | None  # as given; None when nobody named one
    artifacts_url: str | None = None  # a folder or a bucket; None for a folder among the runs

    def open_artifacts(self) -> ArtifactStore:
        """The store of sounds and pictures.

        Raises:
            StorageError: it cannot be used; of a bucket that `runs` has open, `runs.check` tells.
        """
        from quell_tuning.artifacts import open_artifacts

        return open_artifacts(self.artifacts_url, self.runs)

    def open_storage(self, *, create: bool = False, connections: int = CONNECTIONS) -> PatientStorage:
        """The storage; starts the server of `--storage postgres`, which this process then keeps alive.

        Raises:
            StorageError: it cannot be opened.
        """
        if self.storage_url != LOCAL_POSTGRES:
            return open_storage(self.storage_url, create=create, connections=connections)
        from quell_tuning import local_postgres

        folder = self.runs.folder / "postgres"
        if not create and not folder.exists():
            raise StorageError(
                f"{folder}: no such database, expected one made by `quell tune --storage postgres`; run that"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        return open_storage(local_postgres.join(folder), connections=connections)

    def corpus_root(self, spec: StudySpec) -> Path:
        """The folder that `clean` and `noise` are relative to; a synthetic corpus is made when it is absent."""
        if self.corpus is not None:
            return self.corpus
        if not spec.corpus.synthetic:
            return Path()
        root = self.runs.folder / "demo-corpus"
        if not root.exists():
            from quell.demo_corpus import make_demo_corpus

            try:
                make_demo_corpus(root)
            except (CorpusError, OSError):
                if not root.exists():  # else another process was faster, and its corpus is the same
                    raise
        return root

    def corpus_config(self, spec: StudySpec, console: Console) -> CorpusConfig:
        """Which recordings a study is of; generated rooms are made where they are not there yet."""
        rooms = None
        if count := spec.corpus.generated_rooms:
            from quell.rooms import generate

            with progress.bar("making rooms", console) as move:
                rooms = generate(self.runs.corpora, count, spec.corpus.sample_rate, spec.study.seed, move)
        return spec.corpus_config(self.corpus_root(spec), rooms)

    def open_corpus(self, spec: StudySpec, console: Console, skipped: Iterable[str] = ()) -> Corpus:
        """The decoded corpus of a study; decodes it with a progress bar where that was not done yet.

        Args:
            skipped: recordings that the study leaves out.
        """
        config = self.corpus_config(spec, console).without(skipped)
        with progress.bar("decoding recordings", console) as move:
            return prepare(config, self.runs.corpora, move, cores())
