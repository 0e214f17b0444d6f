"""Groups keep to one split and stay there; the store is made once, whole or not at all."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from quell import corpus
from quell.corpus import CorpusConfig, open_store, prepare, scan
from quell.errors import AudioError, CorpusError
from quell.splits import SPLITS

ESC = r"^\d-(\d+)-"


def tone(seconds=0.1, rate=8_000, frequency=400):
    return 0.3 * np.sin(2 * np.pi * frequency / rate * np.arange(round(seconds * rate)))


def write(path: Path, samples, rate=8_000, subtype="PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


def recordings(folder: Path, speakers=3, takes=1, sources=3) -> CorpusConfig:
    for speaker in range(speakers):
        for take in range(takes):
            write(folder / "clean" / f"s{speaker}" / f"{take}.wav", tone(frequency=300 + 10 * speaker + take))
    for source in range(sources):
        write(folder / "noise" / "rain" / f"{source}.wav", tone(frequency=1_000 + source))
    return CorpusConfig(folder / "clean", folder / "noise", 8_000)


@pytest.fixture
def config(tmp_path):
    return recordings(tmp_path / "recordings")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


def test_no_group_is_heard_in_two_splits(small_corpus):
    for kind, groups in (("clean", 6), ("noise", 18)):
        heard = [{clip.group for clip in small_corpus.splits[name].of(kind)} for name in SPLITS]
        assert sum(map(len, heard)) == len(set().union(*heard)) == groups


def test_takes_of_one_esc_source_go_together(tmp_path):
    clean = write(tmp_path / "clean" / "a.wav", tone())
    for other in "bc":
        shutil.copy(clean, clean.with_name(f"{other}.wav"))
    for category in ("rain", "wind"):
        for source in range(137, 167):
            for take in "ABC":
                path = tmp_path / "noise" / category / f"{source % 5 + 1}-{source}{category == 'rain':d}-{take}-10.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"only hashed")
    found = scan(CorpusConfig(tmp_path / "clean", tmp_path / "noise", 8_000, "file", ESC))
    splits = {}
    for recording in found:
        splits.setdefault((recording.kind, recording.group), set()).add(recording.split)
    assert all(len(split) == 1 for split in splits.values())
    assert len(splits) == 3 + 60
    assert "1371" in {recording.group for recording in found}


def test_a_group_in_two_folders_moves_as_one(tmp_path):
    config = recordings(tmp_path, sources=8)
    for source in range(8):
        write(tmp_path / "noise" / "wind" / f"{source}.wav", tone())
    found = [r for r in scan(replace(config, group_noise=r"^(\d)")) if r.kind == "noise"]
    for source in "01234567":
        assert len({r.split for r in found if r.group == source}) == 1
        assert {r.category for r in found if r.group == source} == {"rain", "wind"}


def test_fewer_than_three_groups_are_refused(tmp_path):
    config = recordings(tmp_path, speakers=2)
    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path / 'clean'}: 2 groups, expected at least 3")):
        scan(config)


def test_name_without_a_group_is_refused_with_the_rule(tmp_path):
    config = recordings(tmp_path)
    message = f"rain/0.wav: name without a group, expected a match of {ESC!r}"
    with pytest.raises(CorpusError, match=re.escape(message)):
        scan(replace(config, group_noise=ESC))


def test_same_files_are_opened_without_decoding_wherever_they_lie(config, store, tmp_path, monkeypatch):
    first = prepare(config, store)
    shutil.copytree(tmp_path / "recordings", tmp_path / "copy")

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(corpus, "_decode", refuse)
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
    decode, done = corpus._decode_one, []

    def stop_at_the_third(*arguments):
        done.append(arguments)
        if len(done) == 3:
            raise interruption
        return decode(*arguments)

    monkeypatch.setattr(corpus, "_decode_one", stop_at_the_third)
    expected = CorpusError if isinstance(interruption, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left on device" if expected is CorpusError else None):
        prepare(config, store)
    assert len(done) == 3
    assert list(store.iterdir()) == []


def test_of_two_builds_at_once_the_first_wins(config, store, monkeypatch):
    decode = corpus._decode

    def overtaken(config, recordings, folder, progress):
        decode(config, recordings, folder, progress)
        other = store / folder.name.split(".")[1]
        shutil.copytree(folder, other)
        (other / "first").touch()

    monkeypatch.setattr(corpus, "_decode", overtaken)
    built = prepare(config, store)
    assert (built.folder / "first").exists()
    assert list(store.iterdir()) == [built.folder]


def test_a_folder_without_a_corpus_is_named(tmp_path):
    with pytest.raises(CorpusError, match=re.escape(f"{tmp_path}: no decoded corpus")):
        open_store(tmp_path)


def test_progress_counts_every_recording(config, store):
    seen = []
    prepare(config, store, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(6)]


def test_decoded_clip_is_the_recording_at_the_corpus_rate_and_full_scale(tmp_path, store):
    config = recordings(tmp_path)
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
    config = recordings(tmp_path)
    silence, sound = np.zeros(1_000), 0.2 * np.ones(500)
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
    config = replace(recordings(tmp_path, speakers=60, sources=9), hours=2.5 / 3600)
    built = prepare(config, store)
    everything = prepare(replace(config, hours=0.0), store)
    for name, fraction in config.splits.items():
        seconds = 60 * built.minutes(name, "clean")
        assert everything.minutes(name, "clean") * 60 >= fraction * 2.5
        # All recordings last 0.1 s: the one that reaches the limit is the last.
        assert fraction * 2.5 <= seconds + 1e-9 and seconds < fraction * 2.5 + 0.1
        assert built.minutes(name, "noise") == everything.minutes(name, "noise")


def test_hidden_files_and_other_suffixes_are_no_recordings(config, store):
    before = scan(config)
    (config.clean / "README.txt").write_text("speech")
    (config.clean / ".cache").mkdir()
    write(config.clean / ".cache" / "x.wav", tone())
    write(config.clean / "s0" / "._0.wav", tone())
    assert scan(config) == before


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"this is a text file\n" * 40, "expected a sound file"),
        (b"", "expected a sound file"),
        (np.zeros(0), "0 samples, expected at least 1"),
        (np.zeros(800), r"silent \(peak 0.0e\+00\), expected clean recordings"),
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
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("side", ["clean", "noise"])
def test_a_missing_or_empty_folder_is_named_with_its_side(config, side):
    folder = getattr(config, side)
    shutil.rmtree(folder)
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no such folder, expected the {side} recordings")):
        scan(config)
    folder.mkdir()
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no sound files, expected {side} recordings")):
        scan(config)


@pytest.fixture
def with_rooms(config, tmp_path):
    for room in range(3):
        write(tmp_path / "rooms" / "halls" / f"{room}.wav", 0.5 ** np.arange(4 + room), rate=16_000)
    return replace(config, rooms=tmp_path / "rooms")


def test_rooms_are_heard_in_training_alone_and_count_neither_as_speech_nor_as_noise(config, with_rooms, store):
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
    def fingerprint(config):
        return corpus._fingerprint(config, scan(config))

    before = fingerprint(with_rooms)
    shutil.copytree(with_rooms.rooms, tmp_path / "elsewhere")
    assert fingerprint(replace(with_rooms, rooms=tmp_path / "elsewhere")) == before
    write(with_rooms.rooms / "halls" / "1.wav", 0.6 ** np.arange(5), rate=16_000)
    assert len({fingerprint(config), before, fingerprint(with_rooms)}) == 3


def test_a_corpus_without_rooms_keeps_the_fingerprint_from_before_there_were_any(tmp_path):
    for kind, names in (("clean", ("a", "b", "c")), ("noise", ("rain/x", "rain/y", "wind/z"))):
        for name in names:
            path = tmp_path / kind / f"{name}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(name.encode())  # only hashed
    config = CorpusConfig(tmp_path / "clean", tmp_path / "noise", 8_000, "file")
    assert corpus._fingerprint(config, scan(config)) == "5c0f3931651ad866"  # by the code of commit 1295481


@pytest.mark.parametrize("empty", [True, False])
def test_a_folder_without_rooms_is_named(config, tmp_path, empty):
    folder = tmp_path / "rooms"
    if empty:
        folder.mkdir()
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: no room responses, expected a folder of impulse")):
        scan(replace(config, rooms=folder))


def test_a_silent_room_response_is_named(with_rooms, store):
    path = write(with_rooms.rooms / "halls" / "1.wav", np.zeros(50))
    with pytest.raises(AudioError, match=rf"{re.escape(str(path))}: silent .*, expected room recordings"):
        prepare(with_rooms, store)
