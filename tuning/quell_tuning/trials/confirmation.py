"""The confirmation of a search: its best trials, trained again with other seeds and ranked by their means."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from quell.metrics.scorer import paired_interval
from quell_tuning.trials.ranking import best_trainings, counted, feasible

# A repetition is hopeless when its clips score lower than the leader's at this error probability (one-sided).
ERROR = 0.01

ClipScores = NDArray[np.float64]


def hopeless(trial: optuna.Trial, step: int, clips: ClipScores) -> bool:
    """Whether a repetition is behind the search's best trial at the same rung, over the same clips.

    By the signed-rank test (Wilcoxon, 1945). False for a trial that is no repetition, and for one of the leader itself.
    """
    leader = trial.study.user_attrs.get("leader")
    if leader is None or "of" not in trial.user_attrs or trial.user_attrs["of"] == leader["trial"]:
        return False
    leading = np.array(leader["clips"].get(str(step), ()))
    if len(leading) != len(clips) or np.array_equal(leading, clips):
        return False
    from scipy.stats import wilcoxon

    return bool(wilcoxon(clips - leading, alternative="less").pvalue < ERROR)


def leader(study: optuna.Study) -> dict[str, Any]:
    """The search's best trial and its clips, which `hopeless` compares with."""
    best = best_trainings(study)[0]
    return {"trial": best.number, "clips": best.user_attrs.get("clips", {})}


@dataclass(frozen=True)
class Confirmed:
    """One of the best trials with all its seeds.

    Attributes:
        values: the score of each seed, the search's own training first.
        best: study and trial of the seed with the best score on validation.
        clips: scores, (seeds, clips).
    """

    trial: int
    values: list[float]
    best: tuple[str, int]
    clips: ClipScores

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


def ranking(study: optuna.Study, repeated: optuna.Study, best: int) -> list[Confirmed]:
    """The best trials whose repetitions all completed, highest mean over the seeds first."""
    repetitions: dict[int, list[FrozenTrial]] = {}
    for trial in counted(repeated.get_trials(deepcopy=False)):
        if trial.state.is_finished():
            repetitions.setdefault(trial.user_attrs["of"], []).append(trial)
    rows = []
    for first in best_trainings(study)[:best]:
        others = repetitions.get(first.number, [])
        if not others or not all(trial.state == TrialState.COMPLETE and feasible(trial) for trial in others):
            continue
        seeds = [(study.study_name, first), *((repeated.study_name, trial) for trial in others)]
        name, top = max(seeds, key=lambda seed: seed[1].value or 0.0)
        rows.append(
            Confirmed(
                first.number,
                [float(trial.value or 0.0) for _, trial in seeds],
                (name, top.number),
                np.array([_last(trial.user_attrs["clips"]) for _, trial in seeds]),
            )
        )
    return sorted(rows, key=lambda row: -row.mean)


def _last(clips: dict[str, list[float]]) -> list[float]:
    return clips[max(clips, key=int)]


def lead(winner: Confirmed, second: Confirmed) -> tuple[float, float, float]:
    """Mean lead of the winner over the validation clips, with a 95 % interval: (mean, low, high)."""
    return paired_interval(winner.clips.mean(axis=0) - second.clips.mean(axis=0))


def record(study: optuna.Study, rows: list[Confirmed]) -> None:
    """Stores on the study which training is exported from now on."""
    name, number = rows[0].best
    study.set_user_attr(
        "confirmed",
        {
            "of": [trial.number for trial in best_trainings(study)[: len(rows)]],
            "winner": rows[0].trial,
            "study": name,
            "trial": number,
            "means": {str(row.trial): row.mean for row in rows},
        },
    )


def show(study: optuna.Study, rows: list[Confirmed], given_up: int, score: str, console: Console) -> None:
    """Prints the ranking, the winner's lead, and which training is exported."""
    table = Table(title=f"best trials again with other seeds: {score} over the validation mixtures")
    for column in ("trial", "mean", "seeds"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(str(row.trial), f"{row.mean:.3f}", " ".join(f"{value:.3f}" for value in row.values))
    console.print(table)
    if given_up:
        console.print(f"{given_up} given up: behind the best one over the clips (Wilcoxon, p < {ERROR})")
    winner = rows[0]
    if len(rows) > 1:
        mean, low, high = lead(winner, rows[1])
        interval = f"{mean:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}"
        console.print(f"trial {winner.trial} is ahead of trial {rows[1].trial} by {interval}", highlight=False)
    name, number = winner.best
    of_study = "" if name == study.study_name else f" of study {name}"
    text = f"the exported model is its seed with the best score on validation: trial {number}{of_study}"
    console.print(text, highlight=False)
