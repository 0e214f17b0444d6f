"""Where a study's things are and what it may use: flag, else environment, else default."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from quell.corpus import Corpus
from quell.errors import CorpusError
from quell.recordings import CorpusConfig
from quell.store import prepare
from tuning import progress
from tuning.errors import StorageError, UsageError
from tuning.patience import PatientStorage
from tuning.runs import Runs
from tuning.storage import CONNECTIONS, check_scheme, open_storage

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore

    from tuning.study_file import StudySpec

STORAGE = "QUELL_STORAGE"
LOCAL_POSTGRES = "postgres"


def storage_url(flag: str | None, file: Path | None, runs: Runs) -> str:
    """The storage that was asked for; a URL with a password in it belongs in a file or in the environment.

    Raises:
        UsageError: both a URL and a file.
        StorageError: the file cannot be read, or what is asked for is no storage URL.
    """
    if flag and file:
        raise UsageError("--storage and --storage-file: both given, expected one; leave the other one out")
    url = _written(file) if file is not None else flag or os.environ.get(STORAGE) or runs.storage_url
    if url != LOCAL_POSTGRES:
        check_scheme(url)
    return url


def _written(file: Path) -> str:
    try:
        lines = file.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise StorageError(f"{file}: {reason}, expected a file that holds a storage URL; check the path") from None
    if len(lines) != 1:
        raise StorageError(f"{file}: {len(lines)} words, expected one, the storage URL; remove the others")
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
        from tuning.artifacts import open_artifacts

        return open_artifacts(self.artifacts_url, self.runs)

    def open_storage(self, *, create: bool = False, connections: int = CONNECTIONS) -> PatientStorage:
        """The storage; starts the server of `--storage postgres`, which this process then keeps alive.

        Raises:
            StorageError: it cannot be opened.
        """
        if self.storage_url != LOCAL_POSTGRES:
            return open_storage(self.storage_url, create=create, connections=connections)
        from tuning import local_postgres

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
            return prepare(config, self.runs.corpora, move, len(os.sched_getaffinity(0)))


def check_devices(names: Sequence[str]) -> list[str]:
    """The devices to use; all GPUs, or the CPU where there is none, when no name is given.

    Raises:
        UsageError: a device that torch does not know or this machine does not have.
    """
    for name in names:
        if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
            raise UsageError(f"--devices: {name!r}, expected cpu, cuda or cuda:<number>, separated by commas")
    if names and all(name == "cpu" for name in names):
        return list(names)
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in names:
        number = int(name.partition(":")[2] or 0)
        if name != "cpu" and number >= count:
            raise UsageError(
                f"--devices: {name!r}, expected one of this machine's {count} GPUs; use cpu, or another number"
            )
    return list(names) or [f"cuda:{number}" for number in range(count)] or ["cpu"]


def share_devices(devices: Sequence[str], per_gpu: int, workers: int | None) -> list[str]:
    """The device of each worker: every GPU so many times, or `workers` of them in turn."""
    places = [device for _ in range(per_gpu) for device in devices]
    return [places[number % len(places)] for number in range(workers or len(places))]
