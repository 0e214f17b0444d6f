"""What notes say in numbers: scores by SNR, costs against limits. A cell that is not known is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import FrozenTrial

from quell.metrics import UNITS
from quell_tuning import words
from quell_tuning.markdown import literal, table
from quell_tuning.standing import Preset, Standing
from quell_tuning.study_sections import RTF_MARGIN

COSTS = {
    "parameters": "parameters",
    "macs_per_s": "multiply-accumulates (M MAC/s)",
    "latency_ms": "latency (ms)",
    "real_time_factor": "real-time factor",
}
COMPARED = ("noisy", "this trial", "gain", "best preset", "gain over it")

Metrics = Mapping[str, float]


def score_table(standing: Standing, trial: FrozenTrial) -> str:
    """A row for each metric: means of the noisy input, the trial and the best preset, gains, and clips made worse."""
    metrics, worse = trial.user_attrs.get("metrics", {}), trial.user_attrs.get("worse", {})
    rival, noisy = standing.rival(trial), standing.known.get("noisy", {})
    theirs = rival.metrics if rival else {}
    rows = []
    for name in by_rank(standing, metrics):
        share = f"{worse[name]:.0%}" if name in worse else ""
        rows.append([words.title(name), *compared(name, metrics, noisy, theirs), share])
    return table(["", *COMPARED, "clips made worse"], rows)


def snr_tables(standing: Standing, trial: FrozenTrial) -> str:
    """A table for each metric, with a row for each SNR."""
    mine, noisy = trial.user_attrs.get("by_snr", {}), standing.known.get("noisy_by_snr", {})
    rival = standing.rival(trial)
    theirs = rival.trial.user_attrs.get("by_snr", {}) if rival else {}
    levels = sorted(mine, key=float)
    texts = []
    for name in by_rank(standing, trial.user_attrs.get("metrics", {})):
        rows = [
            [f"{float(snr):g}", *compared(name, mine[snr], noisy.get(snr, {}), theirs.get(snr, {}))] for snr in levels
        ]
        if rows:
            texts.append(f"{words.title(name)}\n\n{table(['SNR (dB)', *COMPARED], rows)}")
    return "\n\n".join(texts)


def by_rank(standing: Standing, metrics: Metrics) -> list[str]:
    """Names of metrics, the study's score first."""
    return sorted(metrics, key=lambda name: name != standing.metric)


def compared(name: str, mine: Metrics, noisy: Metrics, rival: Metrics) -> list[str]:
    """One metric in the columns COMPARED."""
    value, before, other = (side.get(name) for side in (mine, noisy, rival))
    gains = gain(name, value, before), gain(name, value, other)
    return [number(name, before), number(name, value), gains[0], number(name, other), gains[1]]


def number(name: str, value: float | None) -> str:
    """A score, or nothing."""
    return "" if value is None else words.number(name, value)


def gain(name: str, value: float | None, reference: float | None) -> str:
    """A difference of scores with its sign, or nothing."""
    return "" if value is None or reference is None else words.number(name, value - reference, "+")


def over(name: str, mine: Metrics, noisy: Metrics, rival: Preset | None) -> str:
    """How far a metric is above the noisy input's and the best preset's, to be put behind its value."""
    sides = {"the noisy input": noisy}
    if rival is not None:
        sides[f"the best preset, {literal(rival.name)}"] = rival.metrics
    found = {what: gain(name, mine.get(name), side.get(name)) for what, side in sides.items()}
    return "".join(f", {value} over {what}" for what, value in found.items() if value)


def cost_table(trial: FrozenTrial, limits: Mapping[str, float | None]) -> str:
    """Each cost, its limit and the share of the limit that it takes."""
    rows = []
    for name, value in costs(trial, limits).items():
        limit = limits.get(name)
        share = "" if value is None or limit is None else f"{value / limit:.0%}"
        rows.append([COSTS[name], shown_cost(name, value), "" if limit is None else shown_cost(name, limit), share])
    return table(["", "this trial", "limit", "share"], rows)


def costs(trial: FrozenTrial, limits: Mapping[str, float | None]) -> dict[str, float | None]:
    """What a trial costs, as far as it is known; None where a latency is infinite.

    A trial that was refused before its training, or has a limited real-time factor, tells its costs by how far they
    are off their limits.
    """
    known: dict[str, float | None] = dict(trial.user_attrs.get("cost", {}))
    for name, excess in trial.constraints.items():
        limit = limits.get(name)
        if limit is None or name in known:
            continue
        if name != "real_time_factor":
            known[name] = None if excess == math.inf else (excess + 1) * limit
        elif excess != 0:  # 0 stands for not measured
            known[name] = (excess + 1) * RTF_MARGIN * limit
    return {name: known[name] for name in COSTS if name in known}


def shown_cost(name: str, value: float | None) -> str:
    """A cost with the digits that mean something, in the units of COSTS."""
    if value is None:
        return "hears the whole recording"
    if name == "parameters":
        return f"{value:,.0f}"
    if name == "macs_per_s":
        return f"{value / 1e6:,.3g}" if value < 1e8 else f"{value / 1e6:,.0f}"
    return f"{value:.3g}" if name == "real_time_factor" else f"{value:.4g}"


def infeasible(trial: FrozenTrial) -> str:
    """Why a trial is not feasible; empty when it is."""
    return " and ".join(_excess(name, value) for name, value in trial.constraints.items() if value > 0)


def _excess(name: str, value: float) -> str:
    if name not in COSTS:
        unit = " dB" if UNITS.get(name) == "dB" else ""
        return f"{words.plain(name)} {words.number(name, value)}{unit} below the noisy input's"
    what = COSTS[name].partition(" (")[0]
    times = (value + 1) * (RTF_MARGIN if name == "real_time_factor" else 1)
    return f"{what} infinite" if times == math.inf else f"{what} {times:.3g} times the limit"
