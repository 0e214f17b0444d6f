"""Of a session with long pauses, only speech is trained on and scored; utterances are used as before."""

import hashlib
import json

import numpy as np
import pytest
import torch

from quell.config import MixingConfig
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import LONGEST_S, evaluation_set
from quell.mixing.excerpts import excerpt_starts, speech_only
from quell.mixing.training_mixtures import MixtureSampler

RATE = 8_000
LENGTH = round(LONGEST_S * RATE)


def speech(seconds, seed=0):
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * (100 + 20 * seed) * k * time + rng.uniform(0, 6)) / k for k in range(1, 12))
    return 0.2 * tone * np.clip(np.sin(2 * np.pi * 2.5 * time), 0, None)


def session(parts, room_db=-60, seed=0):
    """Seconds of pause (negative) and speech (positive), in a room; 16-bit samples."""
    sounds = [speech(part, seed) if part > 0 else np.zeros(round(-part * RATE)) for part in parts]
    samples = np.concatenate(sounds)
    room = 10 ** (room_db / 20) * np.random.default_rng(seed).standard_normal(len(samples))
    return np.round(20_000 * (samples + room)).astype(np.int16)


def split_of(*recordings, kind="clean"):
    clips, offset = [], 0
    for number, samples in enumerate(recordings):
        clips.append(Clip(kind, f"s{number}/a.wav", f"s{number}", "", offset, len(samples)))
        offset += len(samples)
    return Split(np.concatenate(recordings), clips)


def test_an_utterance_is_used_from_its_beginning():
    for seconds in (1, LONGEST_S, 12, 29):
        assert excerpt_starts(session([seconds]), LENGTH, RATE).tolist() == [0]


def test_an_utterance_that_begins_with_a_long_pause_is_not():
    assert excerpt_starts(session([-10, 15]), LENGTH, RATE).min() >= 5 * RATE


@pytest.mark.parametrize("room_db", [-60, -30, -300])
def test_excerpts_of_a_session_lie_where_it_has_speech(room_db):
    samples = session([-60, 30, -120, 20, -60], room_db)
    starts = excerpt_starts(samples, LENGTH, RATE) / RATE
    assert len(starts) > 50
    assert all(56 <= start <= 86 or 206 <= start <= 226 for start in starts)
    assert any(start < 90 for start in starts) and any(start > 200 for start in starts)


def test_training_leaves_out_long_pauses_of_sessions_only():
    utterance, talk, pauses = session([-5, 3, -5]), session([10, -2, 30]), session([-10, 10, -60, 10])
    split = split_of(utterance, talk, pauses)
    found = speech_only(split, split.clips, RATE)
    assert [number for number, _ in found] == [0, 1, 2, 2]
    assert [clip for _, clip in found[:2]] == split.clips[:2]
    spans = [((clip.offset - split.clips[2].offset) / RATE, clip.length / RATE) for _, clip in found[2:]]
    np.testing.assert_allclose(spans, [(9, 12), (79, 11)], atol=0.5)


def test_every_training_segment_of_a_session_has_speech():
    split = split_of(session([-300, 10, -300, 10]))
    noise = split_of(np.random.default_rng(0).integers(-9_000, 9_000, 5 * RATE).astype(np.int16), kind="noise")
    both = Split(
        np.concatenate([split.samples, noise.samples]),
        [*split.clips, *(Clip("noise", "n.wav", "n", "", len(split.samples), 5 * RATE) for _ in noise.clips)],
    )
    sampler = MixtureSampler(both, 2 * RATE, RATE, torch.Generator().manual_seed(0), MixingConfig())
    levels = sampler.draw(64).clean.square().mean(1).sqrt()
    assert (levels > 0.01).float().mean() > 0.95


def test_pairs_stay_in_step_without_their_pauses():
    clean = session([-30, 10, -30])
    noise = np.random.default_rng(1).integers(-500, 500, len(clean)).astype(np.int16)
    samples = np.concatenate([clean, clean + noise])
    clips = [Clip("clean", "a.wav", "s", "", 0, len(clean)), Clip("noisy", "a.wav", "s", "", len(clean), len(clean))]
    sampler = MixtureSampler(Split(samples, clips), RATE, RATE, torch.Generator().manual_seed(0), MixingConfig())
    drawn = sampler.draw(32)
    difference = (drawn.noisy - drawn.clean) * 32_768
    assert difference.abs().max() <= 500.5
    assert difference.square().mean().sqrt().item() == pytest.approx(500 / np.sqrt(3), rel=0.05)


def corpus_of(folder, *recordings):
    folder.mkdir()
    noise = np.random.default_rng(2).integers(-9_000, 9_000, 10 * RATE).astype(np.int16)
    data = split_of(*recordings)
    split = Split(
        np.concatenate([data.samples, noise]),
        [*data.clips, Clip("noise", "n.wav", "n", "", len(data.samples), len(noise))],
    )
    return Corpus(folder, "fingerprint", RATE, {"validation": split})


def spread_db(clip):
    """Level of the loud 20 ms over the soft ones: of speech 30 dB and more, of a room near 0."""
    levels = clip[: len(clip) // 160 * 160].reshape(-1, 160).std(axis=1)
    return 20 * np.log10(np.quantile(levels, 0.95) / max(np.quantile(levels, 0.05), 1e-9))


def test_a_session_is_scored_on_speech_at_several_places(tmp_path):
    sessions = [session([-10, 40], -80, seed) for seed in range(4)]
    with Scorer() as scorer:
        mixtures = evaluation_set(corpus_of(tmp_path / "a", *sessions), "validation", 12, (0, 10), 0, scorer)
    assert min(spread_db(clip) for clip in mixtures.clean) > 30
    starts = {clip[:RATE].tobytes() for clip in mixtures.clean}
    assert len(starts) == 12  # each of its own place
    np.testing.assert_allclose(
        [
            10 * np.log10((c**2).sum() / ((n - c) ** 2).sum())
            for n, c in zip(mixtures.noisy, mixtures.clean, strict=True)
        ],
        mixtures.snr_db,
        atol=0.01,
    )


def test_a_set_of_utterances_keeps_its_name(tmp_path):
    with Scorer() as scorer:
        evaluation_set(corpus_of(tmp_path / "a", session([12]), session([3])), "validation", 2, (0, 10), 0, scorer)
        evaluation_set(corpus_of(tmp_path / "b", session([-10, 40])), "validation", 2, (0, 10), 0, scorer)
    (utterances,), (sessions,) = (list((tmp_path / name).glob("*.npz")) for name in "ab")
    for path, recipe in ((utterances, 1), (sessions, 2)):
        key = json.dumps([recipe, "fingerprint", "validation", 2, (0, 10), 0])
        assert path.stem == f"validation-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
