"""The demo corpus is speech and noise by measurement, the same every time, and appears whole or not at all."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from quell.datasets import espeak, synthetic_corpus
from quell.datasets.espeak import SPEECH_RATE, Espeak
from quell.datasets.synthetic_corpus import NOISE_RATE, make_demo_corpus
from quell.errors import CorpusError

pytest.importorskip("espeakng_loader", reason="needs the extra 'demo'")

Signal = NDArray[np.float32]

# The two speakers hold a voice with an echo and one with breath noise, which draws from espeak-ng's random numbers.
SMALL = {"SPEAKERS": ("en-us+m2", "en-us-nyc+f2"), "SENTENCES_PER_SPEAKER": 2, "SOURCES": 2}


@dataclass
class Corpus:
    """The files and voices of one call of make_demo_corpus."""

    folder: Path
    speech: dict[str, list[Signal]] = field(default_factory=dict)
    noise: dict[str, list[Signal]] = field(default_factory=dict)
    voices: dict[str, set[str]] = field(default_factory=dict)  # asked of espeak-ng, by speech/<voice> or noise/<class>
    babble: list[frozenset[str]] = field(default_factory=list)  # voices of each babble file


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    written = Corpus(tmp_path_factory.mktemp("demo") / "corpus")
    asked: list[str] = []
    say, babble, write = Espeak.say, synthetic_corpus._babble, synthetic_corpus._write

    def record_say(self, voice, text, **settings):
        asked.append(voice)
        return say(self, voice, text, **settings)

    def record_babble(*arguments):
        first = len(asked)
        signal = babble(*arguments)
        written.babble.append(frozenset(asked[first:]))
        return signal

    def record_write(folder, *arguments):
        written.voices["/".join(folder.parts[-2:])] = set(asked)
        asked.clear()
        write(folder, *arguments)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Espeak, "say", record_say)
        monkeypatch.setattr(synthetic_corpus, "_babble", record_babble)
        monkeypatch.setattr(synthetic_corpus, "_write", record_write)
        make_demo_corpus(written.folder)
    for part, signals in (("speech", written.speech), ("noise", written.noise)):
        for kind in sorted((written.folder / part).iterdir()):
            signals[kind.name] = [soundfile.read(path, dtype="float32")[0] for path in sorted(kind.glob("*.wav"))]
    return written


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(synthetic_corpus, name, value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def power(signal: Signal, sample_rate: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns the frequencies in Hz and the power at each, the ends of signal faded so that lines stay narrow."""
    size = 1 << (len(signal) - 1).bit_length()  # an FFT of a minute takes seconds at an odd length
    spectrum = np.fft.rfft(signal * np.hanning(len(signal)), size)
    return np.fft.rfftfreq(size, 1 / sample_rate), np.abs(spectrum) ** 2


def envelope(signal: Signal, sample_rate: int) -> Signal:
    """Returns the rms of every 10 ms."""
    frame = sample_rate // 100
    return np.sqrt(np.square(signal[: len(signal) // frame * frame]).reshape(-1, frame).mean(axis=1))


def syllabic_share(signal: Signal, sample_rate: int) -> float:
    """Returns how much of the envelope's power above 0.5 Hz lies between 2 and 8 Hz, the rate of syllables."""
    level = envelope(signal, sample_rate)
    frequency, modulation = power(level - level.mean(), 100)
    return modulation[(frequency >= 2) & (frequency <= 8)].sum() / modulation[frequency >= 0.5].sum()


def quiet_share(signal: Signal, sample_rate: int, under_db: float) -> float:
    """Returns the share of 10 ms frames more than under_db below the loudest one."""
    level = envelope(signal, sample_rate)
    return float((level < level.max() * 10 ** (-under_db / 20)).mean())


def timbre(signals: list[Signal]) -> NDArray[np.float64]:
    """Returns the long-term spectrum in dB of the total, in 30 bands from 100 Hz to 8 kHz."""
    signal = np.concatenate(signals)
    frames = signal[: len(signal) // 1024 * 1024].reshape(-1, 1024) * np.hanning(1024)
    mean = np.square(np.abs(np.fft.rfft(frames))).mean(axis=0)
    band = np.digitize(np.fft.rfftfreq(1024, 1 / SPEECH_RATE), np.geomspace(100, 8000, 31))
    bands = np.bincount(band, mean)[1:31]
    return 10 * np.log10(bands / bands.sum() + 1e-12)


def test_same_seed_gives_the_same_bytes_twice_in_one_process(small, tmp_path):
    make_demo_corpus(tmp_path / "first", seed=5)
    Espeak(1).say("en-us-nyc+f2", "Something else.", words_per_minute=170, volume=50, pitch=50)
    make_demo_corpus(tmp_path / "second", seed=5)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_same_seed_gives_the_same_bytes_in_another_process_a_second_later(small, tmp_path):
    make_demo_corpus(tmp_path / "first", seed=5)
    time.sleep(1.1)  # espeak_Initialize seeds with the time in seconds
    script = (
        "import sys; from pathlib import Path; from quell.datasets import synthetic_corpus as c; vars(c).update("
        f"{SMALL!r}); c.make_demo_corpus(Path(sys.argv[1]), seed=5)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(synthetic_corpus.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "second")], check=True, env=environment)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_another_seed_changes_every_file(small, tmp_path):
    make_demo_corpus(tmp_path / "first", seed=5)
    make_demo_corpus(tmp_path / "second", seed=6)
    first, second = contents(tmp_path / "first"), contents(tmp_path / "second")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] == second[name]] == []


def test_corpus_holds_24_minutes_of_sentences_from_at_least_20_speakers(corpus):
    seconds = [len(signal) / SPEECH_RATE for signals in corpus.speech.values() for signal in signals]
    assert len(corpus.speech) >= 20
    assert min(seconds) >= 2 and max(seconds) <= 6
    assert sum(seconds) / 60 == pytest.approx(25, abs=1.5)  # espeak-ng's releases differ by a few per cent in pace


def test_every_noise_class_has_8_sources_of_two_takes_between_5_and_8_seconds(corpus):
    assert set(corpus.noise) == {"white", "pink", "hum", "babble", "clicks", "fan"}
    for name, signals in corpus.noise.items():
        paths = sorted((corpus.folder / "noise" / name).iterdir())
        groups = [re.match(r"([a-z]+\d+)-", path.name)[1] for path in paths]
        assert sorted(groups) == sorted(2 * [f"{name}{number}" for number in range(1, 9)])
        assert all(5 <= len(signal) / NOISE_RATE <= 8 for signal in signals)


def test_files_are_16_bit_at_the_rates_the_module_states(corpus):
    for part, sample_rate in (("speech", SPEECH_RATE), ("noise", NOISE_RATE)):
        found = {
            (info.samplerate, info.channels, info.subtype)
            for info in map(soundfile.info, (corpus.folder / part).rglob("*.wav"))
        }
        assert found == {(sample_rate, 1, "PCM_16")}


def test_no_file_clips_or_is_silent(corpus):
    for name, signals in (corpus.speech | corpus.noise).items():
        for signal in signals:
            assert 0.05 < np.abs(signal).max() < 0.95, name
            assert signal.std() > 10 ** (-55 / 20), name  # sparse clicks are the quietest, near -45 dB


def test_half_the_sentences_of_a_speaker_identify_the_other_half(corpus):
    odd = {voice: timbre(signals[::2]) for voice, signals in corpus.speech.items()}
    even = {voice: timbre(signals[1::2]) for voice, signals in corpus.speech.items()}
    for voice, spectrum in odd.items():
        assert min(even, key=lambda other: np.square(even[other] - spectrum).mean()) == voice


def test_folders_name_the_voice_that_speaks_in_them(corpus):
    assert {f"speech/{voice}": {voice} for voice in corpus.speech} == {
        part: voices for part, voices in corpus.voices.items() if part.startswith("speech/")
    }


def test_no_voice_of_babble_is_a_speaker(corpus):
    def variants(voices):
        return {voice.split("+")[1] for voice in voices}

    babble = corpus.voices["noise/babble"]
    assert len(babble) > 30
    assert variants(babble).isdisjoint(variants(corpus.speech))


def test_takes_of_one_babble_source_share_their_voices_and_no_other_source_has_them(corpus):
    assert len(corpus.babble) == 16
    for number, voices in enumerate(corpus.babble):
        assert len(voices) >= 3
        for other, others in enumerate(corpus.babble):
            assert others == voices if other // 2 == number // 2 else others.isdisjoint(voices)


def test_speech_is_modulated_at_the_rate_of_syllables(corpus):
    # Measured 0.56 to 0.68. A flat modulation spectrum would have 0.12, the share of 6 Hz in 49.5 Hz.
    assert min(syllabic_share(np.concatenate(signals), SPEECH_RATE) for signals in corpus.speech.values()) > 0.45
    assert max(syllabic_share(signal, NOISE_RATE) for signal in corpus.noise["white"]) < 0.25


def test_speech_has_its_energy_under_5_khz(corpus):
    for voice, signals in corpus.speech.items():
        frequency, energy = power(np.concatenate(signals), SPEECH_RATE)
        assert energy[frequency < 5000].sum() > 0.95 * energy.sum(), voice


def test_speech_has_pauses(corpus):
    assert min(quiet_share(np.concatenate(signals), SPEECH_RATE, 40) for signals in corpus.speech.values()) > 0.05
    assert max(quiet_share(signal, NOISE_RATE, 40) for signal in corpus.noise["pink"]) == 0


@pytest.mark.parametrize(("name", "db_per_octave"), [("white", 0.0), ("pink", -3.01)])
def test_coloured_noise_has_its_slope_within_1_db_per_octave(corpus, name, db_per_octave):
    # Sources spread by 0.7 dB per octave around the colour; the fit over 7 octaves of 5 s is good to 0.1.
    for signal in corpus.noise[name]:
        frequency, energy = power(signal, NOISE_RATE)
        edges = 62.5 * 2.0 ** np.arange(8)
        octaves = [energy[(frequency >= low) & (frequency < 2 * low)].mean() for low in edges[:-1]]
        slope = np.polyfit(np.arange(7), 10 * np.log10(octaves), 1)[0]
        assert slope == pytest.approx(db_per_octave, abs=1.0)


def test_hum_has_its_energy_at_harmonics_of_50_or_60_hz(corpus):
    mains = []
    for signal in corpus.noise["hum"]:
        frequency, energy = power(signal, NOISE_RATE)
        # 3 Hz hold the 25th harmonic of a grid 0.1 Hz off, and are 12 % of the band.
        shares = {
            f0: energy[(np.abs(frequency - f0 * np.round(frequency / f0)) < 3) & (frequency > 3)].sum() / energy.sum()
            for f0 in (50, 60)
        }
        mains.append(max(shares, key=lambda f0: shares[f0]))
        assert shares[mains[-1]] > 0.99
    assert mains == 4 * [50, 50, 60, 60]


def test_clicks_leave_most_of_the_time_quiet(corpus):
    assert min(quiet_share(signal, NOISE_RATE, 30) for signal in corpus.noise["clicks"]) > 0.5


def test_takes_of_a_fan_swell_at_the_same_rate_and_other_sources_at_another(corpus):
    rates = []
    for signal in corpus.noise["fan"]:
        level = envelope(signal, NOISE_RATE)
        frequency, modulation = power(level - level.mean(), 100)
        rates.append(frequency[modulation.argmax()])
    # Bins are 0.2 Hz wide at most, sources 35 % apart.
    assert rates[::2] == pytest.approx(rates[1::2], abs=0.3)
    assert min(np.diff(rates[::2])) > 1


def test_readme_says_in_three_lines_that_the_corpus_was_generated(corpus):
    lines = (corpus.folder / "README.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3
    assert "Generated by Quell with seed 0" in lines[1]


def test_existing_folder_is_refused_and_untouched(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep")
    with pytest.raises(CorpusError, match=re.escape(f"{folder}: exists, expected a new folder")):
        make_demo_corpus(folder)
    assert contents(tmp_path) == {str(Path("corpus", "mine.txt")): b"keep"}


@pytest.mark.parametrize("interruption", [OSError("disk full"), KeyboardInterrupt()])
def test_interrupted_call_leaves_nothing_behind(small, tmp_path, monkeypatch, interruption):
    written = []
    write = soundfile.write

    def write_until_interrupted(path, *arguments, **settings):
        if len(written) == 10:
            raise interruption
        write(path, *arguments, **settings)
        written.append(path)

    monkeypatch.setattr(soundfile, "write", write_until_interrupted)
    with pytest.raises(type(interruption)):
        make_demo_corpus(tmp_path / "corpus")
    assert len(written) == 10
    assert list(tmp_path.iterdir()) == []


def test_missing_loader_is_reported_with_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(CorpusError, match=re.escape("espeakng-loader is not installed, expected the extra 'demo'")):
        make_demo_corpus(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_library_that_does_not_start_is_reported_with_its_data_and_code(monkeypatch):
    monkeypatch.setattr(espeak, "SPEECH_RATE", 8000)
    with pytest.raises(CorpusError, match=r"espeak-ng-data: espeak_Initialize returned 22050, expected 8000 Hz"):
        Espeak(0)


def test_unknown_accent_is_reported_with_the_code_and_the_voice():
    with pytest.raises(CorpusError, match=re.escape("espeak_SetVoiceByName returned 2 for voice xx-none+m1")):
        Espeak(0).say("xx-none+m1", "Hello.", words_per_minute=170, volume=50, pitch=50)


@pytest.mark.parametrize("call", ["espeak_SetParameter", "espeak_Synth"])
def test_failing_call_is_reported_with_the_code_and_the_voice(monkeypatch, call):
    espeak = Espeak(0)
    monkeypatch.setattr(espeak._library, call, lambda *arguments: -1)
    with pytest.raises(CorpusError, match=re.escape(f"{call} returned -1 for voice en-us+m1, expected 0")):
        espeak.say("en-us+m1", "Hello.", words_per_minute=170, volume=50, pitch=50)
