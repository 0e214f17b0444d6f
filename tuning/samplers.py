"""The sampler and the pruner of a study. Optuna stores neither, so every worker makes its own."""

from __future__ import annotations

import hashlib

import optuna

# Trials that must have ended complete before any is pruned.
UNPRUNED = 3


def sampler(seed: int, worker: str) -> optuna.samplers.BaseSampler:
    """Tree-structured Parzen estimator, seeded for each worker: with one seed all would propose the same points."""
    digest = hashlib.sha256(f"{seed} {worker}".encode()).digest()
    return optuna.samplers.TPESampler(seed=int.from_bytes(digest[:4], "big"), multivariate=True, constant_liar=True)


def pruner() -> optuna.pruners.BasePruner:
    """Stops a trial whose score at a rung is below the median of the complete ones there."""
    return optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=0)
