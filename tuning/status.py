"""What a study has reached, as a dictionary and as tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from tuning.budget import feasible, is_lost
from tuning.outcome import best_trials
from tuning.study import metric


def summary(study: optuna.Study, best: int = 10) -> dict[str, Any]:
    """States, the noisy input's scores and the best trials; everything is JSON."""
    found = study.get_trials(deepcopy=False)
    trials = [trial for trial in found if not is_lost(trial)]
    states = Counter(trial.state.name.lower() if feasible(trial) else "infeasible" for trial in trials)
    confirmed = study.user_attrs.get("confirmed")
    return {
        "study": study.study_name,
        "score": metric(study),
        "trials": study.user_attrs.get("trials", len(trials)),
        "states": dict(states),
        "noisy": study.user_attrs.get("noisy", {}),
        "failures": {trial.number: trial.user_attrs["failure"] for trial in trials if trial.state == TrialState.FAIL},
        "leaderboard": [_row(trial) for trial in best_trials(study)[:best]],
    } | ({"confirmed": confirmed} if confirmed else {})


def _row(trial: FrozenTrial) -> dict[str, Any]:
    keys = ("preset", "warm_start", "same_as", "metrics", "cost", "seconds", "data_share")
    row = {"trial": trial.number, "value": trial.values[0], "params": trial.params}
    return row | {key: trial.user_attrs[key] for key in keys if key in trial.user_attrs}


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary: one line of states, then the leaderboard."""
    states = ", ".join(f"{count} {name}" for name, count in sorted(state["states"].items()))
    console.print(
        f"study {state['study']}: {state['trials']} trials asked for; {states or 'none yet'}", highlight=False
    )
    for number, reason in state["failures"].items():
        console.print(f"trial {number} failed: {reason}", highlight=False)
    rows = state["leaderboard"]
    if not rows:
        console.print("no trial is complete and feasible yet")
        return
    metrics = list(rows[0]["metrics"])
    searched = sorted({name for row in rows for name in row["params"]})
    table = Table(title="best trials, means over the validation mixtures")
    for column in ("trial", *metrics, "parameters", "M MAC/s", *searched):
        table.add_column(column, justify="left" if column == "loss" else "right", no_wrap=True)
    if state["noisy"]:
        table.add_row("noisy", *(_number(name, state["noisy"][name]) for name in metrics))
    for row in rows:
        values = (_number(name, row["metrics"][name]) for name in metrics)
        cost = (f"{row['cost']['parameters']:,}", f"{row['cost']['macs_per_s'] / 1e6:.0f}")
        point = (_shown(row["params"].get(name, "")) for name in searched)
        table.add_row(f"{row['trial']} {row.get('preset', '')}".strip(), *values, *cost, *point)
    console.print(table)
    if "confirmed" in state:
        winner = state["confirmed"]["winner"]
        mean = state["confirmed"]["means"][str(winner)]
        console.print(f"trial {winner} won over several seeds: mean {state['score']} {mean:.3f}", highlight=False)


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(metric: str, value: float) -> str:
    return f"{value:.2f}" if metric in ("pesq", "si_sdr") else f"{value:.3f}"
