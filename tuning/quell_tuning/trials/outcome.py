"""Ends trials: objective values, constraints, duplicates, and which weights are kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from quell.export.cost import Cost
from quell.metrics.scorer import Scores
from quell.mixing.evaluation_mixtures import EvaluationSet
from quell_tuning.formatting import SCORED_COSTS
from quell_tuning.optuna_private import storage_of, trial_id_of
from quell_tuning.study.study_file import StudySpec
from quell_tuning.trials.ranking import best_trainings, least_bad
from quell_tuning.workspace.run_folder import RunFolder

# Weights are kept for so many of the best trials; of a study with several scores for the whole front.
KEPT_WEIGHTS = 3
# Copied from the first of two trials with the same configuration.
COPIED_ATTRIBUTES = (
    "cost",
    "data_share",
    "micro_batch",
    "iou",
    "metrics",
    "by_snr",
    "failures",
    "worse",
    "worst",
    "clips",
    "pruned",
    "machine",
)


def values(spec: StudySpec, scores: Scores, cost: Cost) -> list[float]:
    """The objective values for `study.tell`, in the order of the study's scores."""
    costs = {name: getattr(cost, field) for name, field in SCORED_COSTS.items()}
    return [costs[name] if name in costs else scores.mean(name) for name in spec.study.scores]


def worst(scores: Scores, mixtures: EvaluationSet, name: str) -> dict[str, Any]:
    """The clip that lost most in a score against its noisy input, or gained least."""
    noisy = mixtures.noisy_scores
    clip, _ = scores.worst_clip(noisy, name)
    sides = {
        side: {metric: round(float(values[clip]), 4) for metric, values in of_side.values.items()}
        for side, of_side in (("noisy", noisy), ("denoised", scores))
    }
    return {"label": mixtures.labels[clip], "snr_db": float(mixtures.snr_db[clip]), **sides}


def add_quality_constraints(trial: optuna.Trial, scores: Scores, noisy: Scores) -> None:
    """Makes a trial infeasible whose mean SI-SDR or STOI is below the noisy input's: PESQ may rise at their cost."""
    # Those of an earlier attempt stay: Optuna does not let a constraint change.
    constraints: Mapping[str, float] = trial.constraints
    for name in ("si_sdr", "stoi"):
        if name not in constraints:
            trial.set_constraint(name, noisy.mean(name) - scores.mean(name))


def prune_weights(study: optuna.Study, runs: RunFolder, keep: int = KEPT_WEIGHTS) -> None:
    """Removes the weights of all but the best complete trials; with several scores the Pareto front is kept. While no
    trial is feasible, the least bad ones are kept."""
    # Read before the best trials: the weights of a trial that another worker completes in between stay.
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if best := best_trainings(study):
        best = best if len(study.directions) > 1 else best[:keep]
    else:
        best = least_bad(study)[:keep]
    kept = {trial.user_attrs.get("same_as", trial.number) for trial in best}
    runs.remove_weights(study.study_name, {trial.number for trial in complete} - kept)


def find_duplicate(trial: optuna.Trial, seed: int) -> FrozenTrial | None:
    """A trial with the same effective configuration, recognised by its training seed, that ended or began earlier."""
    trials = trial.study.get_trials(deepcopy=False)
    own = next(other for other in trials if other.number == trial.number)
    same = [
        other
        for other in trials
        if other.number != trial.number and other.user_attrs.get("training", {}).get("seed") == seed
    ]
    ended = [other for other in same if other.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    running = [other for other in same if other.state == TrialState.RUNNING and _began(other) < _began(own)]
    return next(iter([*ended, *running]), None)


def _began(trial: FrozenTrial) -> tuple[str, int]:
    return str(trial.datetime_start), trial.number


def copy_result(trial: optuna.Trial, ended: FrozenTrial) -> None:
    """Ends a trial with the result of one with the same configuration."""
    attributes: dict[str, Any] = {key: ended.user_attrs[key] for key in COPIED_ATTRIBUTES if key in ended.user_attrs}
    attributes["same_as"] = ended.user_attrs.get("same_as", ended.number)
    for key, value in attributes.items():
        trial.set_user_attr(key, value)
    constraints = trial.constraints
    for name, value in ended.constraints.items():
        if name not in constraints:
            trial.set_constraint(name, value)
    if len(trial.study.directions) == 1:
        reported = storage_of(trial.study).get_trial(trial_id_of(trial)).intermediate_values  # by an earlier worker
        for step in ended.intermediate_values.keys() - reported.keys():
            trial.report(ended.intermediate_values[step], step)
    objectives: Sequence[float] | None = ended.values if ended.state == TrialState.COMPLETE else None
    trial.study.tell(trial, objectives, state=ended.state)
