"""Recordings that a study leaves out, because they are broken or leak: found before anything is decoded."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from quell.audit.corpus_audit import Audit, audit, without
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import home
from quell.errors import AudioError, CorpusError
from quell.processes import cores
from quell_tuning import progress
from quell_tuning.errors import StorageError, StudyNotFound
from quell_tuning.study.stored_study import SKIPPED, load_study
from quell_tuning.workspace.workspace import Workspace

if TYPE_CHECKING:
    from quell_tuning.study.study_file import StudySpec


def checked(spec: StudySpec, place: Workspace, console: Console, *, skip_bad: bool) -> frozenset[str]:
    """The recordings that a search leaves out: those that its study does already, else those with errors where
    `skip_bad` allows it.

    A corpus that a search was begun on before is not read again.

    Raises:
        CorpusError: errors in recordings that may not be skipped, or too few recordings without them.
    """
    known = stored(spec, place)
    config = place.corpus_config(spec, console).without(known)
    if _checked_before(config, place):
        return known
    with progress.bar("reading recordings", console) as move:
        found = audit(config, cores(), move)
    skipped = _skipped(found, console, skip_bad=skip_bad)
    mark = _mark(config.without(skipped), place)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()
    return known | skipped


def _checked_before(config: CorpusConfig, place: Workspace) -> bool:
    try:
        return _mark(config, place).exists()
    except AudioError:  # the audit says it, with all else that is wrong
        return False


def _mark(config: CorpusConfig, place: Workspace) -> Path:
    """A file that says that these very recordings were checked. That they were decoded does not: a preview decodes."""
    folder = home(config, place.runs.corpora)[1]
    return folder.with_name(f"{folder.name}.checked")


def stored(spec: StudySpec, place: Workspace) -> frozenset[str]:
    """What the study of a specification leaves out; nothing where there is no such study yet."""
    try:
        with closing(place.open_storage()) as storage:
            return frozenset(load_study(spec.study.name, storage).user_attrs.get(SKIPPED, ()))
    except (StorageError, StudyNotFound):
        return frozenset()


def _skipped(found: Audit, console: Console, *, skip_bad: bool) -> frozenset[str]:
    skipped: set[str] = set()
    while found.errors:
        first = found.errors[0]
        bad = {name for error in found.errors for name in error.names}
        if not bad:  # a split that is too short
            raise CorpusError(first.text)
        if not skip_bad:
            more = f" (and {len(found.errors) - 1} more errors)" if found.errors[1:] else ""
            advice = "`quell corpus check` tells all, --skip-bad leaves such recordings out"
            raise CorpusError(f"{first.text}{more}; {advice}")
        for error in found.errors:
            console.print(f"left out: {error.text}", highlight=False, markup=False)
        skipped |= bad
        found = without(found, bad)
    return frozenset(skipped)
