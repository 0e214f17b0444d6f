"""The benchmark of unseen noises: the folds of noises, and whose scores count for each clip."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from quell.corpus.memory_map import Corpus
from quell.mixing.evaluation_mixtures import EvaluationSet


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "benchmarks"), *sys.path])


@pytest.mark.parametrize("folds", [1, 3, 10])
def test_each_kind_of_noise_is_in_one_fold(folds: int) -> None:
    from unseen_noises import folds_of

    kinds = [f"kind{number}" for number in range(10)]
    parts = folds_of(kinds, folds)
    assert sorted(kind for part in parts for kind in part) == kinds
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_training_without_a_kind_of_noise_keeps_all_speech(small_corpus: Corpus) -> None:
    from trainings import _without

    reduced = _without(small_corpus, ("hum",))
    before, after = (corpus.splits["train"] for corpus in (small_corpus, reduced))
    assert {clip.category for clip in before.of("noise")} - {clip.category for clip in after.of("noise")} == {"hum"}
    assert after.of("clean") == before.of("clean")
    assert reduced.splits["test"] == small_corpus.splits["test"]


def test_every_clip_has_the_score_of_the_training_without_its_noise(validation: EvaluationSet) -> None:
    from unseen_noises import merged

    first = np.arange(6) < 2
    scores = validation.noisy_scores
    other = type(scores)({name: values + 1 for name, values in scores.values.items()}, scores.snr_db, 0)
    scores_of_all = merged([(first, scores), (~first, other)])
    for name, values in scores.values.items():
        assert np.array_equal(scores_of_all.values[name], np.where(first, values, values + 1))
