"""Recordings that a study leaves out because they are broken or leak between splits; determined before decoding."""

from contextlib import closing, suppress
from pathlib import Path

from rich.console import Console

from quell.audit.corpus_audit import Audit, audit, without
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import home
from quell.errors import AudioError, CorpusError
from quell.processes import cores
from quell_tuning import progress
from quell_tuning.errors import StorageError, StudyNotFound
from quell_tuning.study.stored_study import SKIPPED, load_study
from quell_tuning.study.study_file import StudySpec
from quell_tuning.workspace.workspace import Workspace


def exclusions(spec: StudySpec, place: Workspace, console: Console, *, skip_bad: bool) -> frozenset[str]:
    """Audits a study's recordings and returns the names of those to leave out: the study's own exclusions, and with
    `skip_bad` recordings with errors.

    Recordings that an earlier search has audited are not read again.

    Raises:
        CorpusError: errors without `skip_bad`, or too few recordings without errors.
    """
    earlier = stored(spec, place)
    config = place.corpus_config(spec, console).without(earlier)
    with suppress(AudioError):  # the audit reports it, with all other errors
        if _mark(config, place).exists():
            return earlier
    with progress.bar("reading recordings", console) as update:
        result = audit(config, cores(), update)
    excluded = _bad_recordings(result, console, skip_bad=skip_bad)
    mark = _mark(config.without(excluded), place)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return earlier | excluded


def _mark(config: CorpusConfig, place: Workspace) -> Path:
    """An empty file that exists once exactly these recordings were audited.

    A decoded corpus does not prove that: `corpus preview` decodes without an audit.
    """
    folder = home(config, place.runs.corpora)[1]
    return folder.with_name(f"{folder.name}.checked")


def stored(spec: StudySpec, place: Workspace) -> frozenset[str]:
    """The recordings that the stored study leaves out; none if it is not stored yet."""
    try:
        with closing(place.open_storage()) as storage:
            return frozenset(load_study(spec.study.name, storage).user_attrs.get(SKIPPED, ()))
    except (StorageError, StudyNotFound):
        return frozenset()


def _bad_recordings(result: Audit, console: Console, *, skip_bad: bool) -> frozenset[str]:
    """The recordings to leave out until no error remains."""
    excluded: set[str] = set()
    while result.errors:
        first = result.errors[0]
        bad = {name for error in result.errors for name in error.names}
        if not bad:  # a split that is too short
            raise CorpusError(first.text)
        if not skip_bad:
            more = f" (and {len(result.errors) - 1} more errors)" if result.errors[1:] else ""
            advice = "`quell corpus check` lists all, --skip-bad leaves such recordings out"
            raise CorpusError(f"{first.text}{more}; {advice}")
        for error in result.errors:
            console.print(f"left out: {error.text}", highlight=False, markup=False)
        excluded |= bad
        result = without(result, bad)
    return frozenset(excluded)
