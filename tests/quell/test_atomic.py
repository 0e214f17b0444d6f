"""A file is there whole, or as it was."""

from __future__ import annotations

import pytest

from quell.atomic import replacing


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
    with pytest.raises(FileNotFoundError, match=r"\.a\.\d+\.wav"), replacing(tmp_path / "a.wav"):
        pass
    assert (tmp_path / "a.wav").read_text() == "old"
