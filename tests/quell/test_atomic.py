"""A file is there whole, or as it was."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quell import atomic
from quell.atomic import new_folder, replacing, sweep


def test_the_final_name_appears_when_the_block_ends(tmp_path):
    with replacing(tmp_path / "a.wav") as partial:
        partial.write_text("new")
        assert not (tmp_path / "a.wav").exists()
        assert partial.parent == tmp_path and partial.suffix == ".wav" and partial.name.startswith(".")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.wav": "new"}


@pytest.mark.parametrize("interruption", [ValueError("wrong"), KeyboardInterrupt()])
@pytest.mark.parametrize("old", ["old", None])
def test_a_block_that_fails_leaves_what_was_there(tmp_path, interruption, old):
    if old is not None:
        (tmp_path / "a.wav").write_text(old)
    with pytest.raises(type(interruption)), replacing(tmp_path / "a.wav") as partial:
        partial.write_text("half")
        raise interruption
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == ({} if old is None else {"a.wav": old})


def test_a_block_that_writes_nothing_fails_and_leaves_what_was_there(tmp_path):
    (tmp_path / "a.wav").write_text("old")
    with pytest.raises(FileNotFoundError, match=r"\.a\.\d+-\w+\.wav"), replacing(tmp_path / "a.wav"):
        pass
    assert (tmp_path / "a.wav").read_text() == "old"


def test_a_folder_appears_when_the_block_ends_and_not_at_all_when_it_fails(tmp_path):
    with new_folder(tmp_path / "new" / "a") as partial:
        (partial / "file").write_text("new")
        assert not (tmp_path / "new" / "a").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]
    assert (tmp_path / "new" / "a" / "file").read_text() == "new"
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "new" / "b") as partial:
        (partial / "file").write_text("half")
        raise KeyboardInterrupt
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_two_builds_of_a_folder_at_once_do_not_touch_each_other(tmp_path):
    with new_folder(tmp_path / "a") as first:
        (first / "file").write_text("first")
        with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "a"):
            raise KeyboardInterrupt
    assert (tmp_path / "a" / "file").read_text() == "first"


def test_the_longest_names_can_be_written(tmp_path):
    for stem in ("n" * 251, "\N{LATIN SMALL LETTER U WITH DIAERESIS}" * 125):
        with replacing(tmp_path / f"{stem}.wav") as partial:
            partial.write_text("new")
        assert (tmp_path / f"{stem}.wav").read_text() == "new"


def test_of_two_writers_of_a_new_file_the_second_fails_and_the_first_ones_file_stays(tmp_path, monkeypatch):
    def link_nothing(path, target):
        raise PermissionError("no hard links here")  # as FAT says

    for folder, patched in (("linked", False), ("reserved", True)):
        if patched:
            monkeypatch.setattr(Path, "hardlink_to", link_nothing)
        (tmp_path / folder).mkdir()
        with (
            pytest.raises(FileExistsError),
            replacing(tmp_path / folder / "a.wav", overwrite=False) as second,
        ):
            second.write_text("second")
            with replacing(tmp_path / folder / "a.wav", overwrite=False) as first:
                first.write_text("first")
        assert {path.name: path.read_text() for path in (tmp_path / folder).iterdir()} == {"a.wav": "first"}


def test_two_writers_of_one_process_have_files_of_their_own(tmp_path):
    with replacing(tmp_path / "a.wav") as first, replacing(tmp_path / "a.wav") as second:
        first.write_text("first")
        second.write_text("second")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.wav": "first"}


def test_a_file_of_another_container_is_swept_only_after_a_day_without_a_write(tmp_path):
    with replacing(tmp_path / "a.wav") as partial:
        partial.touch()
    elsewhere = tmp_path / partial.name.replace(f"-{atomic._place()}", "-00000000").replace(
        str(os.getpid()), "99999999"
    )
    elsewhere.write_text("half")
    sweep([tmp_path / "a.wav"])
    assert elsewhere.exists()
    os.utime(elsewhere, (0, 0))
    sweep([tmp_path / "a.wav"])
    assert not elsewhere.exists()


def test_what_a_killed_writer_left_is_swept_and_nothing_else(tmp_path):
    script = (
        "import os, sys; from contextlib import ExitStack; from pathlib import Path\n"
        "from quell.atomic import replacing, second\n"
        "with ExitStack() as blocks:\n"
        "    for path in sys.argv[1:]:\n"
        "        partial = blocks.enter_context(replacing(Path(path)))\n"
        "        partial.write_text('half'); second(partial).write_text('half')\n"
        "    os.kill(os.getpid(), 9)"
    )
    names = ["a.wav", "new\nline.wav", "n" * 251 + ".wav", "bare"]
    subprocess.run([sys.executable, "-c", script, *(str(tmp_path / name) for name in names)], check=False)
    (tmp_path / ".a.999999999.wav").touch()  # as an earlier version named them
    left = set(tmp_path.iterdir())
    others = {
        tmp_path / f".a.{os.getpid()}.wav",
        tmp_path / ".b.999999999.wav",
        tmp_path / ".a.wav",
        tmp_path / "a.wav",
    }
    for path in others:
        path.touch()
    assert len(left) == 9
    sweep(tmp_path / name for name in names)
    sweep([tmp_path / "nowhere" / "a.wav"])
    assert set(tmp_path.iterdir()) == others
