"""Each attempt has a file of its own, which begins where the one before it was, on whichever machine that was."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from quell_tuning.errors import StorageError
from quell_tuning.workspace import bucket_mirror, checkpoints
from quell_tuning.workspace.checkpoints import Checkpoints

from quell.check_sums import sealed_json


def test_an_attempt_begins_with_the_latest_file_before_it_and_leaves_that_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    first = checkpoints.take_up(7, 1)
    assert not first.exists()
    first.write_text("first")
    second = checkpoints.take_up(7, 2)
    assert second.read_text() == "first"
    second.write_text("second")
    assert first.read_text() == "first"
    assert checkpoints.take_up(7, 4).read_text() == "second"


def test_an_attempt_continues_from_its_own_file(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take_up(0, 1).write_text("first")
    checkpoints.take_up(0, 2).write_text("second")
    assert checkpoints.take_up(0, 2).read_text() == "second"


def damaged(file: Path) -> None:
    file.write_text(sealed_json({"a": 1}).replace("1", "2", 1))


def intact(file: Path, content: str) -> str:
    file.write_text(sealed_json({"a": content}))
    return file.read_text()


def test_a_damaged_checkpoint_is_left_out_with_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoints = Checkpoints(tmp_path)
    first = checkpoints.take_up(7, 1)
    wanted = intact(first, "first")
    second = checkpoints.take_up(7, 2)
    damaged(second)
    for attempt in (2, 3):
        assert checkpoints.take_up(7, attempt).read_text() == wanted
    needed = "a damaged checkpoint; slot 7 continues from the one before, or from the start"
    assert caplog.messages == [f"{second}: {needed}"]  # attempt 2 has written a new one
    damaged(first)
    for attempt in (1, 2, 3):
        damaged(checkpoints.take_up(7, attempt))
    assert not checkpoints.take_up(7, 3).exists()


def test_dropping_a_trial_removes_its_checkpoints_only(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for slot in (0, 1):
        checkpoints.take_up(slot, 1).write_text(str(slot))
    checkpoints.drop(0)
    checkpoints.drop(5)
    assert not checkpoints.take_up(0, 2).exists()
    assert checkpoints.take_up(1, 2).read_text() == "1"


class Bucket:
    """What `quell_tuning.workspace.s3_bucket.Bucket` does, in memory; `begun` is set while it writes, which it does
    when it is `open`."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.written: list[str] = []
        self.tries = 0
        self.away = False
        self.begun, self.open = threading.Event(), threading.Event()
        self.open.set()

    def _answer(self) -> None:
        if self.away:
            raise StorageError("s3://b: it does not answer")

    def put(self, name: str, content: BinaryIO) -> None:
        self.tries += 1
        self.begun.set()
        self.open.wait(10)
        self._answer()
        self.files[name] = content.read()
        self.written.append(name)

    def get(self, name: str, into: BinaryIO) -> None:
        self._answer()
        if name not in self.files:
            raise FileNotFoundError(name)
        into.write(self.files[name])

    def delete(self, name: str) -> None:
        self._answer()
        self.files.pop(name, None)

    def names(self, folder: str) -> list[str]:
        self._answer()
        return [name.removeprefix(f"{folder}/") for name in self.files if name.startswith(f"{folder}/")]


class Left(BaseException):
    """The worker was asked to leave."""


Machine = Callable[[str], Checkpoints]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setattr(bucket_mirror, "POLL_S", 0.01)
    monkeypatch.setattr(bucket_mirror, "PAUSE_S", 0.05)
    monkeypatch.setattr(bucket_mirror, "CLOSE_S", 0.1)
    return Bucket()


@pytest.fixture
def machine(bucket: Bucket, tmp_path: Path) -> Iterator[Machine]:
    """The checkpoints of one study on a machine."""
    made: list[bucket_mirror.Mirror] = []

    def machine(name: str) -> Checkpoints:
        made.append(bucket_mirror.Mirror(tmp_path / name, cast("Any", bucket)))
        return Checkpoints(tmp_path / name / "s" / "checkpoints", made[-1])

    yield machine
    bucket.open.set()
    for one in made:
        one.close()


def leave(checkpoints: Checkpoints, slot: int, attempt: int, content: str) -> str:
    """A worker goes on with a trial, writes `content`, and leaves; returns what it found."""
    file = checkpoints.take_up(slot, attempt)
    found = file.read_text() if file.exists() else ""
    with pytest.raises(Left), checkpoints.shared(file):
        file.write_text(content)
        raise Left
    return found


def test_a_trial_moves_between_machines_with_its_latest_checkpoint(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    assert leave(one, 7, 1, "first") == ""
    assert leave(other, 7, 1, "second") == "first"
    assert leave(one, 7, 1, "third") == "second"
    assert leave(other, 7, 3, "fourth") == "third"
    assert leave(one, 7, 4, "fifth") == "fourth"
    assert leave(one, 8, 1, "") == ""


def test_the_newest_attempt_wins_whether_local_or_in_the_bucket(machine: Machine) -> None:
    one, other = machine("one"), machine("other")
    one.take_up(7, 1).write_text("killed before it was sent")
    leave(other, 7, 2, "newer")
    assert one.take_up(7, 3).read_text() == "newer"
    assert other.take_up(7, 3).read_text() == "newer"


def test_a_damaged_local_file_is_fetched_again(machine: Machine, bucket: Bucket) -> None:
    one = machine("one")
    file = one.take_up(7, 1)
    copy = intact(file, "a minute ago")
    bucket.files["s/checkpoints/00007/001.checkpoint"] = copy.encode()
    damaged(file)
    assert one.take_up(7, 2).read_text() == copy


def test_a_damaged_copy_in_the_bucket_is_left_out(
    machine: Machine, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    one, first = machine("one"), "s/checkpoints/00007/001.checkpoint"
    bucket.files = {first: sealed_json({"a": 1}).encode(), first.replace("001", "002"): b', "quell-crc32": "00000000"}'}
    assert one.take_up(7, 3).read_text() == sealed_json({"a": 1})
    assert [message.partition(": ")[2][:20] for message in caplog.messages] == ["a damaged checkpoint"]


def test_the_local_file_of_a_killed_worker_is_newer_than_its_copy(machine: Machine, bucket: Bucket) -> None:
    one = machine("one")
    bucket.files["s/checkpoints/00007/001.checkpoint"] = b"a minute ago"
    one.take_up(7, 1).write_text("now")
    assert one.take_up(7, 2).read_text() == "now"


def test_a_checkpoint_is_sent_during_the_training(machine: Machine, bucket: Bucket, wait_for: Any) -> None:
    one = machine("one")
    file = one.take_up(7, 1)
    with one.shared(file):
        for content in (b"first", b"second"):
            file.with_suffix(".new").write_bytes(content)
            file.with_suffix(".new").replace(file)
            wait_for(lambda content=content: content in bucket.files.values())
    file.write_text("by somebody who has it no longer")
    leave(one, 8, 1, "")
    assert bucket.written == [*["s/checkpoints/00007/001.checkpoint"] * 2, "s/checkpoints/00008/001.checkpoint"]


def test_only_the_last_version_written_during_a_transfer_is_sent(machine: Machine, bucket: Bucket) -> None:
    one = machine("one")
    file = one.take_up(7, 1)
    bucket.open.clear()
    with pytest.raises(Left), one.shared(file):
        for number in range(5):
            file.with_suffix(".new").write_text(str(number))
            file.with_suffix(".new").replace(file)
            assert bucket.begun.wait(10)
        bucket.open.set()
        raise Left
    assert (len(bucket.written), set(bucket.files.values())) == (2, {b"4"})


@pytest.mark.parametrize("away", [False, True])
def test_waiting_for_a_bucket_that_does_not_answer_is_short(
    away: bool, machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(checkpoints, "FLUSH_S", 30 if away else 0.2)
    one = machine("one")
    bucket.away = away
    if not away:
        bucket.open.clear()
    began = time.monotonic()
    leave(one, 7, 1, "a lot")
    assert time.monotonic() - began < 2
    assert "001.checkpoint: not sent completely" in caplog.text
    assert one.take_up(7, 1).read_text() == "a lot"


def test_a_trial_dropped_during_a_transfer_leaves_nothing_in_the_bucket(machine: Machine, bucket: Bucket) -> None:
    one = machine("one")
    leave(one, 8, 1, "another trial's")
    bucket.open.clear()
    bucket.begun.clear()
    file = one.take_up(7, 1)
    with one.shared(file):
        file.write_text("first")
        assert bucket.begun.wait(10)
    one.drop(7)
    bucket.open.set()
    assert one.mirror is not None and one.mirror.flush(10)
    assert list(bucket.files) == ["s/checkpoints/00008/001.checkpoint"]
    # Last, whatever came before: the other's may be sent twice when it is seen while it is written.
    assert bucket.written[-1] == "s/checkpoints/00007/001.checkpoint"


def test_a_bucket_that_is_away_is_one_warning_and_gets_everything_later(
    machine: Machine, bucket: Bucket, caplog: pytest.LogCaptureFixture, wait_for: Any
) -> None:
    caplog.set_level(logging.INFO)
    one = machine("one")
    leave(one, 9, 1, "ends meanwhile")
    bucket.away = True
    bucket.begun.clear()
    file = one.take_up(7, 1)
    assert caplog.messages == ["s3://b: it does not answer; slot 7 continues from the files on this machine"]
    caplog.clear()
    one.drop(9)
    with one.shared(file):
        file.write_text("kept here")
        for _ in range(3):
            bucket.begun.clear()
            assert bucket.begun.wait(10)
        assert caplog.messages == ["s3://b: it does not answer; files stay on this machine until it answers"]
        bucket.away = False
        wait_for(lambda: list(bucket.files.values()) == [b"kept here"])
    wait_for(lambda: any("answers again" in message for message in caplog.messages))


def test_a_bucket_that_is_away_is_tried_again_after_a_pause_or_when_the_worker_stops(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_mirror, "PAUSE_S", 30)
    one = machine("one")
    file = one.take_up(7, 1)
    bucket.away = True
    with pytest.raises(Left), one.shared(file):
        file.write_text("all of it")
        assert bucket.begun.wait(10)
        time.sleep(0.2)
        assert bucket.tries == 1
        bucket.away = False
        raise Left
    assert list(bucket.files.values()) == [b"all of it"]
