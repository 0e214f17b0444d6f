"""The store is made once, whole or not at all, by any number of processes."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

import deadly
import numpy as np
import pytest
from sounds import recordings_of, tone, write

from quell import locks
from quell.corpus import file_digests as digests_module
from quell.corpus import parallel_decoding
from quell.corpus import store as store_module
from quell.corpus.decoding import decode
from quell.corpus.file_digests import Digests
from quell.corpus.memory_map import open_store
from quell.corpus.recordings import CorpusConfig
from quell.corpus.scan import find, scan
from quell.corpus.splits import SPLITS
from quell.corpus.store import fingerprint, prepare
from quell.errors import AudioError, CorpusError, ProcessError


def test_no_group_is_in_two_splits(small_corpus):
    for kind, groups in (("clean", 6), ("noise", 18)):
        parts = [{clip.group for clip in small_corpus.splits[name].of(kind)} for name in SPLITS]
        assert sum(map(len, parts)) == len(set().union(*parts)) == groups


def test_same_files_are_opened_without_decoding_wherever_they_lie(config, store, tmp_path, monkeypatch):
    first = prepare(config, store)
    shutil.copytree(tmp_path / "recordings", tmp_path / "copy")

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(store_module, "_decode", refuse)
    again = prepare(replace(config, clean=tmp_path / "copy" / "clean", noise=tmp_path / "copy" / "noise"), store)
    assert again.fingerprint == first.fingerprint
    for name in SPLITS:
        assert again.splits[name].clips == first.splits[name].clips
        np.testing.assert_array_equal(again.splits[name].samples, first.splits[name].samples)


def test_a_changed_file_or_setting_gives_another_fingerprint(config, store):
    found = [prepare(config, store).fingerprint]
    for changed in ({"sample_rate": 16_000}, {"group_clean": "file"}, {"hours": 1.0}):
        found.append(prepare(replace(config, **changed), store).fingerprint)
    write(config.clean / "s0" / "0.wav", tone(frequency=999))
    found.append(prepare(config, store).fingerprint)
    assert len(set(found)) == 5


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), OSError("No space left on device")])
def test_an_interrupted_build_leaves_nothing(config, store, monkeypatch, interruption):
    done = []

    def stop_at_the_third(*arguments):
        done.append(arguments)
        if len(done) == 3:
            raise interruption
        return decode(*arguments)

    monkeypatch.setattr(parallel_decoding, "decode", stop_at_the_third)
    expected = CorpusError if isinstance(interruption, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if expected is CorpusError else None):
        prepare(config, store)
    assert len(done) == 3
    assert {path.name for path in store.iterdir()} <= {".lock", "digests.json"}


def test_a_killed_build_is_removed_by_the_next(config, store):
    left = store / ".5c0f3931651ad866.4711"
    left.mkdir(parents=True)
    (left / "train.int16").write_bytes(b"half")
    prepare(config, store)
    assert not left.exists()


def test_two_builds_at_once_decode_once(config, store, monkeypatch):
    began, both = [], threading.Barrier(2)

    def count(*arguments):
        began.append(arguments)
        return decode(*arguments)

    real = store_module.home

    def together(*arguments):
        found = real(*arguments)
        both.wait(10)
        return found

    monkeypatch.setattr(parallel_decoding, "decode", count)
    monkeypatch.setattr(store_module, "home", together)
    with ThreadPoolExecutor(2) as threads:
        one, other = threads.map(lambda _: prepare(config, store), range(2))
    assert len(began) == 6 and one == other


def test_several_processes_decode_the_same_samples_as_one(config, store, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_decoding, "MIN_JOBS", 0)
    one, two = prepare(config, store), prepare(config, tmp_path / "other", processes=2)
    for name in SPLITS:
        assert one.splits[name].clips == two.splits[name].clips
        np.testing.assert_array_equal(one.splits[name].samples, two.splits[name].samples)


def test_only_some_recordings_per_process_are_in_memory(config, monkeypatch):
    recordings = find(config)
    monkeypatch.setattr(parallel_decoding, "AHEAD", 1)
    monkeypatch.setattr(parallel_decoding, "BATCH", 1)
    monkeypatch.setattr(parallel_decoding, "MIN_JOBS", 0)
    submitted = []

    class Pool(ThreadPoolExecutor):
        def submit(self, what, *arguments):
            submitted.append(what)
            return super().submit(*arguments)

    monkeypatch.setattr(parallel_decoding, "ChildPool", Pool)
    jobs = parallel_decoding.decoding_jobs(config, recordings)
    given = parallel_decoding.decoded(jobs, {}, lambda recording: False, 2)
    for number, (job, decoded) in enumerate(given, 1):
        assert job.recording == recordings[number - 1] and len(decoded[job.recording.kind]) > 0
        assert len(submitted) <= number + 1
    assert number == len(recordings)
    assert submitted == [f"decoding {recording.name}" for recording in recordings]


def test_a_decoding_process_that_is_killed_inside_its_write_changes_no_sample(config, store, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_decoding, "MIN_JOBS", 0)
    monkeypatch.setattr(parallel_decoding, "BATCH", 2)
    one = prepare(config, store)
    deadly.plant(tmp_path, monkeypatch)(1)
    two = prepare(config, tmp_path / "other", processes=2)
    assert not any((tmp_path / "kills").iterdir())
    for name in SPLITS:
        assert one.splits[name].clips == two.splits[name].clips
        np.testing.assert_array_equal(one.splits[name].samples, two.splits[name].samples)


def test_decoding_processes_that_are_killed_again_leave_nothing_and_free_the_lock(config, store, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel_decoding, "MIN_JOBS", 0)
    deadly.plant(tmp_path, monkeypatch)(2)
    with pytest.raises(ProcessError, match=r"^decoding clean/s0/0\.wav and 5 more: killed \(signal 9\), probably"):
        prepare(config, store, processes=2)
    assert {path.name for path in store.iterdir()} <= {".lock", "digests.json"}
    assert len(prepare(config, store, processes=2).splits["train"].clips) == 2


def test_who_waits_for_a_build_says_who_builds(config, store, monkeypatch, caplog):
    monkeypatch.setattr(locks, "TELL_S", 0.2)
    store.mkdir()
    with ThreadPoolExecutor(1) as threads:
        with locks.hold(store / ".lock", 1):
            waiting = threads.submit(prepare, config, store)
            assert not wait([waiting], 1).done
        waiting.result(20)
    assert caplog.messages[0].startswith(f"{store / '.lock'}: locked by process {os.getpid()} on ")


def test_long_recordings_are_in_separate_batches(config):
    todo = parallel_decoding.decoding_jobs(config, find(config))
    size = todo[0].size
    assert size == 44 + 2 * 800
    for most, room, lengths in ((16, 10**9, [6]), (4, 10**9, [4, 2]), (16, 2 * size, [2, 2, 2]), (16, 1, [1] * 6)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(parallel_decoding, "BATCH", most)
            patch.setattr(parallel_decoding, "BATCH_BYTES", room)
            batches = list(parallel_decoding._batches(todo))
        assert [len(batch) for batch in batches] == lengths
        assert [job for batch in batches for job in batch] == todo


def test_few_but_long_recordings_are_decoded_in_processes():
    assert not parallel_decoding._worthwhile(2, [1_000] * 10)
    assert parallel_decoding._worthwhile(2, [parallel_decoding.MIN_BYTES])
    assert not parallel_decoding._worthwhile(1, [parallel_decoding.MIN_BYTES])


def test_unchanged_recordings_are_not_decoded_again(config, store, monkeypatch):
    first, decoded = prepare(config, store), []

    def count(path, *arguments):
        decoded.append(path.name)
        return decode(path, *arguments)

    monkeypatch.setattr(parallel_decoding, "decode", count)
    write(config.clean / "s0" / "new.wav", tone(frequency=777))
    second = prepare(config, store)
    assert decoded == ["new.wav"]
    for name in SPLITS:
        for clip in first.splits[name].clips:
            (again,) = (
                other for other in second.splits[name].clips if (other.kind, other.path) == (clip.kind, clip.path)
            )
            np.testing.assert_array_equal(first.splits[name].waveform(clip), second.splits[name].waveform(again))
    prepare(replace(config, sample_rate=16_000), store)
    assert len(decoded) == 1 + 7  # another rate is decoded anew


def test_a_full_disk_is_reported_before_anything_is_decoded(config, store, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**9, 10**9, 5_000)
    monkeypatch.setattr(store_module.shutil, "disk_usage", lambda folder: usage)
    # 6 recordings of 0.1 s at 8 kHz take 9600 bytes.
    with pytest.raises(CorpusError, match=rf"^{re.escape(str(store))}: 0.0 GB free, expected 0.0 GB for the decoded"):
        prepare(config, store)
    assert {path.name for path in store.iterdir()} <= {".lock", "digests.json"}


def test_a_store_that_cannot_be_written_is_named(config, store):
    store.write_text("a file")
    with pytest.raises(
        CorpusError, match=rf"^{re.escape(str(store))}: .*, expected a folder to write to; check --runs"
    ):
        prepare(config, store)


def test_silent_recordings_are_left_out(config, store):
    write(config.clean / "s1" / "silent.wav", np.zeros(800))
    built = prepare(config, store)
    assert sum(len(split.clips) for split in built.splits.values()) == 6


def test_a_digest_is_that_of_the_bytes_and_cached_until_the_file_changes(tmp_path, store, monkeypatch):
    path = write(tmp_path / "a.wav", tone())
    assert Digests(store).of(path) == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    old = path.stat().st_mtime - 10
    os.utime(path, (old, old))
    monkeypatch.setattr(digests_module, "SETTLED_S", -1.0)  # its ctime is of now
    known = Digests(store)
    before = known.of(path)
    known.save()

    def refuse(*_):
        raise AssertionError("read again")

    with monkeypatch.context() as patched:
        patched.setattr(digests_module.hashlib, "file_digest", refuse)
        assert Digests(store).of(path) == before
    write(path, tone(frequency=500))
    os.utime(path, (old, old))  # as copying tools do
    assert Digests(store).of(path) != before


def test_a_link_to_a_pipe_is_refused_without_blocking(tmp_path, store):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a.wav").symlink_to(tmp_path / "pipe")
    (tmp_path / "b.wav").symlink_to(tmp_path / "nothing")
    for name, found in (("a.wav", "not a file"), ("b.wav", "No such file or directory")):
        with pytest.raises(AudioError, match=rf"{name}: {found}, expected a sound file; repair it or leave it out$"):
            Digests(store).of(tmp_path / name)


def test_a_file_that_was_just_written_is_read_again(tmp_path, store):
    path = write(tmp_path / "a.wav", tone())
    known = Digests(store)
    known.of(path)
    known.save()
    assert not (store / "digests.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"/a.wav": 3}', "[[1]]"])
def test_a_damaged_cache_of_digests_is_ignored(config, store, content):
    store.mkdir()
    (store / "digests.json").write_text(content)
    assert prepare(config, store).splits["train"].clips


def test_a_folder_without_a_corpus_is_named(tmp_path):
    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path}: no decoded corpus")):
        open_store(tmp_path)


def test_progress_counts_every_recording(config, store):
    seen = []
    prepare(config, store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(6)]


def test_decoded_clip_is_the_recording_at_the_corpus_rate_and_full_scale(tmp_path, store):
    config = recordings_of(tmp_path)
    for speaker, rate in enumerate((44_100, 22_050, 8_000)):
        stereo = np.stack([tone(0.5, rate), 0.5 * tone(0.5, rate)], axis=1)
        write(config.clean / f"s{speaker}" / "0.wav", stereo, rate, "FLOAT")
    built = prepare(config, store)
    for name in SPLITS:
        (clip,) = built.splits[name].of("clean")
        assert clip.length == 4_000
        waveform = built.splits[name].waveform(clip)
        middle = slice(400, -400)  # soxr's filter rings at the ends, where the tone starts
        reference = tone(0.5)[middle] / 0.3
        scale = waveform[middle] @ reference / (reference @ reference)
        assert scale == pytest.approx(1.0, abs=0.1)  # the peak, ringing included, is at full scale
        # 16 bits and soxr's highest quality: 2 ** -15 of full scale, and as much for rounding the tone's phase
        assert np.abs(waveform[middle] - scale * reference).max() < 2**-14


def test_digital_silence_is_cut_off_the_ends_of_noise_and_kept_in_speech(tmp_path, store):
    config = recordings_of(tmp_path)
    silence, sound = np.zeros(1_000), 0.2 * np.resize([1, -1], 500)
    padded = np.concatenate([silence, sound, silence, sound, silence])
    for i in range(3):
        write(config.noise / "rain" / f"{i}.wav", padded)
        write(config.clean / f"s{i}" / "0.wav", padded)
    built = prepare(config, store)
    for split in built.splits.values():
        (noise,), (clean,) = split.of("noise"), split.of("clean")
        np.testing.assert_array_equal(split.waveform(noise), split.waveform(clean)[1_000:-1_000])
        assert (noise.length, clean.length) == (2_000, 4_000)


def test_hours_limit_speech_in_every_split_and_leave_noise(tmp_path, store):
    config = replace(recordings_of(tmp_path, speakers=60, sources=9), hours=2.5 / 3600)
    built = prepare(config, store)
    everything = prepare(replace(config, hours=0.0), store)
    for name, fraction in config.splits.items():
        seconds = 60 * built.minutes(name, "clean")
        assert everything.minutes(name, "clean") * 60 >= fraction * 2.5
        # All recordings last 0.1 s: the one that reaches the limit is the last.
        assert fraction * 2.5 <= seconds + 1e-9 and seconds < fraction * 2.5 + 0.1
        assert built.minutes(name, "noise") == everything.minutes(name, "noise")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"this is a text file\n" * 40, "expected a sound file"),
        (b"", "expected a sound file"),
        (np.zeros(0), "0 samples, expected at least 1"),
        (np.array([0.1, np.nan, np.inf]), "2 samples are NaN or infinite"),
    ],
)
def test_a_recording_without_sound_is_named_and_nothing_is_stored(config, store, content, found):
    path = config.clean / "s1" / "0.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        write(path, content, subtype="FLOAT")
    with pytest.raises(AudioError, match=f"{re.escape(str(path))}: .*{found}"):
        prepare(config, store)
    assert {path.name for path in store.iterdir()} <= {".lock", "digests.json"}


@pytest.fixture
def with_rooms(config, tmp_path):
    for room in range(3):
        write(tmp_path / "rooms" / "halls" / f"{room}.wav", 0.5 ** np.arange(4 + room), rate=16_000)
    return replace(config, rooms=tmp_path / "rooms")


def test_rooms_are_in_the_train_split_only_and_count_neither_as_speech_nor_as_noise(config, with_rooms, store):
    plain, built = prepare(config, store), prepare(with_rooms, store)
    assert [clip.path for clip in built.splits["train"].of("room")] == [f"halls/{room}.wav" for room in range(3)]
    assert not built.splits["validation"].of("room") and not built.splits["test"].of("room")
    for name in SPLITS:
        for kind in ("clean", "noise"):
            before, after = plain.splits[name], built.splits[name]
            assert built.minutes(name, kind) == plain.minutes(name, kind)
            assert [clip.path for clip in after.of(kind)] == [clip.path for clip in before.of(kind)]
            for one, other in zip(before.of(kind), after.of(kind), strict=True):
                np.testing.assert_array_equal(before.waveform(one), after.waveform(other))


def test_a_room_response_is_decoded_at_the_rate_of_the_corpus(with_rooms, store):
    path = with_rooms.rooms / "halls" / "0.wav"
    write(path, tone(0.5, 16_000), 16_000)
    split = prepare(with_rooms, store).splits["train"]
    clip = split.of("room")[0]
    assert (clip.path, clip.length) == ("halls/0.wav", 4_000)
    middle = slice(400, -400)  # soxr's filter rings at the ends
    # The reference is scaled to its peak, ringing included: some per cent.
    np.testing.assert_allclose(split.waveform(clip)[middle], tone(0.5)[middle] / 0.3, atol=0.1)


def test_the_fingerprint_follows_the_bytes_of_rooms_and_not_their_place(config, with_rooms, tmp_path):
    def of(config):
        return fingerprint(config, scan(config, Digests(tmp_path).of))

    before = of(with_rooms)
    shutil.copytree(with_rooms.rooms, tmp_path / "elsewhere")
    assert of(replace(with_rooms, rooms=tmp_path / "elsewhere")) == before
    write(with_rooms.rooms / "halls" / "1.wav", 0.6 ** np.arange(5), rate=16_000)
    assert len({of(config), before, of(with_rooms)}) == 3


def test_a_corpus_without_rooms_keeps_its_older_fingerprint(tmp_path):
    for kind, names in (("clean", ("a", "b", "c")), ("noise", ("rain/x", "rain/y", "wind/z"))):
        for name in names:
            path = tmp_path / kind / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())  # only hashed
    config = CorpusConfig(tmp_path / "clean", tmp_path / "noise", 8_000, "file")
    assert (
        fingerprint(config, scan(config, Digests(tmp_path).of)) == "5c0f3931651ad866"
    )  # by the code of commit 1295481


def test_trim_db_cuts_soft_ends_of_speech(config, store):
    hiss = 1e-4 * np.random.default_rng(0).standard_normal(8_000)
    voice = tone(0.5)
    padded = np.concatenate([hiss[:3_000], voice, hiss[:2_000], voice, hiss[:5_000]])
    for speaker in range(3):
        write(config.clean / f"s{speaker}" / "0.wav", padded)
    write(config.noise / "rain" / "0.wav", padded)
    whole, cut = prepare(config, store), prepare(replace(config, trim_db=40.0), store)
    assert whole.fingerprint != cut.fingerprint
    for name in SPLITS:
        (kept,), (short,) = whole.splits[name].of("clean"), cut.splits[name].of("clean")
        assert kept.length == len(padded)
        # A pause between words stays; of each end .1 s, and what is left of a frame of .02 s.
        assert 10_000 + 2 * 800 <= short.length <= 10_000 + 2 * (800 + 160)
        assert [clip.length for clip in cut.splits[name].of("noise")] == [
            clip.length for clip in whole.splits[name].of("noise")
        ]


def test_speech_without_soft_ends_is_not_cut(config, store):
    whole, cut = prepare(config, store), prepare(replace(config, trim_db=40.0), store)
    for name in SPLITS:
        assert [clip.length for clip in cut.splits[name].clips] == [clip.length for clip in whole.splits[name].clips]


def test_with_validation_in_train_joins_two_splits_and_keeps_the_others(small_corpus):
    whole = small_corpus.with_validation_in_train()
    train, validation = (small_corpus.splits[name] for name in ("train", "validation"))
    joined = whole.splits["train"]
    assert len(joined.clips) == len(train.clips) + len(validation.clips)
    for part in (train, validation):
        for clip in part.clips:
            (again,) = (other for other in joined.of(clip.kind) if other.path == clip.path)
            np.testing.assert_array_equal(joined.waveform(again), part.waveform(clip))
    assert {name: whole.splits[name] for name in ("validation", "test")} == {
        name: small_corpus.splits[name] for name in ("validation", "test")
    }
    assert whole.fingerprint != small_corpus.fingerprint
