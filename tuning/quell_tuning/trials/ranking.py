"""Which trials count, which are feasible, and which are the best."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

AGAIN = "again"  # attribute of a trial: the number of the failed one that it replaces


def is_lost(trial: FrozenTrial) -> bool:
    """Whether a trial ended with its worker and not by its own fault; it does not count in the budget."""
    return trial.state == TrialState.FAIL and "failure" not in trial.user_attrs


def lost_all_workers(trial: FrozenTrial) -> bool:
    """Whether a failed trial is one that lost a worker in each attempt, as its reason says (`LeaseWatch.lost`)."""
    return str(trial.user_attrs.get("failure", "")).startswith(("its worker ", "the worker that claimed it "))


def offered_again(trials: Sequence[FrozenTrial]) -> set[int]:
    """Numbers of failed trials that others of these replace."""
    return {trial.user_attrs[AGAIN] for trial in trials if AGAIN in trial.user_attrs}


def counted(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The trials that count in the budget, or will when they end: neither lost with their worker nor replaced."""
    again = offered_again(trials)
    return [trial for trial in trials if not is_lost(trial) and trial.number not in again]


def feasible(trial: FrozenTrial) -> bool:
    """Whether a trial meets all constraints: the limits, and no mean score below the noisy input's."""
    return all(value <= 0 for value in trial.constraints.values())


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Complete, feasible trials, best first, the earlier of equal ones first; of several scores the Pareto front."""
    if len(study.directions) > 1:
        return sorted(study.best_trials, key=lambda trial: (-trial.values[0], trial.number))
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(filter(feasible, complete), key=lambda trial: (-(trial.value or 0.0), trial.number))


def least_bad(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials that are not feasible: first those that break the fewest constraints, of these the best ones."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = 1 if study.directions[0] == optuna.study.StudyDirection.MINIMIZE else -1

    def badness(trial: FrozenTrial) -> tuple[int, float, int]:
        return sum(value > 0 for value in trial.constraints.values()), sign * trial.values[0], trial.number

    return sorted((trial for trial in complete if not feasible(trial)), key=badness)


def best_trainings(study: optuna.Study) -> list[FrozenTrial]:
    """The best trials; of duplicates the one that was trained."""
    trials = study.get_trials(deepcopy=False)
    numbers = dict.fromkeys(trial.user_attrs.get("same_as", trial.number) for trial in best_trials(study))
    return [trials[number] for number in numbers]
