"""Plots for optuna-dashboard: the study's score against cost, by SNR, and against time.

A figure is a dictionary of `data` and `layout`, as plotly.js takes it: the objects of the Python package plotly take
half a second to import, and add 7 kB of defaults to each figure.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from quell_tuning import formatting
from quell_tuning.results.curves import Point, best_so_far, cost_point, pareto_front, scores_by_snr, timeline
from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.trials.ranking import feasible

BLUE, ORANGE, INK, GREY, PALE = "#0072b2", "#d55e00", "#222222", "#777777", "#c4c4c4"
MARKERS = {"pruned": (PALE, "circle"), "infeasible": (GREY, "x"), "complete": (BLUE, "circle")}
HOVER = "%{customdata}<br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}<extra></extra>"

Trace = dict[str, Any]
Figure = dict[str, Any]


def plots(snapshot: StudySnapshot) -> dict[str, Figure]:
    """The figures of a study by their ids on its page, without those that have no points yet."""
    figures = {
        "score-against-cost": score_against_cost(snapshot),
        "score-by-snr": score_by_snr(snapshot),
        "score-against-hours": score_against_hours(snapshot),
    }
    return {name: figure for name, figure in figures.items() if figure["data"]}


def score_against_cost(snapshot: StudySnapshot) -> Figure:
    """The first score over M MAC/s: the study's trials, their Pareto front, and the presets of all studies."""
    costed = [trial for trial in snapshot.trials if cost_point(trial)]
    good = [trial for trial in costed if feasible(trial)]
    presets = [row for row in snapshot.presets if row.complete and cost_point(row.trial)]
    others = [trial for trial in good if "preset" not in trial.user_attrs]
    labels = [f"{row.preset}, trial {row.number} of {row.study}" for row in presets]
    bad = [trial for trial in costed if not feasible(trial)]
    traces = [
        _dots("infeasible", _points(bad), _numbers(bad), GREY, "x"),
        _dots("trials", _points(others), _numbers(others), BLUE),
        _line("Pareto front", pareto_front(_points(good)), INK, mode="lines+markers", shape="hv"),
        _dots("presets", _points(row.trial for row in presets), labels, ORANGE, "diamond")
        | {"mode": "markers+text", "text": [row.preset for row in presets], "textposition": "top center"}
        | {"cliponaxis": False, "textfont": {"color": INK}},
    ]
    score = snapshot.metric
    figure = _figure(f"{formatting.plain(score)} against cost", "M MAC/s", formatting.title(score), traces)
    figure["layout"]["xaxis"] |= _logarithmic([x for trace in figure["data"] for x in trace["x"]])
    return figure


def _logarithmic(values: Sequence[float]) -> dict[str, Any]:
    """An axis with room for a name at its ends; a study seldom spans a decade."""
    if not values:
        return {"type": "log"}
    low, high = math.log10(min(values)), math.log10(max(values))
    room = 0.1 * (high - low) + 0.05
    low, high = low - room, high + room
    ticks = formatting.round_numbers(10**low, 10**high)
    return {"type": "log", "range": [round(low, 3), round(high, 3)], "tickvals": ticks}


def score_by_snr(snapshot: StudySnapshot) -> Figure:
    """The first score at each SNR: of the noisy input, the best preset and the best trial."""
    names, preset, score = {"noisy": "noisy"}, snapshot.best_preset, snapshot.metric
    if snapshot.ranked:
        names["best"] = f"best trial ({snapshot.ranked[0].number})"
    if preset is not None:
        names["preset"] = f"best preset ({preset.preset})"
    colours = {"noisy": GREY, "preset": ORANGE, "best": BLUE}
    traces = [
        _line(names[curve], points, colours[curve], mode="lines+markers")
        for curve, points in scores_by_snr(snapshot).items()
    ]
    return _figure(f"{formatting.plain(score)} by SNR", "SNR of the noisy input (dB)", formatting.title(score), traces)


def score_against_hours(snapshot: StudySnapshot) -> Figure:
    """The first score of every trial over the worker-hours that had been spent when it ended, and the best so far."""
    ended, score = timeline(snapshot), snapshot.metric
    traces = []
    for state, marker in MARKERS.items():
        scored = [(end.hours, end.score, end.trial) for end in ended if end.state == state and end.score is not None]
        points, trials = [(hours, value) for hours, value, _ in scored], [trial for *_, trial in scored]
        traces.append(_dots(state, points, _numbers(trials), *marker))
    best = best_so_far(ended)
    if best:
        spent = ended[-1].hours
        traces.append(_line("best so far", [*best, (spent, best[-1][1])], INK, shape="hv"))
        references = [("noisy", snapshot.noisy.get(score), "dot")]
        if (preset := snapshot.best_preset) is not None:
            references.append((f"best preset ({preset.preset})", preset.metrics.get(score), "dash"))
        for name, value, dash in references:
            if value is not None:
                traces.append(_line(name, [(0.0, value), (spent, value)], GREY, dash=dash))
    return _figure(f"Best {formatting.plain(score)} against time", "worker-hours", formatting.title(score), traces)


def _points(trials: Iterable[FrozenTrial]) -> list[Point]:
    return [point for trial in trials if (point := cost_point(trial))]


def _numbers(trials: Iterable[FrozenTrial]) -> list[str]:
    return [f"trial {trial.number}" for trial in trials]


def _dots(name: str, points: Sequence[Point], hover: Sequence[str], colour: str, symbol: str = "circle") -> Trace:
    marker = {"color": colour, "symbol": symbol, "size": 7, "opacity": 0.7}
    return _trace(name, points) | {"mode": "markers", "marker": marker, "customdata": hover, "hovertemplate": HOVER}


def _line(
    name: str, points: Sequence[Point], colour: str, *, mode: str = "lines", shape: str = "linear", dash: str = "solid"
) -> Trace:
    return _trace(name, points) | {"mode": mode, "line": {"color": colour, "width": 2, "shape": shape, "dash": dash}}


def _trace(name: str, points: Sequence[Point]) -> Trace:
    """A curve with four digits, which is more than a plot shows."""
    x, y = [float(f"{x:.4g}") for x, _ in points], [float(f"{y:.4g}") for _, y in points]
    return {"type": "scatter", "name": name, "x": x, "y": y}


def _figure(title: str, x: str, y: str, traces: Iterable[Trace]) -> Figure:
    axis = {"showline": True, "linecolor": GREY, "gridcolor": "#e6e6e6", "zeroline": False, "automargin": True}
    layout = {
        "title": {"text": title, "x": 0.5},
        "xaxis": {"title": {"text": x}, **axis},
        "yaxis": {"title": {"text": y}, **axis},
        "legend": {"orientation": "h", "x": 0, "y": -0.2, "yanchor": "top"},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 40},
        "hovermode": "closest",
        "showlegend": True,
    }
    return {"data": [trace for trace in traces if trace["x"]], "layout": layout}
