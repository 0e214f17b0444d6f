"""The benchmark of unseen noises: what a training does not hear, and whose scores count for which clip."""

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
    found = folds_of(kinds, folds)
    assert sorted(kind for fold in found for kind in fold) == kinds
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_training_hears_all_speech_and_no_kind_of_noise_that_is_kept_from_it(small_corpus: Corpus) -> None:
    from trainings import _keep_from

    kept = _keep_from(small_corpus, ("hum",))
    before, after = (corpus.splits["train"] for corpus in (small_corpus, kept))
    assert {clip.category for clip in before.of("noise")} - {clip.category for clip in after.of("noise")} == {"hum"}
    assert after.of("clean") == before.of("clean")
    assert kept.splits["test"] == small_corpus.splits["test"]


def test_every_clip_has_the_score_of_the_training_that_did_not_hear_its_noise(validation: EvaluationSet) -> None:
    from unseen_noises import pieced

    first = np.arange(6) < 2
    scores = validation.noisy_scores
    other = type(scores)({name: values + 1 for name, values in scores.values.items()}, scores.snr_db, 0)
    found = pieced([(first, scores), (~first, other)])
    for name, values in scores.values.items():
        assert np.array_equal(found.values[name], np.where(first, values, values + 1))
