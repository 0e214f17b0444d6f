"""What an interrupted run has finished is not done again, and a journal never stands in the way."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest

from quell.errors import AudioError, ExportError
from quell.inference import batch
from quell.inference.batch import run
from quell.inference.jobs import DenoiseJob, DenoiseOptions
from quell.inference.journal import JOURNAL, Journal, how

OPTIONS = DenoiseOptions()


def test_what_an_interrupted_run_finished_is_not_done_again(tmp_path, model, write):
    for name in "abcd":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "out"

    def begin(options=OPTIONS, overwrite=False):
        journal = Journal(out, how(model, options))
        plan = batch.plan([tmp_path / "in"], out, overwrite=overwrite, journal=journal)
        return journal, plan.jobs, plan.done

    journal, jobs, before = begin()
    assert (len(jobs), before) == (4, [])
    ended = run(jobs, model, OPTIONS)
    for _ in range(2):
        journal.note(next(ended).job)
    ended.close()  # interrupted
    finished = (out / "a.wav").stat().st_mtime_ns
    journal, jobs, before = begin()
    assert [job.source.name for job in jobs] == ["c.wav", "d.wav"]
    assert [job.source.name for job in before] == ["a.wav", "b.wav"]
    with pytest.raises(AudioError, match="exists already"):  # they were made with other settings
        begin(DenoiseOptions(wet=0.5))
    write(tmp_path / "in" / "b.wav", np.zeros(40))  # another recording since
    with pytest.raises(AudioError, match=r"b\.wav: exists already"):
        begin()
    journal, jobs, before = begin(overwrite=True)
    assert [job.source.name for job in jobs] == ["b.wav", "c.wav", "d.wav"]
    assert [job.source.name for job in before] == ["a.wav"]
    for done in run(jobs, model, OPTIONS):
        journal.note(done.job)
    assert (out / "a.wav").stat().st_mtime_ns == finished
    journal.close([*jobs, *before])
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.wav", "c.wav", "d.wav"]


@pytest.mark.parametrize("processes", [0, 1])
def test_what_was_finished_when_a_run_was_killed_is_not_done_again(tmp_path, model, write, processes):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "out"

    def begin():
        journal = Journal(out, how(model, OPTIONS))
        return batch.plan([tmp_path / "in"], out, journal=journal), journal

    plan, journal = begin()
    ended = run(plan.jobs, model, OPTIONS, processes, journal=journal)
    next(ended)
    ended.close()  # before anybody could note the first
    left, _ = begin()
    assert plan.jobs[0] in left.done and {*left.done, *left.jobs} == set(plan.jobs)


def test_an_output_that_is_to_be_replaced_is_finished_when_it_was(tmp_path, model, write):
    job = DenoiseJob(write(tmp_path / "in" / "a.wav"), write(tmp_path / "out" / "a.wav"))
    journal = Journal(tmp_path / "out", how(model, OPTIONS))
    journal.begin([job])
    assert not Journal(tmp_path / "out", how(model, OPTIONS)).finished(job)
    journal.note(job)
    assert Journal(tmp_path / "out", how(model, OPTIONS)).finished(job)


def test_an_output_folder_inside_of_the_input_is_no_input_when_a_run_goes_on(tmp_path, model, write):
    for name in "ab":
        write(tmp_path / "in" / f"{name}.wav")
    out = tmp_path / "in" / "out"
    journal = Journal(out, how(model, OPTIONS))
    ended = run(batch.plan([tmp_path / "in"], out, journal=journal).jobs, model, OPTIONS)
    journal.note(next(ended).job)
    ended.close()
    left = batch.plan([tmp_path / "in"], out, journal=Journal(out, how(model, OPTIONS)))
    assert [job.source.name for job in left.jobs] == ["b.wav"]
    assert [job.source.name for job in left.done] == ["a.wav"]


def test_a_run_into_the_same_folder_leaves_what_another_has_noted(tmp_path, model, write):
    out = tmp_path / "out"
    one, other = (batch.plan([write(tmp_path / name / f"{name}.wav").parent], out).jobs for name in "ab")
    journal = Journal(out, how(model, OPTIONS))
    for done in run([*one, *other], model, OPTIONS):
        journal.note(done.job)
    Journal(out, how(model, OPTIONS)).close(other)
    assert batch.plan([tmp_path / "a"], out, journal=Journal(out, how(model, OPTIONS))).done == one
    Journal(out, how(model, OPTIONS)).close(one)
    assert sorted(path.name for path in out.iterdir()) == ["a.wav", "b.wav"]


def test_a_single_file_is_noted_nowhere(tmp_path, model, write):
    source, journal = write(tmp_path / "a.wav"), Journal(tmp_path, how(model, OPTIONS))
    assert batch.plan([source], tmp_path / "b.wav", journal=journal).journal is None
    assert batch.plan([source], tmp_path / "folder", journal=journal).journal is journal


def test_a_journal_that_cannot_be_written_keeps_nothing_from_being_done(tmp_path, model, write):
    job = DenoiseJob(write(tmp_path / "a.wav"), tmp_path / "blocked" / "a.wav")
    (tmp_path / "blocked").write_text("a file where the folder should be")
    journal = Journal(tmp_path / "blocked", how(model, OPTIONS))
    journal.note(job)
    journal.close([job])
    assert not Journal(tmp_path / "blocked", how(model, OPTIONS)).finished(job)


def test_a_journal_that_was_cut_off_keeps_its_whole_lines(tmp_path, model, write):
    jobs = [DenoiseJob(write(tmp_path / "in" / f"{name}.wav"), write(tmp_path / f"{name}.wav")) for name in "ab"]
    for job in jobs:
        Journal(tmp_path, how(model, OPTIONS)).note(job)
    path = tmp_path / JOURNAL
    path.write_bytes(path.read_bytes()[:-20])
    journal = Journal(tmp_path, how(model, OPTIONS))
    assert [journal.finished(job) for job in jobs] == [True, False]


def test_a_model_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ExportError, match=re.escape(f"{tmp_path}: Is a directory, expected a file made by")):
        how(tmp_path, OPTIONS)


def test_a_journal_that_is_no_text_is_no_journal(tmp_path, model, write):
    (tmp_path / JOURNAL).write_bytes(b"\xff\xfe\x00")
    write(tmp_path / "in" / "a.wav")
    shutil.copy(write(tmp_path / "in" / "a.wav"), tmp_path / "a.wav")
    with pytest.raises(AudioError, match="exists already"):
        batch.plan([tmp_path / "in"], tmp_path, journal=Journal(tmp_path, how(model, OPTIONS)))
