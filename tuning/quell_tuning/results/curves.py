"""Points of the plots that dashboard and report both draw: score against cost, by SNR, and against time."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from optuna.trial import FrozenTrial, TrialState

from quell_tuning.results.snapshot import StudySnapshot
from quell_tuning.results.trial_row import seconds, state_name

Point = tuple[float, float]


def cost_point(trial: FrozenTrial) -> Point | None:
    """(millions of multiply-accumulates per second of audio, first score); None where one of them is not known."""
    macs = trial.user_attrs.get("cost", {}).get("macs_per_s", 0)
    return (macs / 1e6, float(trial.values[0])) if trial.state == TrialState.COMPLETE and macs > 0 else None


def pareto_front(points: Iterable[Point]) -> list[Point]:
    """The points whose score is higher than that of every other one of the same cost or less, by rising cost."""
    front: list[Point] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def scores_by_snr(snapshot: StudySnapshot) -> dict[str, list[Point]]:
    """Curves of "noisy" input, best "preset" and "best" trial: (SNR in dB, mean of the study's score), by rising SNR.

    A curve that is not known is left out, and the preset where it is itself the best trial.
    """
    if not snapshot.ranked:
        return {}
    best = snapshot.ranked[0]
    rival = snapshot.rival(best)
    curves = {
        "noisy": snapshot.attributes.get("noisy_by_snr", {}),
        "preset": rival.by_snr if rival else {},
        "best": best.by_snr,
    }
    points = {name: _by_snr(means, snapshot.metric) for name, means in curves.items()}
    return {name: curve for name, curve in points.items() if curve}


def _by_snr(means: Mapping[str, Mapping[str, float]], metric: str) -> list[Point]:
    return [(float(snr), means[snr][metric]) for snr in sorted(means, key=float) if metric in means[snr]]


class EndedTrial(NamedTuple):
    """A trial at its end."""

    trial: FrozenTrial
    state: str  # as `state_name`
    hours: float  # worker-hours that all trials had taken by then
    score: float | None  # of a pruned trial that of its last rung


def timeline(snapshot: StudySnapshot) -> list[EndedTrial]:
    """The trials that ended, in the order of their ends."""
    finished = [trial for trial in snapshot.trials if trial.state.is_finished()]
    ended, spent_s = [], 0.0
    for trial in sorted(finished, key=lambda trial: (str(trial.datetime_complete), trial.number)):
        spent_s += seconds(trial)
        rungs = trial.intermediate_values
        last = rungs[max(rungs)] if rungs else None
        score = trial.values[0] if trial.state == TrialState.COMPLETE else last
        ended.append(EndedTrial(trial, state_name(trial), spent_s / 3600, score))
    return ended


def best_so_far(ended: Sequence[EndedTrial]) -> list[Point]:
    """(worker-hours, score) of each complete and feasible trial that was better than all before it."""
    return pareto_front((end.hours, end.score) for end in ended if end.state == "complete" and end.score is not None)
