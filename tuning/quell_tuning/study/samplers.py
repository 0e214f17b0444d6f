"""Samplers and pruners by name. Optuna stores neither with a study, so each worker creates its own."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

# Trials that must be complete before the median pruner prunes.
UNPRUNED = 3

# tpe: tree-structured Parzen estimator over the joint space; counts running trials as bad, so that workers spread out.
# gp: Gaussian process over complete trials; takes seconds per trial from 1000 trials on. cma-es: numbers only.
SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed, multivariate=True, constant_liar=True),
    "gp": lambda seed: GPSampler(seed=seed),
    "random": lambda seed: RandomSampler(seed=seed),
    "cma-es": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
}
PRUNERS: Mapping[str, Callable[[int, int, int], BasePruner]] = {
    "median": lambda first, last, factor: MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=0),
    "asha": lambda first, last, factor: SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor),
    "hyperband": lambda first, last, factor: HyperbandPruner(first, last, factor),
    "none": lambda first, last, factor: NopPruner(),
}


def sampler(name: str, seed: int, worker: str) -> BaseSampler:
    """The sampler of a worker, seeded by the worker's name too: else all workers would suggest the same points."""
    digest = hashlib.sha256(f"{seed} {worker}".encode()).digest()
    return SAMPLERS[name](int.from_bytes(digest[:4], "big"))


def pruner(name: str, rungs_audio_hours: Sequence[float]) -> BasePruner:
    """A pruner whose resource is seconds of training audio. A rung keeps one in `factor` trials, the mean ratio of
    neighbouring rungs. Optuna's "auto" would estimate these in each process anew."""
    first, last = (round(hours * 3600) for hours in (rungs_audio_hours[0], rungs_audio_hours[-1]))
    steps = len(rungs_audio_hours) - 1
    factor = max(2, round((last / first) ** (1 / steps))) if steps else 2
    return PRUNERS[name](first, last, factor)
