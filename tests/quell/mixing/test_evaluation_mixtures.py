"""The set is the same in every process, and its mixtures have the SNRs of their labels."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from quell.config import DenoiserConfig
from quell.corpus.memory_map import Corpus, open_store
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.errors import CorpusError
from quell.levels import rms
from quell.metrics import intrusive
from quell.metrics.scorer import Scorer
from quell.mixing import evaluation_mixtures
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set, score_denoiser
from quell.network.denoiser import Denoiser, Estimate
from quell.network.stft import magnitude
from quell.training.training_loop import spectrogram_iou

SNRS = np.linspace(-5, 20, 6)


def same(one: EvaluationSet, other: EvaluationSet) -> bool:
    return (
        all(map(np.array_equal, one.noisy, other.noisy))
        and all(map(np.array_equal, one.clean, other.clean))
        and (one.labels, one.sample_rate) == (other.labels, other.sample_rate)
        and np.array_equal(one.snr_db, other.snr_db)
        and all(np.array_equal(one.noisy_scores.values[n], v) for n, v in other.noisy_scores.values.items())
    )


def snr_db(mixtures, i):
    noise = mixtures.noisy[i].astype(float) - mixtures.clean[i]
    return 10 * np.log10(np.square(mixtures.clean[i].astype(float)).sum() / np.square(noise).sum())


@pytest.fixture
def copy(small_corpus, tmp_path) -> Corpus:
    """The small corpus with a store of its own, in which no set was built yet."""
    for name in ("index.json", "train.int16", "validation.int16", "test.int16"):
        (tmp_path / name).symlink_to(small_corpus.folder / name)
    return replace(open_store(tmp_path), fingerprint=small_corpus.fingerprint)


def test_the_set_is_the_same_built_again_and_loaded(validation, small_corpus, copy, scorer, monkeypatch):
    built = evaluation_set(copy, "validation", 6, (-5.0, 20.0), 3, scorer)
    assert same(built, validation)
    monkeypatch.setattr(evaluation_mixtures, "_build", None)
    assert same(evaluation_set(small_corpus, "validation", 6, (-5.0, 20.0), 3, scorer), validation)


@pytest.mark.parametrize("damage", ["bit", "cut", "zeros"])
def test_a_damaged_set_is_built_again(validation, copy, scorer, damage, caplog):
    evaluation_set(copy, "validation", 6, (-5.0, 20.0), 3, scorer)
    (path,) = copy.folder.glob("*.npz")
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "bit":
        content[middle] ^= 1
    path.write_bytes(
        content[:middle] + bytes(middle) if damage == "zeros" else content[: -50 if damage == "cut" else None]
    )
    assert same(evaluation_set(copy, "validation", 6, (-5.0, 20.0), 3, scorer), validation)
    assert caplog.messages == [f"{path}: damaged; its mixtures are made again"]
    assert same(evaluation_set(copy, "validation", 6, (-5.0, 20.0), 3, scorer), validation)
    assert len(caplog.messages) == 1


def test_another_seed_split_or_range_is_another_set(validation, copy, monkeypatch):
    unscored = [intrusive.ClipScore({"si_sdr": 0.0}, ())] * 6
    monkeypatch.setattr(Scorer, "score_clips", lambda *_: unscored)
    monkeypatch.setattr(intrusive, "available", lambda _: ("si_sdr",))  # nothing to wait for
    scorer = Scorer()
    for split, limits, seed in (("validation", (-5.0, 20.0), 4), ("test", (-5.0, 20.0), 3)):
        other = evaluation_set(copy, split, 6, limits, seed, scorer)
        assert other.labels != validation.labels
    other = evaluation_set(copy, "validation", 6, (0.0, 10.0), 3, scorer)
    assert other.labels == validation.labels and sorted(other.snr_db) == np.linspace(0, 10, 6).tolist()


def test_no_snr_has_noises_or_speakers_of_its_own(copy, monkeypatch):
    count = 360
    monkeypatch.setattr(Scorer, "score_clips", lambda *_: [intrusive.ClipScore({"si_sdr": 0.0}, ())] * count)
    monkeypatch.setattr(intrusive, "available", lambda _: ("si_sdr",))
    mixtures = evaluation_set(copy, "train", count, (-5.0, 20.0), 0, Scorer())
    for part in (0, 1):  # speaker, noise category
        names = [label.split(" + ")[part].split("/")[0] for label in mixtures.labels]
        for snr in SNRS:
            mixed = [name for name, at in zip(names, mixtures.snr_db, strict=True) if at == snr]
            expected = len(mixed) / len(set(names))
            for name in set(names):  # within 4 standard deviations of a Poisson count
                assert abs(mixed.count(name) - expected) < 4 * expected**0.5, (name, snr)
                assert mixed.count(name) > 0


def test_every_mixture_measures_the_snr_it_is_labelled_with(validation):
    assert sorted(validation.snr_db) == SNRS.tolist()
    for i, label in enumerate(validation.snr_db):
        # The difference of float32 signals 20 dB apart rounds at 1e-6; the mixtures themselves at 1e-7.
        assert snr_db(validation, i) == pytest.approx(label, abs=1e-3)


def test_the_louder_peak_is_half_of_full_scale(validation):
    for noisy, clean in zip(validation.noisy, validation.clean, strict=True):
        assert max(np.abs(noisy).max(), np.abs(clean).max()) == pytest.approx(0.5, rel=1e-6)  # float32


@pytest.mark.parametrize("split", ["validation", "test"])
def test_clips_come_from_the_split_and_are_its_recordings(small_corpus, validation, scorer, split):
    built = validation if split == "validation" else evaluation_set(small_corpus, split, 2, (0.0, 5.0), 0, scorer)
    data = small_corpus.splits[split]
    clips = {clip.path: clip for clip in data.clips}
    for label, clean in zip(built.labels, built.clean, strict=True):
        spoken, sound = (clips[path] for path in label.split(" + "))
        assert (spoken.kind, sound.kind) == ("clean", "noise")
        waveform = data.waveform(spoken)
        # The same samples at another level: float32.
        np.testing.assert_allclose(clean / np.abs(clean).max(), waveform / np.abs(waveform).max(), atol=1e-6)


def test_speakers_and_noise_categories_are_taken_in_turn(small_corpus, validation):
    data = small_corpus.splits["validation"]
    of = {clip.path: clip for clip in data.clips}
    categories = [of[label.split(" + ")[1]].category for label in validation.labels]
    assert set(categories[:3]) == set(categories[3:]) == {"white", "rumble", "hum"}
    speakers = {clip.group for clip in data.of("clean")}
    assert {of[label.split(" + ")[0]].group for label in validation.labels[: len(speakers)]} == speakers


def test_first_gives_the_first_mixtures(validation):
    first = validation.first(4)
    assert len(first.noisy) == len(first.clean) == 4
    for mine, whole in ((first.noisy, validation.noisy), (first.clean, validation.clean)):
        assert all(map(np.array_equal, mine, whole))
    assert first.labels == validation.labels[:4]
    assert first.snr_db.tolist() == first.noisy_scores.snr_db.tolist() == validation.snr_db[:4].tolist()
    for name, values in validation.noisy_scores.values.items():
        assert first.noisy_scores.values[name].tolist() == values[:4].tolist()
    assert same(validation.first(100), validation)


def test_the_noisy_input_scores_noisy_scores(validation, scorer):
    found = score_denoiser(scorer, lambda noisy: noisy, validation, ("pesq", "stoi", "si_sdr"))
    for name, values in found.values.items():
        assert values.tolist() == validation.noisy_scores.values[name].tolist()
    assert found.failures == validation.noisy_scores.failures == 0
    assert found.snr_db.tolist() == validation.snr_db.tolist()
    # SI-SDR of noise that is nearly orthogonal to the speech is the SNR, and 3 dB is what 1 s of hum is off by.
    assert validation.noisy_scores.values["si_sdr"].tolist() == pytest.approx(validation.snr_db.tolist(), abs=3)


def test_silence_scores_worst_and_every_clip_counts_as_failed(validation, scorer):
    found = score_denoiser(scorer, torch.zeros_like, validation)
    assert found.means() == intrusive.WORST
    assert found.failures == 6 * len(intrusive.WORST)


def test_scoring_processes_never_import_torch(validation, scorer):
    score_denoiser(scorer, lambda noisy: noisy, validation.first(1), ("stoi",))
    loaded = scorer._children.submit("modules", eval, "sorted(__import__('sys').modules)").result()
    assert "quell.metrics.intrusive" in loaded
    assert "torch" not in loaded
    assert intrusive.score_clip.__module__ == "quell.metrics.intrusive"


def build(folder, scorer, clean, noise, count):
    for i in range(3):
        for kind, signal in (("clean", clean), ("noise", noise)):
            (folder / kind).mkdir(exist_ok=True)
            soundfile.write(folder / kind / f"{i}.wav", signal, 8_000)
    built = prepare(CorpusConfig(folder / "clean", folder / "noise", 8_000, "file"), folder / "store")
    return evaluation_set(built, "test", count, (0.0, 0.0), 0, scorer)


def test_too_little_speech_is_refused_with_the_counts(tmp_path, speech, noise, scorer):
    message = "test split: 0 of 2 mixtures can be scored by pesq, stoi, estoi, si_sdr after 4 draws, expected all"
    with pytest.raises(CorpusError, match=re.escape(message)):
        build(tmp_path, scorer, speech(0.2), noise(1.0), count=2)


def test_utterances_are_cut_to_the_longest(tmp_path, speech, noise, scorer, monkeypatch):
    monkeypatch.setattr(evaluation_mixtures, "LONGEST_S", 1.1)
    found = build(tmp_path, scorer, speech(2.0), noise(0.3), count=1)
    assert [len(clip) for clip in found.noisy] == [8_800]


def test_digital_silence_in_noise_is_skipped(tmp_path, speech, noise, scorer):
    burst = noise(0.5)
    paused = np.concatenate([burst, np.zeros(32_000, np.float32), burst])  # 3 of 5 crops of 1.2 s are silent
    found = build(tmp_path, scorer, speech(1.2), paused, count=6)
    # A crop that is almost all silence has the noise of its few samples amplified: float32 holds it to 1e-3 dB.
    assert [snr_db(found, i) for i in range(6)] == pytest.approx([0.0] * 6, abs=1e-3)


@pytest.fixture(params=["log", "linear", "power"])
def answering(request, validation):
    """Builds a denoiser that answers, instead of its network, `answer(noisy, clean)` of magnitudes at rms 1."""

    def build(answer, mixtures=validation):
        shape = {"win_length": 128, "hop_length": 32, "depth": 2, "base_channels": 4}
        denoiser = Denoiser(DenoiserConfig(sample_rate=8_000, representation=request.param, **shape)).eval()
        noisy, clean = ([torch.from_numpy(clip)[None] for clip in side] for side in (mixtures.noisy, mixtures.clean))
        scaled = [side / rms(loud) for side, loud in zip(clean, noisy, strict=True)]
        spoken = [magnitude(denoiser.spectrogram(side)) for side in scaled]
        denoiser.target.representation.fit(torch.cat([side.flatten() for side in spoken]))
        targets = iter(spoken)

        def estimate(spectrum):
            noisy = magnitude(spectrum)
            return Estimate(noisy, noisy, noisy, answer(noisy, next(targets)), noisy[:, None][:, :0]), None

        denoiser.estimate = estimate
        return denoiser

    return build


def test_spectrogram_iou_of_an_ideal_denoiser_is_1(answering, validation):
    assert spectrogram_iou(answering(lambda noisy, clean: clean), validation) == 1.0


def test_spectrogram_iou_of_silence_is_0(answering, validation):
    first = validation.first(1)
    assert spectrogram_iou(answering(lambda noisy, clean: 0 * clean, first), first) == 0.0


def test_spectrogram_iou_of_doing_nothing_falls_with_the_snr(answering, validation):
    first, found = validation.first(1), []
    noise = first.noisy[0] - first.clean[0]
    for share in (3.0, 1.0, 0.1, 0.0):
        mixtures = replace(first, noisy=[first.clean[0] + np.float32(share) * noise])
        found.append(spectrogram_iou(answering(lambda noisy, clean: noisy, mixtures), mixtures))
    assert found == sorted(found) and len(set(found)) == 4
    assert found[-1] == 1.0


def test_spectrogram_iou_cuts_in_the_middle_of_the_scale(answering, validation):
    first = validation.first(1)
    denoiser = answering(lambda noisy, clean: noisy, first)
    represent = denoiser.target.representation
    raw = {
        "log": lambda x: 20 * np.log10(x),
        "power": lambda x: x**represent.exponent,
        "linear": lambda x: x,
    }[represent.name]
    level = np.sqrt(np.square(first.noisy[0], dtype=np.float64).mean())
    middle = (represent.low.item() + represent.high.item()) / 2
    ours, theirs = (
        raw(magnitude(denoiser.spectrogram(torch.from_numpy(side / level)[None])).double().numpy()) > middle
        for side in (first.noisy[0], first.clean[0])
    )
    expected = (ours & theirs).sum() / (ours | theirs).sum()
    # Some of 10 000 bins may lie within float32's rounding of the threshold.
    assert spectrogram_iou(denoiser, first) == pytest.approx(expected, abs=1e-3)
