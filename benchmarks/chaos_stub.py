"""Stub trials, workers and pools for `chaos.py` and `ray_cluster.py`: they sleep instead of training, without torch.

`chaos.py` runs `chaos_program.py pool FOLDER TRIALS WORKERS UNIT_S`, which runs `chaos_program.py worker FOLDER TRIALS
UNIT_S`; `ray_cluster.py` runs `chaos_program.py ray FOLDER TRIALS WORKERS UNIT_S ADDRESS`. The URL of the storage is in
QUELL_STORAGE.
"""

from __future__ import annotations

import json
import logging
import operator
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from quell_tuning.errors import TuningError
from quell_tuning.storage.retrying import RetryingStorage
from quell_tuning.study import samplers
from quell_tuning.study.stored_study import SPEC, load_study
from quell_tuning.trials.budget import Budget
from quell_tuning.trials.lease import RunningTrial
from quell_tuning.trials.worker_id import worker_name
from quell_tuning.workers.live_view import LiveView
from quell_tuning.workers.local_pool import Pool
from quell_tuning.workers.worker import StopRequest, StopRequested, work
from quell_tuning.workspace.checkpoints import Checkpoints
from quell_tuning.workspace.run_folder import RunFolder
from quell_tuning.workspace.workspace import Workspace
from rich.console import Console

from quell.atomic import replacing
from quell.child_processes.child_pool import ChildPool

STUDY = "chaos"
RUNGS = 5
UNITS_PER_RUNG = 4  # of work; a checkpoint is written after each rung
FAULTY = 0.05  # share of the trials that fail by themselves
CHILD_ATTEMPTS = 3  # of a score: kills inside a write come so fast that one call may meet two


class Stub:
    """Sleeps for UNITS_PER_RUNG units of up to `unit_s` at each rung, and records every unit.

    Args:
        pool: of child processes, in which the rungs are scored.
    """

    def __init__(self, folder: Path, unit_s: float, pool: ChildPool) -> None:
        self.checkpoints = Checkpoints(folder / "checkpoints")
        self.units = folder / "units"
        self.unit_s = unit_s
        self.pool = pool

    def __call__(self, running: RunningTrial) -> None:
        trial = running.trial
        for number in range(5):
            trial.suggest_float(f"x{number}", 0, 1)
        quality = trial.suggest_float("quality", 0, 1)
        slot, attempt = trial.user_attrs["slot"], trial.user_attrs["attempt"]
        checkpoint = self.checkpoints.take_up(slot, attempt)
        done = json.loads(checkpoint.read_text()) if checkpoint.exists() else 0
        running.note_checkpoint(done / UNITS_PER_RUNG)
        before = set(trial.study._storage.get_trial(trial._trial_id).intermediate_values)
        try:
            for rung in range(1, RUNGS + 1):
                done = self._train(running, rung, done, quality, checkpoint)
                if rung not in before:
                    score = self.pool.submit(f"score of trial {trial.number}", operator.mul, quality, rung)
                    trial.report(score.result(), rung)
                if rung < RUNGS and trial.should_prune():
                    raise optuna.TrialPruned
        except optuna.TrialPruned:
            trial.study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            if quality < FAULTY:
                trial.set_user_attr("failure", f"step {trial.number}: loss nan")
                trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                trial.study.tell(trial, quality * RUNGS)
        self.checkpoints.drop(slot)

    def _train(self, running: RunningTrial, rung: int, done: int, quality: float, checkpoint: Path) -> int:
        while done < rung * UNITS_PER_RUNG:
            time.sleep(self.unit_s * (1 + 2 * quality) / 3)
            self._note(running, done)
            done += 1
            try:
                running.step(done / UNITS_PER_RUNG)
            except BaseException:
                self._save(checkpoint, done)
                raise
        self._save(checkpoint, done)
        running.note_checkpoint(done / UNITS_PER_RUNG)
        return done

    def _save(self, checkpoint: Path, done: int) -> None:
        with replacing(checkpoint) as partial:
            partial.write_text(json.dumps(done))

    def _note(self, running: RunningTrial, unit: int) -> None:
        line = f"{running.trial.user_attrs['slot']} {running.trial.number} {os.getpid()} {unit}\n"
        with self.units.open("a") as file:  # short appends of several processes do not mix
            file.write(line)


def executed(folder: Path) -> tuple[int, list[int]]:
    """(units of work in all, repeated units in each execution of a trial by a process)."""
    seen: dict[str, set[str]] = {}
    again: dict[tuple[str, ...], int] = {}
    lines = (folder / "units").read_text().splitlines()
    for line in lines:
        slot, trial, process, unit = line.split()
        done = seen.setdefault(slot, set())
        key = (slot, trial, process)
        again[key] = again.get(key, 0) + (unit in done)
        done.add(unit)
    return len(lines), list(again.values())


def make_study(storage: RetryingStorage) -> optuna.Study:
    study = optuna.create_study(study_name=STUDY, storage=storage, direction="maximize", load_if_exists=True)
    study.set_user_attr(SPEC, {})  # without, it would be another program's
    return study


def main() -> None:
    logging.basicConfig(format="%(asctime)s %(process)d %(message)s", level=logging.INFO)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kind, folder, trials = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    workspace = Workspace(RunFolder(folder), os.environ["QUELL_STORAGE"], None)
    if kind == "worker":
        from quell_tuning.workers.joining import open_patiently

        notice = StopRequest()
        try:
            storage = open_patiently(workspace, notice)
            with storage.waiting(unless=notice.check):
                study = load_study(STUDY, storage)
        except StopRequested:
            sys.exit(notice.exit_code)
        study.sampler = samplers.sampler("tpe", 0, worker_name())
        study.pruner = samplers.pruner("median", (1 / 3600, RUNGS / 3600))
        with ChildPool(1, attempts=CHILD_ATTEMPTS) as children:
            stub = Stub(folder, float(sys.argv[4]), children)
            code = work(Budget(study, trials), notice, lambda: stub, lambda number: None)
        sys.exit(code)
    workers, unit_s = int(sys.argv[4]), sys.argv[5]
    study = make_study(workspace.open_storage(create=True))
    budget = Budget(study, trials)
    budget.ignore_past_failures()
    view = LiveView(Console(stderr=True), trials, float(RUNGS), "value")
    command = [sys.argv[0], "worker", str(folder), str(trials), unit_s]
    try:
        if kind == "ray":
            sys.exit(on_ray(sys.argv[6], workers, command, budget, view))
        pool = Pool(
            command=[sys.executable, *command],
            environment={},
            devices=["cpu"] * workers,
            logs=folder / "logs",
            budget=budget,
            view=view,
        )
        sys.exit(pool.run())
    except TuningError as error:
        sys.exit(str(error))


def on_ray(address: str, workers: int, command: Sequence[str], budget: Budget, view: LiveView) -> int:
    from quell_tuning.workers.ray_pool import RayCluster, RayPool
    from quell_tuning.workers.ray_slot import WorkerSpec

    environment = {name: os.environ[name] for name in ("QUELL_STORAGE", "QUELL_GRACE_S") if name in os.environ}

    def worker(slot: int) -> WorkerSpec:
        return WorkerSpec(
            command, ("none.toml", ""), environment, {"QUELL_RUNS": command[2]}, (), 1, f"logs/{slot}.log"
        )

    cluster = RayCluster(address, workers, 0.5, 0.5)
    with cluster.connected():
        return RayPool(budget=budget, view=view, worker=worker, cluster=cluster).run()
