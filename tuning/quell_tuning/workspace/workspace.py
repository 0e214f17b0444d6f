"""What a command works in: the runs folder, the storage, the recordings and the artifacts."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.errors import CorpusError
from quell.processes import cores
from quell_tuning import progress
from quell_tuning.storage.backends import open_storage
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study.study_file import StudySpec
from quell_tuning.workspace.run_folder import RunFolder


@dataclass(frozen=True)
class Workspace:
    """The folders and the storage of a command.

    Attributes:
        storage_url: may hold a password.
        corpus: as given; None when no corpus was named.
        artifacts_url: a folder or a bucket; None for a folder among the runs.
    """

    runs: RunFolder
    storage_url: str = field(repr=False)
    corpus: Path | None
    artifacts_url: str | None = None

    def open_storage(self, *, create: bool = False) -> RetryingStorage:
        """The storage, opened as by `backends.open_storage`; a server of our own runs as long as this process."""
        return open_storage(self.storage_url, self.runs.postgres, create=create)

    def corpus_root(self, spec: StudySpec) -> Path:
        """The folder that `clean` and `noise` are relative to; a synthetic corpus is made when it is absent."""
        if self.corpus is not None:
            return self.corpus
        if not spec.corpus.synthetic:
            return Path()
        root = self.runs.folder / "demo-corpus"
        if not root.exists():
            from quell.datasets.synthetic_corpus import make_demo_corpus

            try:
                make_demo_corpus(root)
            except (CorpusError, OSError):
                if not root.exists():  # else another process made the same corpus meanwhile
                    raise
        return root

    def corpus_config(self, spec: StudySpec, console: Console) -> CorpusConfig:
        """The recordings of a study; generated rooms are made where they do not exist yet."""
        rooms = None
        if count := spec.corpus.generated_rooms:
            from quell.datasets.synthetic_rooms import generate

            with progress.bar("making rooms", console) as move:
                rooms = generate(self.runs.corpora, count, spec.corpus.sample_rate, spec.study.seed, move)
        return spec.corpus_config(self.corpus_root(spec), rooms)

    def open_corpus(
        self, spec: StudySpec, console: Console, skipped: Iterable[str] = (), whole: Collection[str] = ()
    ) -> Corpus:
        """The corpus of a study without `skipped` recordings; decodes it, with a progress bar, where it is not yet.
        `whole`: splits to check, as of `prepare`."""
        config = self.corpus_config(spec, console).without(skipped)
        with progress.bar("decoding recordings", console) as move:
            return prepare(config, self.runs.corpora, move, cores(), whole)
