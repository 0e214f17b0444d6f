"""Every recording has a group and a split, by its name, its folder or a list."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from sounds import ESC, recordings_of, tone, write

from quell.corpus.recordings import CorpusConfig
from quell.corpus.scan import find, leaks
from quell.corpus.splits import SPLITS
from quell.corpus.store import prepare
from quell.errors import CorpusError


def test_takes_of_one_esc_source_are_one_group(tmp_path):
    clean = write(tmp_path / "clean" / "a.wav", tone())
    for other in "bc":
        shutil.copy(clean, clean.with_name(f"{other}.wav"))
    for category in ("rain", "wind"):
        for source in range(137, 167):
            for take in "ABC":
                path = tmp_path / "noise" / category / f"{source % 5 + 1}-{source}{category == 'rain':d}-{take}-10.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"only hashed")
    found = find(CorpusConfig(tmp_path / "clean", tmp_path / "noise", 8_000, "file", ESC))
    splits = {}
    for recording in found:
        splits.setdefault((recording.kind, recording.group), set()).add(recording.split)
    assert all(len(split) == 1 for split in splits.values())
    assert len(splits) == 3 + 60
    assert "1371" in {recording.group for recording in found}


def test_a_group_in_two_folders_gets_one_split(tmp_path):
    config = recordings_of(tmp_path, sources=8)
    for source in range(8):
        write(tmp_path / "noise" / "wind" / f"{source}.wav", tone())
    found = [r for r in find(replace(config, group_noise=r"^(\d)")) if r.kind == "noise"]
    for source in "01234567":
        assert len({r.split for r in found if r.group == source}) == 1
        assert {r.category for r in found if r.group == source} == {"rain", "wind"}


@pytest.mark.parametrize(
    ("counts", "found", "advice"),
    [
        (
            {"speakers": 2, "takes": 2},
            "clean: 2 groups in 4 files, by 'parent'",
            'set corpus.group_clean = "file": each',
        ),
        ({"speakers": 1}, "clean: 1 groups in 1 files", 'at least 3 files and set corpus.group_clean = "file", though'),
        ({"sources": 1}, "noise: 1 groups in 1 files, by 'file'", "add recordings, or cut them into at least 3 files"),
    ],
)
def test_fewer_than_three_groups_are_refused_with_what_helps(tmp_path, counts, found, advice):
    with pytest.raises(CorpusError, match=f"{found}.*, expected at least 3 groups .*{advice}"):
        find(recordings_of(tmp_path, **counts))


def test_name_without_a_group_is_refused_with_the_rule(tmp_path):
    config = recordings_of(tmp_path)
    message = f"rain/0.wav: name without a group, expected a match of {ESC!r}"
    with pytest.raises(CorpusError, match=re.escape(message)):
        find(replace(config, group_noise=ESC))


def test_hidden_files_and_other_suffixes_are_no_recordings(config, store):
    before = find(config)
    (config.clean / "README.txt").write_text("speech")
    (config.clean / ".cache").mkdir()
    write(config.clean / ".cache" / "x.wav", tone())
    write(config.clean / "s0" / "._0.wav", tone())
    assert find(config) == before


@pytest.mark.parametrize("side", ["clean", "noise"])
def test_a_missing_or_empty_folder_is_named_with_its_side(config, side):
    folder = getattr(config, side)
    shutil.rmtree(folder)
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no such folder, expected the {side} recordings")):
        find(config)
    folder.mkdir()
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no sound files, expected {side} recordings")):
        find(config)


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_rooms_is_named(config, tmp_path, empty):
    folder = tmp_path / "rooms"
    if empty:
        folder.mkdir()
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no room responses, expected a folder of impulse")):
        find(replace(config, rooms=folder))


def split_folders(folder: Path) -> CorpusConfig:
    """Two speakers and two noises for each split, in folders by its name."""
    for at, name in enumerate(SPLITS):
        for i in range(2):
            write(folder / "clean" / name / f"s{2 * at + i}" / "0.wav", tone(frequency=300 + 10 * at + i))
            write(folder / "noise" / name / "rain" / f"{2 * at + i}.wav", tone(frequency=900 + 10 * at + i))
    return CorpusConfig(folder / "clean", folder / "noise", 8_000, splits="folders")


def listed(folder: Path, *rows: str) -> CorpusConfig:
    config = recordings_of(folder)
    (folder / "splits.csv").write_text("\n".join(["path,split", *rows]) + "\n")
    return replace(config, splits=str(folder / "splits.csv"))


ALL = ["clean/s0,train", "clean/s1,validation", "clean/s2,test"]
NOISES = ["noise,train", "noise/rain/1.wav,validation", "noise/rain/2.wav,test"]


def test_with_folders_as_splits_groups_and_kinds_are_named_below_them(tmp_path):
    found = find(split_folders(tmp_path))
    assert len(found) == 12
    assert all(recording.path.startswith(f"{recording.split}/") for recording in found)
    assert {recording.group for recording in found if recording.kind == "clean"} == {f"s{i}" for i in range(6)}
    assert {recording.category for recording in found if recording.kind == "noise"} == {"rain"}


def test_a_recording_outside_of_the_folders_of_the_splits_is_named(tmp_path):
    config = split_folders(tmp_path)
    path = write(config.clean / "extra" / "0.wav", tone())
    with pytest.raises(CorpusError, match=re.escape(f"{path}: not in a folder of a split, expected train, validation")):
        find(config)


def test_a_split_without_a_folder_is_named(tmp_path):
    config = split_folders(tmp_path)
    shutil.rmtree(config.noise / "test")
    with pytest.raises(CorpusError, match=re.escape(f"{config.noise}: no noise recordings for the test split")):
        find(config)


def test_a_list_gives_the_splits_of_folders_and_of_recordings(tmp_path):
    found = find(listed(tmp_path, *ALL, *NOISES))
    assert {recording.name: recording.split for recording in found} == {
        "clean/s0/0.wav": "train",
        "clean/s1/0.wav": "validation",
        "clean/s2/0.wav": "test",
        "noise/rain/0.wav": "train",
        "noise/rain/1.wav": "validation",
        "noise/rain/2.wav": "test",
    }


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        ([*ALL[:2], *NOISES], "no row for .*s2/0.wav, expected its split"),
        ([*ALL, *NOISES, "clean/s0,test"], "clean/s0 in train and test, expected one"),
        (["clean/s0,dev"], "line 2 has the split 'dev', expected train, validation, test"),
    ],
)
def test_a_wrong_row_of_a_list_is_named(tmp_path, rows, found):
    with pytest.raises(CorpusError, match=f"{re.escape(str(tmp_path / 'splits.csv'))}: {found}"):
        find(listed(tmp_path, *rows))


@pytest.mark.parametrize(
    ("content", "found"), [("a,b\n", r"columns \['a', 'b'\]"), (None, "No such file"), ("\xff", "")]
)
def test_a_list_without_its_columns_is_refused(tmp_path, content, found):
    config = listed(tmp_path)
    path = tmp_path / "splits.csv"
    path.unlink() if content is None else path.write_text(content, encoding="latin-1")
    with pytest.raises(CorpusError, match=f"{re.escape(str(path))}: {found}"):
        find(config)


def test_a_group_in_two_splits_of_a_list_is_refused(tmp_path):
    config = listed(tmp_path, *ALL, *NOISES, "clean/s0/1.wav,test")
    write(config.clean / "s0" / "1.wav", tone())
    assert [problem.names for problem in leaks(config, find(config))] == [("clean/s0/1.wav",)]
    with pytest.raises(CorpusError, match=r"clean: group 's0' lies in train and test, expected one split; move"):
        prepare(config, tmp_path / "store")


def test_skipped_recordings_are_not_found(tmp_path):
    config = recordings_of(tmp_path, takes=2)
    skipped = {"clean/s0/1.wav", "noise/rain/none.wav"}
    before, after = find(config), find(replace(config, skip=frozenset(skipped)))
    assert [recording.name for recording in before if recording not in after] == ["clean/s0/1.wav"]


@pytest.mark.parametrize("splits", ["dealt", "folders"])
def test_only_the_given_kinds_of_noise_are_found(tmp_path, splits):
    config = recordings_of(tmp_path) if splits == "dealt" else split_folders(tmp_path)
    for path in sorted(config.noise.rglob("*.wav")):
        for kind in ("wind", "hum"):
            place = path.parent.parent / kind / path.name
            place.parent.mkdir(exist_ok=True)
            shutil.copy(path, place)
    taken = find(replace(config, kinds=("rain", "hum")))
    assert {recording.category for recording in taken if recording.kind == "noise"} == {"rain", "hum"}
    assert len(taken) == 2 * len(find(replace(config, kinds=("rain",)))) - len(list(config.clean.rglob("*.wav")))
    with pytest.raises(CorpusError, match="no noise of the kind 'snow', expected its folder among hum, rain, wind"):
        find(replace(config, kinds=("snow",)))
