"""What a study has found, drawn for optuna-dashboard: score against cost, by SNR, and against time.

A figure is what plotly calls one, as a dictionary of `data` and `layout`: plotly's own objects take half a second to
make it, and add 7 kB of defaults.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from quell_tuning import formatting
from quell_tuning.optuna_private import trial_id_of
from quell_tuning.results.snapshot import StudySnapshot, seconds
from quell_tuning.trials.ranking import feasible

BLUE, ORANGE, INK, GREY, PALE = "#0072b2", "#d55e00", "#222222", "#777777", "#c4c4c4"
LOOKS = {"pruned": (PALE, "circle"), "infeasible": (GREY, "x"), "complete": (BLUE, "circle")}
HOVER = "%{customdata}<br>%{xaxis.title.text}: %{x}<br>%{yaxis.title.text}: %{y}<extra></extra>"

Point = tuple[float, float]
Trace = dict[str, Any]
Figure = dict[str, Any]


def plots(standing: StudySnapshot) -> dict[str, Figure]:
    """The figures of a study by their ids in its page; those that have nothing to show yet are left out."""
    made = {
        "score-against-cost": score_against_cost(standing),
        "score-by-snr": score_by_snr(standing),
        "score-against-hours": score_against_hours(standing),
    }
    return {name: figure for name, figure in made.items() if figure["data"]}


def score_against_cost(standing: StudySnapshot) -> Figure:
    """The first score over M MAC/s: the study's trials, their front, and the presets, also those of other studies."""
    complete = [trial for trial in standing.trials if _costed(trial)]
    good = [trial for trial in complete if feasible(trial)]
    known = [preset for preset in standing.presets if preset.complete and _costed(preset.trial)]
    named = {trial_id_of(preset.trial) for preset in known}
    others = [trial for trial in good if trial_id_of(trial) not in named]
    names = [preset.name for preset in known]
    hover = [f"{preset.name}, trial {preset.trial.number} of {preset.study}" for preset in known]
    bad = [trial for trial in complete if not feasible(trial)]
    traces = [
        _dots("infeasible", list(map(_place, bad)), _numbers(bad), GREY, "x"),
        _dots("trials", list(map(_place, others)), _numbers(others), BLUE),
        _line("Pareto front", list(map(_place, front(good))), INK, mode="lines+markers", shape="hv"),
        _dots("presets", [_place(preset.trial) for preset in known], hover, ORANGE, "diamond")
        | {"mode": "markers+text", "text": names, "textposition": "top center", "cliponaxis": False}
        | {"textfont": {"color": INK}},
    ]
    score = standing.metric
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


def front(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that no other one beats (scores no lower, costs no more, and is better in one), cheapest first; of
    equal ones the earliest."""
    kept: list[FrozenTrial] = []
    for trial in sorted(trials, key=lambda trial: (_macs(trial), -trial.values[0], trial.number)):
        if not kept or trial.values[0] > kept[-1].values[0]:
            kept.append(trial)
    return kept


def score_by_snr(standing: StudySnapshot) -> Figure:
    """The first score at each SNR: of the noisy input, the best trial and the best preset."""
    score, curves = standing.metric, {}
    if standing.ranked:
        best = standing.ranked[0]
        rival = standing.rival(best)
        curves["noisy"] = standing.known.get("noisy_by_snr", {}), GREY
        if rival is not None:
            curves[f"best preset ({rival.name})"] = rival.trial.user_attrs.get("by_snr", {}), ORANGE
        curves[f"best trial ({best.number})"] = best.user_attrs.get("by_snr", {}), BLUE
    traces = []
    for name, (rows, colour) in curves.items():
        levels = sorted((snr for snr in rows if score in rows[snr]), key=float)
        traces.append(_line(name, [(float(snr), rows[snr][score]) for snr in levels], colour, mode="lines+markers"))
    return _figure(f"{formatting.plain(score)} by SNR", "SNR of the noisy input (dB)", formatting.title(score), traces)


def score_against_hours(standing: StudySnapshot) -> Figure:
    """The first score of every trial over the worker-hours that had been spent when it ended, and the best so far.

    A pruned trial has the score of its last rung.
    """
    ended = [trial for trial in standing.trials if trial.state.is_finished()]
    ended.sort(key=lambda trial: (str(trial.datetime_complete), trial.number))
    spent = [total / 3600 for total in itertools.accumulate(map(seconds, ended))]
    points: dict[str, list[Point]] = {kind: [] for kind in LOOKS}
    numbers: dict[str, list[str]] = {kind: [] for kind in LOOKS}
    best: list[Point] = []
    for trial, hours in zip(ended, spent, strict=True):
        kind = trial.state.name.lower() if feasible(trial) else "infeasible"
        value = _reached(trial)
        if value is None or kind not in points:
            continue
        points[kind].append((hours, value))
        numbers[kind] += _numbers([trial])
        if kind == "complete" and (not best or value > best[-1][1]):
            best.append((hours, value))
    traces = [_dots(kind, points[kind], numbers[kind], *look) for kind, look in LOOKS.items()]
    if best:
        traces.append(_line("best so far", [*best, (spent[-1], best[-1][1])], INK, shape="hv"))
        for name, value, dash in _marks(standing):
            traces.append(_line(name, [(0.0, value), (spent[-1], value)], GREY, dash=dash))
    score = standing.metric
    return _figure(f"Best {formatting.plain(score)} against time", "worker-hours", formatting.title(score), traces)


def _marks(standing: StudySnapshot) -> list[tuple[str, float, str]]:
    """What a search is measured against: (name, score, dash of its line)."""
    score, noisy, rival = standing.metric, standing.known.get("noisy", {}), standing.best_preset
    found = [("noisy", noisy[score], "dot")] if score in noisy else []
    if rival is not None and score in rival.metrics:
        found.append((f"best preset ({rival.name})", rival.metrics[score], "dash"))
    return found


def _reached(trial: FrozenTrial) -> float | None:
    if trial.state == TrialState.COMPLETE:
        return float(trial.values[0])
    told = trial.intermediate_values
    return float(told[max(told)]) if told else None


def _costed(trial: FrozenTrial) -> bool:
    return trial.state == TrialState.COMPLETE and trial.user_attrs.get("cost", {}).get("macs_per_s", 0) > 0


def _macs(trial: FrozenTrial) -> float:
    return float(trial.user_attrs["cost"]["macs_per_s"]) / 1e6


def _place(trial: FrozenTrial) -> Point:
    return _macs(trial), float(trial.values[0])


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
    """With four digits, which is more than can be seen."""
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
