"""Scans folders for recordings with their groups and splits; finds leaks between splits and missing partners."""

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from quell import audio
from quell.corpus.recordings import FOLDERS, CorpusConfig, Kind, Recording, partners, stem
from quell.corpus.splits import SPLITS, group_of, split_groups
from quell.errors import CorpusError


def find(config: CorpusConfig) -> list[Recording]:
    """All recordings with their groups and splits, sorted by kind and path; opens no file.

    Raises:
        CorpusError: a folder is missing or empty, a name has no group or split, or there are too few groups.
    """
    recordings: list[Recording] = []
    other: tuple[Kind, str] = ("noise", config.group_noise) if config.noisy is None else ("noisy", config.group_clean)
    sides: tuple[tuple[Kind, str], ...] = (("clean", config.group_clean), other)
    for kind, rule in sides:
        folder = config.folder(kind)
        if not folder.is_dir():
            raise CorpusError(
                f"{folder}: no such folder, expected the {kind} recordings; give --corpus or QUELL_CORPUS"
            )
        paths = [path.relative_to(folder) for path in audio.find(folder)]
        paths = [path for path in paths if f"{kind}/{path.as_posix()}" not in config.skip]
        if kind == "noise" and config.kinds:
            paths = _of_kinds(folder, paths, config.kinds, config.splits == FOLDERS)
        if not paths:
            raise CorpusError(f"{folder}: no sound files, expected {kind} recordings (WAV, FLAC, Ogg, ...); add some")
        recordings += _with_splits(kind, folder, paths, rule, config.splits)
    if config.noisy is not None:
        recordings = _as_partners(recordings)
    return recordings + ([] if config.rooms is None else _rooms(config.rooms, config.skip))


def scan(config: CorpusConfig, digest: Callable[[Path], str]) -> list[Recording]:
    """The recordings of `find`, with digests of their files (`quell.corpus.file_digests`).

    Raises:
        AudioError: a file cannot be read.
        CorpusError: as `find`.
    """
    return [replace(recording, digest=digest(config.path(recording))) for recording in find(config)]


class Problem(NamedTuple):
    """Recordings because of which a corpus is not decoded."""

    names: tuple[str, ...]  # of the recordings to leave out
    text: str


def leaks(config: CorpusConfig, recordings: Sequence[Recording]) -> Iterator[Problem]:
    """Groups that lie in more than one split: the denoiser would be scored on what it was trained on."""
    groups: dict[tuple[Kind, str], list[Recording]] = {}
    for recording in recordings:
        if recording.kind != "noisy":  # its clean version decides
            groups.setdefault((recording.kind, recording.group), []).append(recording)
    for (kind, group), members in sorted(groups.items()):
        counts = Counter(member.split for member in members)
        if len(counts) > 1:
            (largest, _), *_ = counts.most_common()
            names = tuple(member.name for member in members if member.split != largest)
            found = " and ".join(split for split in SPLITS if split in counts)
            text = f"group {group!r} lies in {found}, expected one split; move its recordings together"
            yield Problem(names, f"{config.folder(kind)}: {text}")


def unpaired(config: CorpusConfig, recordings: Sequence[Recording]) -> Iterator[Problem]:
    """Noisy and clean recordings without a partner, in a corpus of pairs."""
    if config.noisy is None:
        return
    paired = {recording.name for pair in partners(recordings) for recording in pair}
    for recording in recordings:
        if recording.kind in ("clean", "noisy") and recording.name not in paired:
            partner: Kind = "clean" if recording.kind == "noisy" else "noisy"
            needed = f"expected {config.folder(partner) / stem(recording.path)}.*; add it or leave this one out"
            yield Problem((recording.name,), f"{config.path(recording)}: no {partner} partner, {needed}")


def _of_kinds(folder: Path, paths: Sequence[Path], kinds: Sequence[str], below: bool) -> list[Path]:
    """The recordings of some kinds of noise; with `below`, their folders lie in a folder of each split."""
    kind_of = {}
    for path in paths:
        parts = path.parts[1:] if below else path.parts
        if len(parts) > 1 and parts[0] in kinds:
            kind_of[path] = parts[0]
    for kind in kinds:
        if kind not in kind_of.values():
            names = sorted({path.parts[-2] for path in paths if len(path.parts) > 1})
            raise CorpusError(f"{folder}: no noise of the kind {kind!r}, expected its folder among {', '.join(names)}")
    return list(kind_of)


def _as_partners(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, noisy ones with the group and split of their clean version."""
    clean = {noisy.name: clean for noisy, clean in partners(recordings)}
    return [
        replace(one, group=clean[one.name].group, split=clean[one.name].split) if one.name in clean else one
        for one in recordings
    ]


def _with_splits(
    kind: Kind, folder: Path, paths: Sequence[Path], rule: str, splits: Mapping[str, float] | str
) -> list[Recording]:
    if not isinstance(splits, str):
        return _by_shares(kind, folder, paths, rule, splits)
    split_of = _by_folders(folder, paths) if splits == FOLDERS else _by_list(folder, paths, Path(splits))
    for name in SPLITS:
        if name not in split_of.values():
            raise CorpusError(f"{folder}: no {kind} recordings for the {name} split, expected some; see {splits}")
    # The folder of a split is no part of the names of groups and categories below it.
    short = {path: Path(*path.parts[1:]) if splits == FOLDERS else path for path in paths}
    return [
        Recording(kind, path.as_posix(), group_of(short[path], rule), _category(kind, short[path]), split_of[path])
        for path in paths
    ]


def _by_shares(
    kind: Kind, folder: Path, paths: Sequence[Path], rule: str, shares: Mapping[str, float]
) -> list[Recording]:
    groups = {path: group_of(path, rule) for path in paths}
    categories: dict[str, str] = {}
    for path in paths:  # a group in two folders has the category of the first: it gets one split
        categories.setdefault(groups[path], _category(kind, path))
    if len(categories) < len(SPLITS):
        found = f"{len(categories)} groups in {len(paths)} files, by {rule!r}"
        needed = f"expected at least {len(SPLITS)} groups of {kind} recordings, one for each split"
        raise CorpusError(f"{folder}: {found}, {needed}; {_more_groups(kind, paths, rule)}")
    assigned = split_groups(categories, shares)
    return [
        Recording(kind, path.as_posix(), groups[path], _category(kind, path), assigned[groups[path]]) for path in paths
    ]


def _more_groups(kind: Kind, paths: Sequence[Path], rule: str) -> str:
    """What helps where recordings are in too few groups."""
    key = "group_noise" if kind == "noise" else "group_clean"
    voices = "" if kind == "noise" else ", though scores are then of voices that were trained on"
    if rule != "file" and len(paths) >= len(SPLITS):
        return f'set corpus.{key} = "file": each file is a group{voices}'
    by_file = "" if rule == "file" else f' and set corpus.{key} = "file"'
    return f"add recordings, or cut them into at least {len(SPLITS)} files{by_file}{voices}"


def _category(kind: Kind, path: Path) -> str:
    return path.parts[0] if kind == "noise" and len(path.parts) > 1 else ""


def _by_folders(folder: Path, paths: Sequence[Path]) -> dict[Path, str]:
    for path in paths:
        if path.parts[0] not in SPLITS or len(path.parts) < 2:
            raise CorpusError(
                f"{folder / path}: not in a folder of a split, expected {', '.join(SPLITS)}; move it there, or change "
                "corpus.splits"
            )
    return {path: path.parts[0] for path in paths}


def _by_list(folder: Path, paths: Sequence[Path], table: Path) -> dict[Path, str]:
    """Splits from the longest path in the table that is a recording's, or a folder's above it."""
    rows = _read_list(table)
    split_of = {}
    for path in paths:
        absolute = (folder / path).resolve()
        split = next((rows[above] for above in (absolute, *absolute.parents) if above in rows), None)
        if split is None:
            needed = "expected its split; add a row for it or for its folder"
            raise CorpusError(f"{table}: no row for {folder / path}, {needed}")
        split_of[path] = split
    return split_of


def _read_list(table: Path) -> dict[Path, str]:
    try:
        with table.open(newline="") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"path", "split"} <= set(rows.fieldnames):
                raise CorpusError(
                    f"{table}: columns {rows.fieldnames}, expected path and split; correct its first line"
                )
            splits: dict[Path, str] = {}
            for row in rows:
                path = (table.parent / (row["path"] or "")).resolve()
                if row["split"] not in SPLITS:
                    raise CorpusError(
                        f"{table}: line {rows.line_num} has the split {row['split']!r}, expected {', '.join(SPLITS)}"
                    )
                if splits.setdefault(path, row["split"]) != row["split"]:
                    raise CorpusError(
                        f"{table}: {row['path']} in {splits[path]} and {row['split']}, expected one; remove a row"
                    )
            return splits
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CorpusError(f"{table}: {reason}, expected a CSV file with path and split; see corpus.splits") from None


def _rooms(folder: Path, skip: frozenset[str]) -> list[Recording]:
    names = [path.relative_to(folder).as_posix() for path in audio.find(folder)] if folder.is_dir() else []
    names = [name for name in names if f"room/{name}" not in skip]
    if not names:
        raise CorpusError(f"{folder}: no room responses, expected a folder of impulse responses; remove corpus.rooms")
    return [Recording("room", name, name, "", "train") for name in names]
