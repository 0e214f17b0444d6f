"""`quell status`: how far a study is, as JSON, as tables, and as one line."""

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from quell.metrics.intrusive import UNITS
from quell_tuning import formatting
from quell_tuning.optuna_private import storage_of
from quell_tuning.results.liveness import Liveness
from quell_tuning.results.snapshot import StudySnapshot, beside, hours
from quell_tuning.results.trial_row import TrialRow, gains, infeasible, state_name
from quell_tuning.study.stored_study import there
from quell_tuning.trials.ranking import counted, least_bad

FAILURES = 10  # latest ones that are listed
BEST = 10  # trials on the leaderboard
PAUSE_S = 2.0  # between two looks of `--watch`


def summary(study: optuna.Study, liveness: Liveness | None = None) -> dict[str, Any]:
    """Trials by state, the best trials and their gains, workers, and worker-hours, as JSON.

    Args:
        liveness: the object of the looks before this one, for a caller that looks again and again.
    """
    snapshot = StudySnapshot(study, *beside(study, storage_of(study)))
    trials = counted(snapshot.trials)
    states = Counter(map(state_name, trials))
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    ended, asked = sum(trial.state.is_finished() for trial in trials), snapshot.attributes.get("trials", len(trials))
    confirmed = snapshot.attributes.get("confirmed")
    return {
        "study": snapshot.name,
        "score": snapshot.metric,
        "trials": asked,
        "ended": ended,
        "done": ended >= asked and not running,
        "states": dict(states),
        "hours": asdict(hours(snapshot.trials, asked)),
        "workers": (liveness or Liveness(study)).look(running),
        "noisy": snapshot.noisy,
        "best": _best(snapshot),
        "best_preset": _preset(snapshot.best_preset),
        "failures": {trial.number: trial.user_attrs["failure"] for trial in trials if trial.state == TrialState.FAIL},
        "leaderboard": [_row(row.trial) for row in snapshot.ranked[:BEST]],
    } | ({"confirmed": confirmed} if confirmed else {})


def _best(snapshot: StudySnapshot) -> dict[str, Any] | None:
    """The best trial and the gains of its metrics; over the best preset None where it is itself the best preset."""
    if not snapshot.ranked:
        return None
    best = snapshot.ranked[0]
    rival = snapshot.rival(best)
    return {
        "trial": best.number,
        "value": best.trial.values[0],
        "gain_over_noisy": gains(best.metrics, snapshot.noisy),
        "gain_over_preset": gains(best.metrics, rival.metrics) if rival else None,
    }


def _preset(preset: TrialRow | None) -> dict[str, Any] | None:
    if preset is None:
        return None
    return {"preset": preset.preset, "study": preset.study, "trial": preset.number, "metrics": preset.metrics}


def _row(trial: FrozenTrial) -> dict[str, Any]:
    keys = ("preset", "warm_start", "same_as", "metrics", "cost", "seconds", "data_share")
    row = {"trial": trial.number, "value": trial.values[0], "params": trial.params}
    return row | {key: trial.user_attrs[key] for key in keys if key in trial.user_attrs}


def show(state: dict[str, Any], console: Console) -> None:
    """Prints a summary."""
    console.print(view(state))


def view(state: dict[str, Any]) -> RenderableType:
    """A summary as text and tables: states, the best trial, worker-hours, workers, failures, the leaderboard."""
    study = f"study {state['study']}: {state['trials']} trials asked for; {_states(state)}"
    parts: list[RenderableType] = [*map(Text, (study, _gained(state), f"worker-hours: {_hours(state)}"))]
    if state["workers"]:
        parts.append(_workers(state))
    parts += map(Text, _failures(state["failures"]))
    if state["leaderboard"]:
        parts.append(_FullOrShort(_leaderboard(state, True), _leaderboard(state, False)))
    if "confirmed" in state:
        winner = state["confirmed"]["winner"]
        mean = state["confirmed"]["means"][str(winner)]
        parts.append(Text(f"trial {winner} won over several seeds: mean {state['score']} {mean:.3f}"))
    return Group(*parts)


def without_best(study: optuna.Study) -> str:
    """What is wrong with a study that has ended without a feasible trial, and what to do."""
    rejected = least_bad(study)
    found = f"study {study.study_name!r}: all trials have ended and none is complete and feasible, expected one"
    if not rejected:
        return f"{found}; `quell status` says how they ended"
    first = rejected[0]
    why = f"trial {first.number} is the least bad: {infeasible(first)}"
    export = f"`quell export {study.study_name} --trial {first.number}`"
    return f"{found} ({why}); train longer or raise [limits], or export it all the same: {export}"


def line(state: dict[str, Any]) -> str:
    """A summary in one line, which changes only when something has happened."""
    working = f"{len(state['workers'])} at work, {_alive(state)} known to be alive"
    return f"{state['ended']} of {state['trials']} trials ended: {_states(state)}; {_gained(state)}; {working}"


def _alive(state: dict[str, Any]) -> int:
    return sum(worker["alive"] is True for worker in state["workers"])


def _states(state: dict[str, Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(state["states"].items())) or "none yet"


def _gained(state: dict[str, Any]) -> str:
    best, preset, score = state["best"], state["best_preset"], state["score"]
    if best is None:
        return "no trial is complete and feasible yet"
    parts = [f"best: trial {best['trial']}, {formatting.title(score)} {formatting.number(score, best['value'])}"]
    if score in best["gain_over_noisy"]:
        parts.append(f"{formatting.number(score, best['gain_over_noisy'][score], '+')} over the noisy input")
    if preset is not None and best["gain_over_preset"] is None:
        parts.append(f"which is the preset {preset['preset']}")
    elif preset is not None and score in best["gain_over_preset"]:
        gain = formatting.number(score, best["gain_over_preset"][score], "+")
        parts.append(f"{gain} over the best preset, {preset['preset']}")
    return ", ".join(parts)


def _hours(state: dict[str, Any]) -> str:
    spent, left = state["hours"]["spent"], state["hours"]["left"]
    text, alive = f"{spent:.3g} spent by trials that ended", _alive(state)
    if left is None or state["done"]:
        return text
    return f"{text}, about {left:.3g} to come" + (f": {left / alive:.2g} h for {alive} workers" if alive else "")


def _workers(state: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False)
    score = state["score"]
    for column in ("worker", "trial", "audio (h)", "last rung (h)", formatting.title(score), ""):
        table.add_column(column, justify="left" if column in ("worker", "") else "right", no_wrap=True)
    for worker in state["workers"]:
        rung = "" if worker["rung_hours"] is None else f"{worker['rung_hours']:.3g}"
        life = {True: "alive", False: "gone", None: "on another machine: watch to see if it is alive"}[worker["alive"]]
        if worker["silent_s"] is not None and not worker["alive"]:
            life += f", silent for {worker['silent_s']:.0f} s"
        cells = [worker["worker"] or "unknown", str(worker["trial"]), f"{worker['audio_hours']:.2f}", rung]
        table.add_row(*map(Text, [*cells, formatting.number(score, worker["score"]), life]))
    return table


def _failures(failures: dict[int, str]) -> list[str]:
    latest = list(failures.items())[-FAILURES:]
    more = len(failures) - len(latest)
    lines = [f"trial {number} failed: {reason}" for number, reason in latest]
    return [f"{more} more failed before", *lines] if more else lines


class _FullOrShort:
    """The full table, or the short one on a terminal that is too narrow for the full one."""

    def __init__(self, full: Table, short: Table) -> None:
        self.full, self.short = full, short

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        needed = Measurement.get(console, options.update(max_width=sys.maxsize), self.full).maximum
        yield self.full if needed <= options.max_width else self.short


def _leaderboard(state: dict[str, Any], configurations: bool) -> Table:
    rows: Sequence[dict[str, Any]] = state["leaderboard"]
    metrics = list(rows[0].get("metrics", {}))
    searched = sorted({name for row in rows for name in row["params"]}) if configurations else []
    table = Table(title="best trials, means over the validation mixtures")
    heads = [f"{formatting.plain(name)}\n{UNITS.get(name, '')}".strip() for name in metrics]
    for column in ("trial", *heads, "parameters", "M\nMAC/s", *searched):
        table.add_column(column, justify="left" if column == "loss" else "right", no_wrap=True)
    if state["noisy"]:
        table.add_row("noisy", *(formatting.number(name, state["noisy"].get(name)) for name in metrics))
    for row in rows:
        values = [formatting.number(name, row.get("metrics", {}).get(name)) for name in metrics]
        cost = row.get("cost", {})
        costs = [f"{cost['parameters']:,}", f"{cost['macs_per_s'] / 1e6:.0f}"] if cost else ["", ""]
        point = [formatting.parameter_value(row["params"].get(name, "")) for name in searched]
        cells = [f"{row['trial']} {row.get('preset', '')}".strip(), *values, *costs, *point]
        table.add_row(*map(Text, cells))
    return table


def watch(study: optuna.Study, console: Console, *, as_json: bool = False) -> None:
    """Shows a study until it is done: redrawn at every look on a terminal, elsewhere a line for every change.

    Args:
        as_json: the line is the summary as JSON, on a terminal too.
    """
    liveness, last = Liveness(study), ""
    redraw = console.is_terminal and not as_json
    with there(study), Live(console=console, auto_refresh=False) if redraw else nullcontext() as live:
        while True:
            state = summary(study, liveness=liveness)
            text = line(state)
            if live is not None:
                live.update(view(state), refresh=True)
            elif text != last:
                print(json.dumps(state) if as_json else text, flush=True)
            last = text
            if state["done"]:
                return
            time.sleep(PAUSE_S)
