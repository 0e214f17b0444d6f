"""What is wrong with a corpus is found and named, and nothing else is."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import deadly
import numpy as np
import pytest
import soundfile

from quell import audio
from quell.audit.corpus_audit import audit, without
from quell.corpus.recordings import CorpusConfig
from quell.corpus.scan import find
from quell.corpus.splits import SPLITS
from quell.errors import CorpusError, ProcessError

RATE = 16_000
KINDS = ("rain", "wind", "hum")


def write(path: Path, samples, rate=RATE, subtype="PCM_16") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(samples, np.float32), rate, subtype=subtype)
    return path


def read(path: Path):
    return audio.read(path)[0].mean(axis=1)


def voice(seed, seconds=2.0):
    """Bands that come and go each by itself, as those of speech do, with pauses, over a little noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    knots = np.arange(0, seconds + 0.2, 0.12)
    swell = [np.interp(time, knots, rng.uniform(0, 1, len(knots))) for _ in range(12)]
    bands = sum(np.sin(2 * np.pi * 150 * (k + 2) * time + rng.uniform(0, 6)) * swell[k] for k in range(12))
    spoken = np.sin(2 * np.pi * 1.5 * time + rng.uniform(0, 6)) > -0.7
    return 0.05 * bands * spoken + 1e-3 * rng.standard_normal(len(time))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, noise):
    """40 speakers of two utterances, three kinds of noise of six sources."""
    folder = tmp_path_factory.mktemp("healthy")
    for speaker in range(40):
        for take in range(2):
            write(folder / "speech" / f"s{speaker:02d}" / f"{take}.wav", voice(10 * speaker + take))
    for source in range(6):
        for kind in KINDS:
            sound = noise(2.0, RATE, seed=source, kind={"rain": "white", "wind": "rumble", "hum": "hum"}[kind])
            write(folder / "noise" / kind / f"{source}.wav", sound)
    return folder


@pytest.fixture
def corpus(healthy, tmp_path):
    shutil.copytree(healthy, tmp_path / "corpus")
    return CorpusConfig(tmp_path / "corpus" / "speech", tmp_path / "corpus" / "noise", RATE)


def spoken(config: CorpusConfig, split: str) -> list[Path]:
    """The speech of a split."""
    return [config.clean / one.path for one in find(config) if (one.kind, one.split) == ("clean", split)]


@pytest.fixture
def trained(corpus):
    """A recording of the train split."""
    return spoken(corpus, "train")[0]


def name_of(config: CorpusConfig, path: Path) -> str:
    kind = "clean" if path.is_relative_to(config.clean) else "noise"
    return f"{kind}/{path.relative_to(config.folder(kind)).as_posix()}"


def test_a_healthy_corpus_has_no_findings(corpus):
    found = audit(corpus)
    assert found.findings == []
    assert len(found.inspections) == 80 + 18
    assert sum(len(found.of(split, "clean")) for split in SPLITS) == 80


def cut(path, share=0.6):
    path.write_bytes(path.read_bytes()[: round(path.stat().st_size * share)])


def spoil(change):
    """What overwrites a recording by another version of itself."""
    return lambda path: write(path, change(read(path)), subtype="FLOAT")


def in_flac(path):
    path.unlink()
    write(path.with_suffix(".flac"), 0.3 * np.random.default_rng(0).standard_normal(2 * RATE))
    cut(path.with_suffix(".flac"))
    return path.with_suffix(".flac")


def in_mp3(path):
    samples = read(path)
    path.unlink()
    write(path.with_suffix(".mp3"), samples, subtype="MPEG_LAYER_III")
    cut(path.with_suffix(".mp3"))
    return path.with_suffix(".mp3")


def value(number):
    def change(samples):
        samples = samples.copy()
        samples[1000:1003] = number
        return samples

    return change


def low_band(samples):
    return audio.resample(audio.resample(samples, RATE, 8_000), 8_000, RATE)


# What is done to a recording; how it is found; words that are text.
BROKEN = {
    "text": (lambda path: path.write_text("not a sound\n" * 99), "unreadable", "expected a sound file"),
    "empty": (lambda path: path.write_bytes(b""), "unreadable", "expected a sound file"),
    "no samples": (lambda path: write(path, np.zeros(0)), "unreadable", "0 samples, expected at least 1"),
    "cut WAV": (cut, "unreadable", "expected one whole recording"),
    "cut FLAC": (in_flac, "unreadable", "expected"),
    "cut MP3": (in_mp3, "unreadable", "expected"),
    "NaN": (spoil(value(np.nan)), "unreadable", "3 samples are NaN or infinite"),
    "infinite": (spoil(value(np.inf)), "unreadable", "3 samples are NaN or infinite"),
    "absurd": (spoil(value(1e30)), "unreadable", "times full scale"),
}
ODD = {
    "silent": (lambda path: write(path, np.zeros(RATE)), "silent", "it is left out"),
    "clipped": (spoil(lambda samples: np.clip(20 * samples, -1, 1)), "clipped", "of the samples clip"),
    "offset": (spoil(lambda samples: samples + 0.2), "offset", "an offset of"),
    "pauses": (spoil(lambda samples: np.concatenate([samples, np.zeros(9 * RATE)])), "pauses", "is silence"),
    "noisy": (
        spoil(lambda samples: samples + 0.1 * np.random.default_rng(3).standard_normal(len(samples))),
        "noisy",
        "an SNR of",
    ),
    "upsampled": (spoil(lambda samples: low_band(samples)), "upsampled", "nothing above 4000 Hz"),
}


@pytest.mark.parametrize(("plant", "kind", "text"), BROKEN.values(), ids=BROKEN)
def test_an_unusable_file_is_an_error_with_its_name(corpus, trained, plant, kind, text):
    planted = plant(trained)
    path = planted if isinstance(planted, Path) else trained
    found = audit(corpus)
    (error,) = found.errors
    assert (error.kind, error.names) == (kind, (name_of(corpus, path),))
    assert error.text.startswith(f"{path}: ") and text in error.text
    assert without(found, error.names).errors == []


@pytest.mark.parametrize(("plant", "kind", "text"), ODD.values(), ids=ODD)
def test_an_odd_recording_is_a_warning_with_its_name(corpus, trained, plant, kind, text):
    plant(trained)
    found = audit(corpus)
    assert found.errors == []
    (warning,) = found.findings
    assert (warning.kind, warning.names) == (kind, (name_of(corpus, trained),))
    assert warning.text.startswith(f"{name_of(corpus, trained)}: ") and text in warning.text


def other_speaker(config: CorpusConfig, split: str) -> Path:
    """The folder of the last speaker of a split."""
    return spoken(config, split)[-1].parent


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_the_same_audio_in_two_groups_is_an_error_whatever_their_splits(corpus, trained, split, suffix):
    copy = write(other_speaker(corpus, split) / f"copy.{suffix}", read(trained))
    found = audit(corpus)
    (error,) = found.errors
    assert error.kind == "duplicate"
    assert {name_of(corpus, trained), name_of(corpus, copy)} - {*error.names} != set() and len(error.names) == 1
    assert str(copy.relative_to(corpus.clean)) in error.text and str(trained.relative_to(corpus.clean)) in error.text
    assert without(found, error.names).findings == []


def test_speech_among_the_noises_is_an_error(corpus, trained):
    shutil.copy(trained, corpus.noise / "rain" / "speech.wav")
    (error,) = audit(corpus).errors
    assert error.kind == "duplicate" and "noise/rain/speech.wav" in error.text


def test_a_speaker_under_another_name_is_found_by_content_file_by_file(corpus, trained):
    alias = other_speaker(corpus, "test").with_name("alias")
    shutil.copytree(trained.parent, alias)
    errors = audit(corpus).errors
    assert [error.kind for error in errors] == ["duplicate"] * 2
    assert all("alias" in error.text and trained.parent.name in error.text for error in errors)


COPIES = {
    "level": (lambda samples: 0.25 * samples, "wav", "PCM_16"),
    "offset": (lambda samples: np.concatenate([np.zeros(4_321), samples]), "flac", "PCM_16"),
    "level and offset": (lambda samples: np.concatenate([np.zeros(777), 0.4 * samples])[: 2 * RATE], "wav", "FLOAT"),
    "piece": (lambda samples: samples[4_000:28_000], "wav", "PCM_16"),
    "Ogg": (lambda samples: np.concatenate([np.zeros(777), 0.4 * samples]), "ogg", "VORBIS"),
    "MP3": (lambda samples: 2 * samples, "mp3", "MPEG_LAYER_III"),
}


@pytest.mark.parametrize(("change", "suffix", "subtype"), COPIES.values(), ids=COPIES)
def test_a_copy_at_another_level_offset_or_codec_in_another_split_is_a_warning(
    corpus, trained, change, suffix, subtype
):
    copy = write(other_speaker(corpus, "test") / f"copy.{suffix}", change(read(trained)), subtype=subtype)
    found = audit(corpus)
    (warning,) = [finding for finding in found.findings if finding.kind == "copy"]
    assert warning.names == (name_of(corpus, copy),)
    assert f"sound like {name_of(corpus, copy)} (train and test)" in warning.text
    assert found.errors == []


def test_a_copy_within_a_split_is_no_leak(corpus, trained):
    write(other_speaker(corpus, "train") / "copy.wav", 0.25 * read(trained))
    assert audit(corpus).findings == []


def test_a_group_in_two_splits_is_an_error(corpus, trained, tmp_path):
    speakers = sorted(path.name for path in corpus.clean.iterdir())
    rows = [f"speech/{name},{('train', 'validation', 'test')[at % 3]}" for at, name in enumerate(speakers)]
    rows += [f"noise/{kind}/{at}.wav,{SPLITS[at % 3]}" for kind in KINDS for at in range(6)]
    table = tmp_path / "corpus" / "splits.csv"
    table.write_text("\n".join(["path,split", *rows, "speech/s00/1.wav,test"]))
    found = audit(replace(corpus, splits=str(table)))
    (error,) = found.errors
    assert (error.kind, error.names) == ("leak", ("clean/s00/1.wav",))
    assert "group 's00' lies in train and test, expected one split" in error.text
    assert without(found, error.names).errors == []


def test_a_split_that_cannot_be_scored_is_an_error(corpus):
    for path in spoken(corpus, "validation"):
        write(path, 0.1 * np.ones(round(0.3 * RATE)))
    text = [error.text for error in audit(corpus).errors if error.kind == "short"]
    assert len(text) == 1 and re.match(r"validation split: .*expected (at least 3 s|some)", text[0])


def test_utterances_too_short_for_the_metrics_are_an_error(corpus):
    for path in spoken(corpus, "test"):
        samples = read(path)
        path.unlink()
        for piece in range(4):
            write(path.with_name(f"{path.stem}-{piece}.wav"), samples[8_000 * piece : 8_000 * (piece + 1)])
    (error,) = audit(corpus).errors
    assert re.match(r"test split: none of \d+ utterances lasts 1 s, expected some", error.text)


def test_few_speakers_and_few_sources_are_warnings(corpus):
    for number in range(6, 40):
        shutil.rmtree(corpus.clean / f"s{number:02d}")
    for source in range(2, 6):
        (corpus.noise / "hum" / f"{source}.wav").unlink()
    found = audit(corpus)
    assert found.errors == []
    texts = [finding.text for finding in found.findings if finding.kind == "groups"]
    assert any(re.match(r"test split: \d groups of speech, expected at least 5", text) for text in texts)
    assert "noise/hum: 2 sources, expected at least 3, one for each split; add recordings" in texts


def test_errors_come_first_and_progress_counts_every_file(corpus, trained):
    write(corpus.noise / "rain" / "0.wav", np.zeros(RATE))
    trained.write_text("text")
    seen = []
    found = audit(corpus, progress=lambda done, total: seen.append((done, total)))
    assert [finding.severity for finding in found.findings] == ["error", "warning"]
    assert seen == [(done, 98) for done in range(99)]


def test_several_processes_find_the_same_as_one(corpus, trained):
    cut(trained)
    write(corpus.noise / "rain" / "0.wav", np.zeros(RATE))
    assert audit(corpus, processes=2).findings == audit(corpus).findings


def test_a_corpus_of_bad_recordings_only_is_refused(corpus):
    found = audit(corpus)
    with pytest.raises(CorpusError, match="no sound files, expected noise recordings"):
        without(found, [recording.name for recording in found.inspections if recording.kind == "noise"])


def test_files_of_sound_that_are_not_read_are_a_warning(healthy, tmp_path):
    shutil.copytree(healthy, tmp_path / "corpus")
    for name in ("speech/s00/memo.m4a", "noise/rain/a.WMA", "noise/rain/b.wma", "noise/rain/notes.txt"):
        (tmp_path / "corpus" / name).write_text("not read")
    found = audit(CorpusConfig(tmp_path / "corpus" / "speech", tmp_path / "corpus" / "noise", RATE)).findings
    texts = [finding.text for finding in found if finding.kind == "unread"]
    assert [text.partition(": ")[2].partition(", expected")[0] for text in texts] == [
        "1 files that are not read (1 .m4a)",
        "2 files that are not read (2 .wma)",
    ]


def test_a_process_that_is_killed_inside_its_write_changes_no_finding(small_config, tmp_path, monkeypatch):
    unharmed = audit(small_config)
    deadly.plant(tmp_path, monkeypatch)(1)
    found = audit(small_config, 2)
    assert found.findings == unharmed.findings
    assert [one.digest for one in found.inspections.values()] == [one.digest for one in unharmed.inspections.values()]
    assert not any((tmp_path / "kills").iterdir())


def test_processes_that_are_killed_again_are_one_line_that_names_recordings(small_config, tmp_path, monkeypatch):
    deadly.plant(tmp_path, monkeypatch)(
        3
    )  # the first answers of both processes, then the first one that is tried again
    with pytest.raises(ProcessError, match=r"^reading clean/speaker\d/0\.wav and 7 more: killed \(signal 9\), prob"):
        audit(small_config, 2)
