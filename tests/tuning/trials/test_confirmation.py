"""Whether a winner is real: which repetitions are given up, who wins over all seeds, and what is exported then."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial
from quell_tuning.export import chosen_trial
from quell_tuning.optuna_private import storage_of
from quell_tuning.trials import confirmation
from quell_tuning.workspace.run_folder import RunFolder
from rich.console import Console

CLIPS = 32
STEP = 108
LEADERS = np.random.default_rng(1).uniform(1.0, 4.5, CLIPS)  # PESQ of the leader's clips at one rung


@pytest.fixture
def search() -> optuna.Study:
    return optuna.create_study(study_name="s", direction="maximize")


@pytest.fixture
def repeated(search: optuna.Study) -> optuna.Study:
    return optuna.create_study(study_name="s-confirm", storage=storage_of(search), direction="maximize")


def end(study: optuna.Study, value: float | None, clips: Sequence[float] = (), **attributes: Any) -> int:
    """A trial that completed with this value, or was pruned without; returns its number."""
    state = attributes.pop("state", TrialState.PRUNED if value is None else TrialState.COMPLETE)
    constraints = attributes.pop("constraints", {})
    scores = {"54": [0.0] * max(1, len(clips)), "288": list(clips) or [value]}
    study.add_trial(
        create_trial(value=value, state=state, constraints=constraints, user_attrs={"clips": scores, **attributes})
    )
    return len(study.trials) - 1


@pytest.fixture
def repetition(search: optuna.Study, repeated: optuna.Study) -> optuna.Trial:
    """A repetition of trial 1 of a search, whose best is trial 0."""
    best = end(search, 3.0)
    search_leader = {"trial": best, "clips": {str(STEP): LEADERS.round(4).tolist()}}
    repeated.set_user_attr("leader", search_leader)
    trial = repeated.ask()
    trial.set_user_attr("of", 1)
    return trial


def noise(scale: float, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng([2, seed]).standard_normal(CLIPS)


def test_a_repetition_whose_clips_score_clearly_lower_is_hopeless(repetition: optuna.Trial) -> None:
    assert confirmation.hopeless(repetition, STEP, LEADERS - 0.1 + noise(0.05))
    assert confirmation.hopeless(repetition, STEP, LEADERS - 1.0 + noise(0.5))
    assert confirmation.hopeless(repetition, STEP, np.where(np.arange(CLIPS) < 4, LEADERS, 1.0))


@pytest.mark.parametrize(
    "clips",
    [
        LEADERS,
        LEADERS.round(4),
        LEADERS + 0.1 + noise(0.05),
        LEADERS + 1.0,
        np.where(np.arange(CLIPS) == 3, 1.0, LEADERS.round(4)),
        np.where(np.arange(CLIPS) < 24, LEADERS + 0.1, 1.0),
    ],
    ids=["equal", "equal as stored", "better", "much better", "one clip spoilt", "most clips better"],
)
def test_a_repetition_that_is_not_clearly_worse_continues(repetition: optuna.Trial, clips: np.ndarray) -> None:
    assert not confirmation.hopeless(repetition, STEP, clips)


def test_a_repetition_as_good_as_the_leader_is_given_up_no_more_often_than_the_error_allows(
    repetition: optuna.Trial,
) -> None:
    draws = 400
    given_up = sum(confirmation.hopeless(repetition, STEP, LEADERS + noise(0.3, seed)) for seed in range(draws))
    assert given_up <= draws * confirmation.ERROR + 3 * np.sqrt(
        draws * confirmation.ERROR
    )  # three deviations of the count


def test_the_leaders_own_repetitions_and_other_trials_are_never_hopeless(repeated: optuna.Study) -> None:
    worst = np.ones(CLIPS)
    trial = repeated.ask()
    trial.set_user_attr("of", 1)
    assert not confirmation.hopeless(trial, STEP, worst)  # nobody leads yet
    repeated.set_user_attr("leader", {"trial": 0, "clips": {str(STEP): LEADERS.tolist()}})
    assert confirmation.hopeless(trial, STEP, worst)
    assert not confirmation.hopeless(repeated.ask(), STEP, worst)
    leaders = repeated.ask()
    leaders.set_user_attr("of", 0)
    assert not confirmation.hopeless(leaders, STEP, worst)


def test_a_repetition_that_cannot_be_compared_is_not_hopeless(repetition: optuna.Trial) -> None:
    assert not confirmation.hopeless(repetition, STEP, np.ones(CLIPS - 1))
    assert not confirmation.hopeless(repetition, STEP + 1, np.ones(CLIPS))  # the leader has no such rung


def test_the_leader_is_the_searchs_best_trial_with_its_clips(search: optuna.Study) -> None:
    end(search, 2.0, [1.0, 3.0])
    best = end(search, 2.5, [2.0, 3.0])
    end(search, 4.0, [4.0, 4.0], constraints={"stoi": 0.1})
    assert confirmation.leader(search) == {"trial": best, "clips": {"54": [0.0, 0.0], "288": [2.0, 3.0]}}


def test_the_winner_is_the_best_over_its_seeds_not_the_one_with_the_best_seed(
    search: optuna.Study, repeated: optuna.Study
) -> None:
    lucky, steady, third = end(search, 3.0), end(search, 2.9), end(search, 2.5)
    fourth = end(search, 2.0)
    for of, value in ((lucky, 2.0), (steady, 2.8), (third, 2.6), (lucky, 2.2), (steady, 2.95), (third, 2.4)):
        end(repeated, value, of=of)
    end(repeated, 9.0, of=fourth)  # of an earlier winner
    rows = confirmation.ranking(search, repeated, 3)
    assert [(row.trial, row.values) for row in rows] == [
        (steady, [2.9, 2.8, 2.95]),
        (third, [2.5, 2.6, 2.4]),
        (lucky, [3.0, 2.0, 2.2]),
    ]
    assert [row.mean for row in rows] == pytest.approx([2.883, 2.5, 2.4], abs=1e-3)
    assert [row.best for row in rows] == [("s-confirm", 4), ("s-confirm", 2), ("s", lucky)]
    assert rows[0].clips.tolist() == [[2.9], [2.8], [2.95]]  # at the last rung


@pytest.mark.parametrize(
    "gone",
    [
        {"value": None},
        {"value": None, "state": TrialState.FAIL, "failure": "step 3: loss nan"},
        {"value": 9.0, "constraints": {"si_sdr": 0.1}},
    ],
    ids=["pruned", "failed by its own fault", "infeasible"],
)
def test_a_configuration_wins_only_if_all_its_repetitions_complete_and_are_feasible(
    search: optuna.Study, repeated: optuna.Study, gone: dict[str, Any]
) -> None:
    first, second = end(search, 3.0), end(search, 2.0)
    for of in (first, second):
        end(repeated, 2.5, of=of)
    end(repeated, **gone, of=first)
    end(repeated, 2.5, of=second)
    assert [row.trial for row in confirmation.ranking(search, repeated, 2)] == [second]


def test_lost_and_superfluous_attempts_do_not_count(search: optuna.Study, repeated: optuna.Study) -> None:
    first = end(search, 3.0)
    end(repeated, None, of=first, state=TrialState.FAIL, lost="its worker ended")
    end(repeated, None, of=first, state=TrialState.FAIL, superfluous="another trial fills its slot")
    end(repeated, 2.0, of=first)
    assert [row.values for row in confirmation.ranking(search, repeated, 2)] == [[3.0, 2.0]]


def test_duplicates_are_ranked_once(search: optuna.Study, repeated: optuna.Study) -> None:
    first = end(search, 3.0)
    end(search, 3.0, same_as=first)
    second = end(search, 2.0)
    for of in (first, second):
        end(repeated, 2.5, of=of)
    assert [row.trial for row in confirmation.ranking(search, repeated, 2)] == [first, second]


def confirmed(clips: np.ndarray) -> confirmation.Confirmed:
    return confirmation.Confirmed(0, clips.mean(axis=1).tolist(), ("s", 0), clips)


def test_the_interval_of_the_lead_contains_its_mean() -> None:
    seeds = np.stack([LEADERS + noise(0.1, seed) for seed in range(3)])
    for ahead in (-1.0, 0.0, 0.02, 3.0):
        others = seeds - ahead + np.stack([noise(0.2, seed) for seed in range(3, 6)])
        mean, low, high = confirmation.lead(confirmed(seeds), confirmed(others))
        assert low < mean < high
        assert mean == pytest.approx(seeds.mean() - others.mean())
        back = confirmation.lead(confirmed(others), confirmed(seeds))
        assert back == pytest.approx((-mean, -high, -low), abs=1e-12)


def test_the_interval_excludes_zero_for_a_lead_on_every_clip_and_not_for_one_by_chance() -> None:
    seeds = np.stack([LEADERS, LEADERS])
    assert confirmation.lead(confirmed(seeds), confirmed(seeds)) == (0.0, 0.0, 0.0)
    assert confirmation.lead(confirmed(seeds), confirmed(seeds - 0.1)) == pytest.approx((0.1, 0.1, 0.1))
    chance = noise(0.2)
    chance -= chance.mean()
    _, low, high = confirmation.lead(confirmed(seeds), confirmed(seeds + chance))
    assert low < 0 < high
    assert high - low == pytest.approx(2 * 1.96 * chance.std() / np.sqrt(CLIPS), rel=0.2)  # of a normal mean


@pytest.fixture
def runs(tmp_path: Path) -> RunFolder:
    """Weights of the first trials of both studies."""
    runs = RunFolder(tmp_path)
    for study in ("s", "s-confirm"):
        for number in range(4):
            runs.weights(study, number).parent.mkdir(parents=True, exist_ok=True)
            runs.weights(study, number).touch()
    return runs


def ranked(search: optuna.Study, repeated: optuna.Study) -> list[confirmation.Confirmed]:
    """Trial 1 wins over trial 0, by a repetition that is the best of its seeds."""
    clips = np.linspace(-0.1, 0.1, 8)
    for value in (3.0, 2.9):
        end(search, value, value + clips, training={"seed": 1})
    for of, value in ((0, 2.0), (1, 2.95), (0, 2.1), (1, 2.8)):
        end(repeated, value, value + clips, of=of, training={"seed": 1})
    return confirmation.ranking(search, repeated, 2)


def test_the_confirmed_winners_best_seed_is_exported(
    search: optuna.Study, repeated: optuna.Study, runs: RunFolder
) -> None:
    rows = ranked(search, repeated)
    assert chosen_trial.choose(search, runs).label == "trial 0 of s"
    confirmation.record(search, rows)
    chosen = chosen_trial.choose(search, runs)
    assert (chosen.study, chosen.trial.number, chosen.trial.values) == ("s-confirm", 1, [2.95])
    assert chosen.label == "trial 1 of s-confirm, trial 1 with another seed, the best seed of the confirmed winner"


def test_the_searchs_own_training_is_exported_where_it_is_the_winners_best_seed(
    search: optuna.Study, repeated: optuna.Study, runs: RunFolder
) -> None:
    end(search, 3.0)
    for value in (2.9, 2.8):
        end(repeated, value, of=0)
    confirmation.record(search, confirmation.ranking(search, repeated, 3))
    chosen = chosen_trial.choose(search, runs)
    assert (chosen.study, chosen.trial.number) == ("s", 0)
    assert chosen.label == "trial 0 of s, the best seed of the confirmed winner"


def test_a_better_trial_of_a_later_search_is_exported_instead(
    search: optuna.Study, repeated: optuna.Study, runs: RunFolder
) -> None:
    confirmation.record(search, ranked(search, repeated))
    end(search, 2.95)  # between the two
    assert chosen_trial.choose(search, runs).study == "s-confirm"
    later = end(search, 3.5)
    chosen = chosen_trial.choose(search, runs)
    assert (chosen.study, chosen.trial.number) == ("s", later)


def test_a_trial_asked_for_by_number_is_exported_whichever_won(
    search: optuna.Study, repeated: optuna.Study, runs: RunFolder
) -> None:
    confirmation.record(search, ranked(search, repeated))
    chosen = chosen_trial.choose(search, runs, 0)
    assert (chosen.study, chosen.trial.number) == ("s", 0)


def test_the_output_has_the_ranking_the_lead_and_the_training_to_be_exported(
    search: optuna.Study, repeated: optuna.Study
) -> None:
    shown = io.StringIO()
    confirmation.show(search, ranked(search, repeated), 1, "pesq", Console(file=shown, width=120))
    text = shown.getvalue()
    assert "2.883" in text and "2.900 2.950 2.800" in text
    assert "1 given up: behind the best one over the clips (Wilcoxon, p < 0.01)" in text
    assert "trial 1 is ahead of trial 0 by +0.5167, 95 % interval +0.5167 to +0.5167" in text
    assert "trial 1 of study s-confirm" in text
