"""The Pareto front is one, the best score so far only rises, infeasible trials are apart, and axes have units."""

import itertools
import json
import random
from datetime import datetime, timedelta

import optuna
import plotly.graph_objects as go
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial
from quell_tuning.dashboard import plots
from quell_tuning.optuna_private import storage_of
from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.trials.ranking import feasible

SNRS = ("-5", "10", "2.5")
START = datetime(2026, 11, 21)


def trial(number: int, score: float, macs: float, **more: object) -> FrozenTrial:
    """A trial that ended `number` minutes after the start."""
    attributes = {
        "metrics": {"pesq": score},
        "by_snr": {snr: {"pesq": score + float(snr) / 10} for snr in SNRS},
        "cost": {"macs_per_s": macs},
        "seconds": 36.0,
        **more,
    }
    made = create_trial(value=score, user_attrs=attributes)
    made.datetime_complete = START + timedelta(minutes=number)
    return made


@pytest.fixture
def study() -> optuna.Study:
    study = optuna.create_study(study_name="s", direction="maximize")
    study.set_user_attr("spec", {"study": {"score": "pesq"}})
    study.set_user_attr("noisy", {"pesq": 1.2})
    study.set_user_attr("noisy_by_snr", {snr: {"pesq": 1.0} for snr in SNRS})
    return study


@pytest.fixture
def mixed(study: optuna.Study) -> optuna.Study:
    """200 trials of every state, with many equal scores and costs, that ended in another order than they began."""
    rng = random.Random(0)
    for number in rng.sample(range(200), 200):
        score, macs = rng.randint(10, 30) / 10, rng.randint(1, 40) * 1e6
        made = trial(number, score, macs)
        kind = rng.random()
        if kind < 0.2:
            made.state, made.values = TrialState.PRUNED, None
            made.intermediate_values = {3600: 1.5, 7200: 1.25}
        elif kind < 0.25:
            made.state, made.values, made.user_attrs = TrialState.FAIL, None, {"failure": "step 3: loss nan"}
        elif kind < 0.4:
            made = create_trial(value=9.0, user_attrs=made.user_attrs, constraints={"si_sdr": 0.1})
            made.datetime_complete = START + timedelta(minutes=number)
        study.add_trial(made)
    return study


def trace(figure: plots.Figure, name: str) -> dict[str, list[float]]:
    (found,) = (trace for trace in figure["data"] if trace["name"].startswith(name))
    return found


def test_the_front_is_that_of_a_comparison_of_all_pairs(mixed: optuna.Study) -> None:
    good = [trial for trial in mixed.trials if trial.state == TrialState.COMPLETE and feasible(trial)]
    places = {(trial.user_attrs["cost"]["macs_per_s"] / 1e6, trial.values[0]) for trial in good}
    beaten = {
        ours
        for ours, theirs in itertools.product(places, places)
        if theirs != ours and theirs[0] <= ours[0] and theirs[1] >= ours[1]
    }
    edge = trace(plots.score_against_cost(StudySnapshot(mixed)), "Pareto front")
    assert list(zip(edge["x"], edge["y"], strict=True)) == sorted(places - beaten)
    assert len(edge["x"]) > 3
    assert 9.0 not in edge["y"]


def test_infeasible_trials_are_drawn_apart_and_are_never_the_best(mixed: optuna.Study) -> None:
    figures = plots.plots(StudySnapshot(mixed))
    apart = {name: trace(figures[name], "infeasible") for name in ("score-against-cost", "score-against-hours")}
    assert all(set(found["y"]) == {9.0} for found in apart.values())
    for figure in figures.values():
        for found in figure["data"]:
            assert found["name"] == "infeasible" or max(found["y"]) < 9.0
    assert "best trial" in figures["score-by-snr"]["data"][-1]["name"]


def test_the_best_so_far_only_rises_and_ends_with_all_hours_spent(mixed: optuna.Study) -> None:
    figure = plots.score_against_hours(StudySnapshot(mixed))
    best = trace(figure, "best so far")
    assert best["x"] == sorted(best["x"]) and best["y"] == sorted(best["y"])
    failed = sum(trial.state == TrialState.FAIL for trial in mixed.trials)  # without clock or word: no time
    assert best["x"][-1] == pytest.approx(0.01 * (200 - failed), rel=1e-3)
    points = [trace(figure, kind) for kind in ("complete", "infeasible", "pruned")]
    assert sum(len(found["x"]) for found in points) == 200 - failed
    assert best["y"][-1] == max(points[0]["y"])
    assert set(points[2]["y"]) == {1.25}  # the last rung's


def test_scores_by_snr_are_those_of_noisy_input_best_trial_and_best_preset(study: optuna.Study) -> None:
    study.add_trial(trial(0, 1.5, 1e6, preset="plain-cnn"))
    alone = plots.score_by_snr(StudySnapshot(study))
    assert [found["name"] for found in alone["data"]] == ["noisy", "best trial (0)"]
    study.add_trial(trial(1, 2.5, 1e6))
    figure = plots.score_by_snr(StudySnapshot(study))
    assert [found["name"] for found in figure["data"]] == ["noisy", "best preset (plain-cnn)", "best trial (1)"]
    assert all(found["x"] == [-5.0, 2.5, 10.0] for found in figure["data"])
    assert [found["y"] for found in figure["data"]] == [[1.0, 1.0, 1.0], [1.0, 1.75, 2.5], [2.0, 2.75, 3.5]]


def test_presets_are_named_wherever_they_were_trained(study: optuna.Study) -> None:
    beside = optuna.create_study(study_name="s-presets", direction="maximize", storage=storage_of(study))
    beside.set_user_attr("spec", study.user_attrs["spec"])
    beside.add_trial(trial(0, 2.0, 3e6, preset="mask-unet"))
    study.add_trial(trial(0, 1.5, 1e6, preset="plain-cnn"))
    study.add_trial(trial(1, 2.5, 2e6))
    figure = plots.score_against_cost(StudySnapshot(study, beside))
    named = trace(figure, "presets")
    assert dict(zip(named["text"], zip(named["x"], named["y"], strict=True), strict=True)) == {
        "mask-unet": (3.0, 2.0),
        "plain-cnn": (1.0, 1.5),
    }
    assert named["customdata"] == ["mask-unet, trial 0 of s-presets", "plain-cnn, trial 0 of s"]
    assert trace(figure, "Pareto front")["x"] == [1.0, 2.0]  # of this study's own trials
    low, high = figure["layout"]["xaxis"]["range"]
    assert all(10**low < x < 10**high for found in figure["data"] for x in found["x"])
    assert [figure["data"][0]["name"], figure["data"][0]["x"]] == ["trials", [2.0]]


def test_axes_have_units_and_plotly_accepts_every_key(mixed: optuna.Study) -> None:
    figures = plots.plots(StudySnapshot(mixed))
    titles = {
        name: tuple(figure["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis"))
        for name, figure in figures.items()
    }
    assert titles == {
        "score-against-cost": ("M MAC/s", "PESQ (MOS-LQO)"),
        "score-by-snr": ("SNR of the noisy input (dB)", "PESQ (MOS-LQO)"),
        "score-against-hours": ("worker-hours", "PESQ (MOS-LQO)"),
    }
    for figure in figures.values():
        go.Figure(figure)  # ValueError for what it does not know
        assert len(json.dumps(figure)) < 8000 + 40 * len(mixed.trials)


def test_a_study_without_a_scored_trial_has_no_plots(study: optuna.Study) -> None:
    assert plots.plots(StudySnapshot(study)) == {}
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"failure": "step 3: loss nan"}))
    study.add_trial(create_trial(state=TrialState.PRUNED, constraints={"parameters": 0.5}))
    assert plots.plots(StudySnapshot(study)) == {}


def test_of_several_scores_the_first_is_drawn() -> None:
    study = optuna.create_study(study_name="front", directions=["maximize", "minimize"])
    study.set_user_attr("spec", {"study": {"score": ["pesq", "macs"]}})
    for number, values in enumerate(((1.5, 2e6), (2.5, 3e6), (2.0, 4e6))):
        made = create_trial(values=values, user_attrs=trial(0, values[0], values[1]).user_attrs)
        made.datetime_complete = START + timedelta(minutes=number)
        study.add_trial(made)
    figures = plots.plots(StudySnapshot(study))
    assert trace(figures["score-against-cost"], "Pareto front")["x"] == [2.0, 3.0]
    assert trace(figures["score-against-hours"], "best so far")["y"] == [1.5, 2.5, 2.5]
    assert trace(figures["score-by-snr"], "best trial (1)")["y"][0] == 2.0
