"""Each attempt has a file of its own, which begins where the one before it was."""

from pathlib import Path

from tuning.checkpoints import Checkpoints


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


def test_an_attempt_goes_on_with_what_it_wrote_itself(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.take_up(0, 1).write_text("first")
    checkpoints.take_up(0, 2).write_text("second")
    assert checkpoints.take_up(0, 2).read_text() == "second"


def test_an_ended_trial_is_forgotten_and_the_others_are_not(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    for slot in (0, 1):
        checkpoints.take_up(slot, 1).write_text(str(slot))
    checkpoints.drop(0)
    checkpoints.drop(5)
    assert not checkpoints.take_up(0, 2).exists()
    assert checkpoints.take_up(1, 2).read_text() == "1"
