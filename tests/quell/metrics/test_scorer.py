"""Scores compare clip by clip, and a scorer keeps few clips in memory."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import deadly
import numpy as np
import pytest

from quell.errors import ProcessError
from quell.metrics import intrusive
from quell.metrics import scorer as scoring
from quell.metrics.scorer import Scorer, Scores, paired_interval
from quell.mixing.evaluation_mixtures import score_denoiser


def scores(*values, snr_db=(0, 10, 0, 10)):
    return Scores({"pesq": np.array(values, float), "stoi": np.array(values) / 10}, np.array(snr_db, float), 0)


@pytest.mark.parametrize("at", [2, 8, 12])  # while estimates are made, and while clips are scored
def test_an_exception_of_progress_ends_the_scoring_and_the_scorer_stays_usable(validation, scorer, at):
    calls = []

    def move(done, of):
        calls.append((done, of))
        if len(calls) == at:
            raise InterruptedError

    made = []
    with pytest.raises(InterruptedError):
        score_denoiser(scorer, lambda noisy: made.append(noisy) or noisy, validation, ("pesq",), progress=move)
    assert len(made) == min(at, 6)
    whole = []
    found = score_denoiser(
        scorer, lambda noisy: noisy, validation, ("pesq",), progress=lambda *moved: whole.append(moved)
    )
    assert found.values["pesq"].tolist() == validation.noisy_scores.values["pesq"].tolist()
    assert len(whole) == 12 and whole[-1] == (6, 6) and whole == sorted(whole)


def test_at_most_ahead_clips_wait_to_be_scored(validation, scorer, monkeypatch):
    monkeypatch.setattr(scoring, "AHEAD", 2)
    waiting, scored = [], 0

    def move(done, of):
        nonlocal scored
        scored = done

    def jobs():
        for submitted in range(12):
            waiting.append(submitted - scored)
            yield partial(intrusive.score_clip, validation.noisy[0], validation.clean[0], 8_000, ("stoi",))

    found = scorer.run(jobs(), 12, move)
    assert len(found) == 12 and {clip.values["stoi"] for clip in found} == {validation.noisy_scores.values["stoi"][0]}
    assert max(waiting) <= 4  # two that wait, and one that was scored since `move`


def test_scores_are_the_same_to_the_last_digit_whatever_the_environment_says_of_threads(monkeypatch):
    target = np.random.default_rng(0).standard_normal(20_000).astype(np.float32)  # OpenBLAS cuts it for two threads
    estimate = target + 0.1 * np.random.default_rng(1).standard_normal(20_000).astype(np.float32)
    found = set()
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS"):
        for threads in ("1", "2"):
            with monkeypatch.context() as environment, Scorer(1) as scorer:
                environment.setenv(variable, threads)
                (clip,) = scorer.score_clips([estimate], [target], 8_000, ("si_sdr",))
            found.add(clip.values["si_sdr"])
    assert len(found) == 1


def test_metrics_are_computed_in_scoring_processes_only():
    root = Path(__file__).parents[3]
    sources = [*(root / "src").rglob("*.py"), *(root / "tuning").rglob("*.py")]
    called = [path.name for path in sources if re.search(r"(?<!def )\bscore_clip\(", path.read_text())]
    assert len(sources) > 100 and not called  # others name it in a `partial`, which a process calls


def test_a_scoring_process_that_is_killed_inside_its_write_changes_no_score(validation, tmp_path, monkeypatch):
    deadly.plant(tmp_path, monkeypatch)(1)
    with Scorer(2) as scorer:
        found = score_denoiser(scorer, lambda noisy: noisy, validation, ("stoi",))
    assert not any((tmp_path / "kills").iterdir())
    assert found.values["stoi"].tolist() == validation.noisy_scores.values["stoi"].tolist()


def test_scoring_processes_that_are_killed_again_are_one_line_and_the_scorer_stays_usable(
    validation, tmp_path, monkeypatch
):
    kill = deadly.plant(tmp_path, monkeypatch)
    with Scorer(1) as scorer:
        kill(2)
        with pytest.raises(ProcessError, match=r"^scoring clip 1 of 6: killed \(signal 9\), probably for want"):
            score_denoiser(scorer, lambda noisy: noisy, validation, ("stoi",))
        assert len(score_denoiser(scorer, lambda noisy: noisy, validation, ("stoi",)).snr_db) == 6


def test_another_number_of_estimates_than_references_is_refused(validation, scorer):
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is longer than argument 1"):
        scorer.score_clips(iter(()), validation.clean, 8_000, ("si_sdr",))


def test_means_by_snr_are_those_of_its_clips():
    found = scores(1, 2, 4, 8)
    assert found.mean("pesq") == 3.75
    assert found.means() == pytest.approx({"pesq": 3.75, "stoi": 0.375})
    assert list(found.by_snr()) == [0.0, 10.0]
    assert found.by_snr()[0.0] == pytest.approx({"pesq": 2.5, "stoi": 0.25})
    assert found.by_snr()[10.0] == pytest.approx({"pesq": 5.0, "stoi": 0.5})


def test_worse_than_is_the_share_of_clips_that_score_lower():
    assert scores(1, 2, 4, 8).worse_than(scores(2, 2, 3, 9), "pesq") == 0.5
    assert scores(1, 2, 4, 8).worse_than(scores(1, 2, 4, 8), "pesq") == 0.0


def test_gain_over_is_paired_and_its_interval_holds_the_mean():
    rng = np.random.default_rng(0)
    base, gains = rng.normal(0, 5, 400), rng.normal(0.5, 1, 400)  # clips differ far more than denoisers do
    one, other = (Scores({"pesq": values}, base, 0) for values in (base + gains, base))
    mean, low, high = one.gain_over(other, "pesq")
    assert mean == pytest.approx(gains.mean())
    # 1.96 standard errors of the mean; a bootstrap of 2000 draws finds a quantile to some per cent of it.
    half = 1.96 * gains.std() / 20
    assert [low, high] == pytest.approx([mean - half, mean + half], abs=0.1 * half)
    assert other.gain_over(one, "pesq") == pytest.approx((-mean, -high, -low), abs=1e-9)
    assert one.gain_over(one, "pesq") == (0.0, 0.0, 0.0)


def test_paired_interval_is_that_of_the_gains():
    one, other = scores(1, 2, 4, 8), scores(2, 2, 3, 9)
    gains = np.array([-1.0, 0.0, 1.0, -1.0])
    assert one.gain_over(other, "pesq") == paired_interval(gains)
    assert paired_interval(gains[:1]) == (-1.0, -1.0, -1.0)


def test_worst_clip_is_the_one_with_the_smallest_gain():
    assert scores(1, 2, 4, 8).worst_clip(scores(2, 5, 3, 9), "pesq") == (1, -3.0)
    assert scores(5, 4, 9, 8).worst_clip(scores(1, 2, 4, 7), "pesq") == (3, 1.0)  # no clip is worse


def test_worse_at_highest_snr_leaves_the_other_clips_out():
    one, other = scores(1, 2, 4, 8), scores(2, 2, 5, 9)  # 10 dB: the second and the fourth
    assert one.worse_at_highest_snr(other) == {"pesq": 0.5, "stoi": 0.5}
    assert one.worse_than(other, "pesq") == 0.75
