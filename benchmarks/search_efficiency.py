"""Quell's search against a plain Optuna loop and random search: best validation PESQ against worker-minutes.

    python benchmarks/search_efficiency.py --corpus FOLDER --minutes 20

(a) plain: study.optimize with a default TPESampler, every trial trained to the end. (b) random: the same with
RandomSampler. (c) quell: the command `quell tune`. All search the space of one study file, on the same core, and are
interrupted when their processes, scorers included, have used up their CPU minutes. A search that has ended is not run
again: remove its .json to repeat it. A study's seed is also that of its validation mixtures, so searches are compared
seed by seed, by their gain over the noisy mixtures.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import matplotlib
import numpy as np
import optuna
from header import header
from numpy.typing import NDArray
from quell_tuning.study import study_file
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from search_plain import STUDY, mixtures

from quell.corpus.store import prepare
from quell.metrics.scorer import Scorer

matplotlib.use("Agg")
from matplotlib import pyplot

ARMS = {"plain": "(a) plain Optuna loop", "random": "(b) random search", "quell": "(c) quell tune"}
CLOCKS = {"cpu_minutes": "CPU", "wall_minutes": "wall"}
SAMPLE_S = 0.5
TRIALS_PER_MINUTE = 10  # more than any search completes
STOP_S = 60.0  # for a search to stop in


@dataclass(frozen=True)
class Ended:
    """A trial that ended, with the time since its search was started."""

    state: str
    score: float | None
    cpu_minutes: float  # of all processes of the search
    wall_minutes: float


@dataclass(frozen=True)
class Outcome:
    """One search."""

    arm: str
    seed: int
    noisy: float  # score of the noisy mixtures
    cpu_minutes: float
    wall_minutes: float
    trials: list[Ended]

    @classmethod
    def read(cls, path: Path) -> "Outcome":
        stored = json.loads(path.read_text())
        return cls(**stored | {"trials": [Ended(**trial) for trial in stored["trials"]]})

    def gains(self, clock: str) -> list[tuple[float, float]]:
        """(minutes, gain over the noisy mixtures) of complete trials."""
        complete = [trial for trial in self.trials if trial.state == "COMPLETE"]
        return [(getattr(trial, clock), trial.score - self.noisy) for trial in complete]

    def best(self, grid: NDArray[np.float64], clock: str = "cpu_minutes") -> NDArray[np.float64]:
        """Best gain so far at each of the minutes; 0 before the first trial is complete."""
        gains = self.gains(clock)
        return np.array([max([gain for at, gain in gains if at <= minutes], default=0.0) for minutes in grid])

    def minutes_to(self, gain: float, clock: str) -> float:
        """When the search first reached a gain; infinite if it never did."""
        return min((at for at, reached in self.gains(clock) if reached >= gain - 1e-9), default=float("inf"))


def run(arm: str, seed: int, study: Path, corpus: Path, folder: Path, minutes: float, core: int) -> list[list[float]]:
    """Runs one search on one core until its minutes are used up; returns samples of (seconds, CPU seconds)."""
    tools = {"plain": "tpe", "random": "random"}
    if arm in tools:
        command = [str(Path(__file__).parent / "search_plain.py"), "--sampler", tools[arm], "--study", str(study)]
    else:
        trials = str(max(1, round(TRIALS_PER_MINUTE * minutes)))
        command = [
            "-m",
            "quell_tuning.cli",
            "tune",
            str(study),
            "--workers",
            "1",
            "--devices",
            "cpu",
            "--trials",
            trials,
        ]
    samples = []
    columns = (TextColumn("{task.description}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with (folder / "log").open("wb") as log, Progress(*columns, transient=True) as bars:
        task = bars.add_task(f"{ARMS[arm]}, seed {seed}", total=60 * minutes)
        started = time.monotonic()
        process = subprocess.Popen(
            ["taskset", "--cpu-list", str(core), sys.executable, *command, "--corpus", corpus, "--runs", folder],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            while process.poll() is None and (not samples or samples[-1][1] < 60 * minutes):
                samples.append([time.monotonic() - started, cpu_seconds(process.pid)])
                bars.update(task, completed=samples[-1][1])
                time.sleep(SAMPLE_S)
        finally:
            stop(process)
    return samples


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cpu_seconds(process: int) -> float:
    """CPU time of a process, of its children, and of those that it waited for."""
    try:
        ticks = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15]
        threads = list(Path(f"/proc/{process}/task").iterdir())
        children = {child for thread in threads for child in (thread / "children").read_text().split()}
    except OSError:  # it ended meanwhile
        return 0.0
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)


def race(arm: str, seed: int, given: argparse.Namespace, corpora: Path) -> Outcome:
    """The outcome of one search; runs it if there is none yet."""
    path = given.runs / f"{arm}-{seed}.json"
    if path.exists():
        return Outcome.read(path)
    folder = given.runs / f"{arm}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)  # of a search that was interrupted
    folder.mkdir()
    (folder / "corpora").symlink_to(corpora.resolve())
    study = folder / "study.toml"
    study.write_text(re.sub(r"(?m)^seed = \d+", f"seed = {seed}", given.study.read_text()))
    spec = study_file.load(study)
    with Scorer(1) as scorer:
        corpus = prepare(spec.corpus_config(given.corpus), corpora)
        noisy = mixtures(spec, corpus, scorer).noisy_scores.mean(spec.study.score)
    launched = datetime.now()
    samples = np.array(run(arm, seed, study, given.corpus, folder, given.minutes, given.core))
    stored = optuna.load_study(study_name=spec.study.name, storage=f"sqlite:///{folder / 'quell.db'}")
    trials = []
    for trial in stored.get_trials(states=[state for state in optuna.trial.TrialState if state.is_finished()]):
        wall = (trial.datetime_complete - launched).total_seconds()
        if wall <= samples[-1, 0]:
            cpu = float(np.interp(wall, *samples.T))
            trials.append(Ended(trial.state.name, trial.value, cpu / 60, wall / 60))
    wall, cpu = samples[-1] / 60
    outcome = Outcome(arm, seed, noisy, float(cpu), float(wall), trials)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(outcome), indent=1))
    partial.replace(path)
    return outcome


def show(outcomes: dict[str, list[Outcome]], minutes: float) -> None:
    """Prints the gain at parts of the budget, and when each search reached the final gain of the plain one."""
    marks = np.array([minutes / 4, minutes / 2, minutes])
    heads = " | ".join(f"{mark:g} min" for mark in marks)
    print(f"| search | {heads} | complete, pruned | CPU-min to (a)'s last | share of (a)'s | wall-min to it | share |")
    print("|---|" + "---|" * (len(marks) + 5))
    targets = [plain.gains("cpu_minutes") for plain in outcomes["plain"]]
    last = [max((gain for _, gain in gains), default=0.0) for gains in targets]
    for arm, searches in outcomes.items():
        gains = [spread(values, "+.3f") for values in np.array([search.best(marks) for search in searches]).T]
        counts = [
            f"{np.median([sum(trial.state == state for trial in search.trials) for search in searches]):.0f}"
            for state in ("COMPLETE", "PRUNED")
        ]
        row = [ARMS[arm], *gains, ", ".join(counts)]
        for clock in CLOCKS:
            times = np.array([search.minutes_to(gain, clock) for search, gain in zip(searches, last, strict=True)])
            budgets = np.array([getattr(plain, clock) for plain in outcomes["plain"]])
            row += [spread(times, ".1f"), spread(times / budgets, ".2f")]
        print("| " + " | ".join(row) + " |")


def spread(values: NDArray[np.float64], form: str) -> str:
    low, middle, high = (format(value, form) for value in np.quantile(values, [0, 0.5, 1], method="nearest"))
    return f"{middle} ({low} to {high})"


def plot(outcomes: dict[str, list[Outcome]], minutes: float, path: Path) -> None:
    """Plots the median over the seeds, and the range from the lowest to the best."""
    grid = np.linspace(0, minutes, 400)
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for arm, searches in outcomes.items():
        gains = np.array([search.best(grid) for search in searches])
        (line,) = axes.step(grid, np.median(gains, axis=0), where="post", label=ARMS[arm])
        axes.fill_between(grid, gains.min(axis=0), gains.max(axis=0), step="post", alpha=0.15, color=line.get_color())
    axes.set(xlabel="worker-minutes (CPU)", ylabel="best validation PESQ above the noisy input's")
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--minutes", type=float, required=True, help="CPU minutes of each search")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)), help="the core to search on")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="for databases, corpus and plot.png")
    given = parser.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True)
    outcomes: dict[str, list[Outcome]] = {arm: [] for arm in ARMS}
    for seed in given.seeds:  # seed by seed, so that other load on the machine affects all
        for arm in ARMS:
            outcome = race(arm, seed, given, given.runs / "corpora")
            outcomes[arm].append(outcome)
            best = max((gain for _, gain in outcome.gains("cpu_minutes")), default=0.0)
            spent = f"{outcome.cpu_minutes:.1f} CPU-min, {outcome.wall_minutes:.1f} wall-min"
            console.print(f"{ARMS[arm]}, seed {seed}: {best:+.3f} in {spent}", highlight=False)
    print(header(f"python benchmarks/search_efficiency.py {' '.join(sys.argv[1:])}"))
    show(outcomes, given.minutes)
    plot(outcomes, given.minutes, given.runs / "plot.png")
    print(f"\nPlot: {given.runs / 'plot.png'}")


if __name__ == "__main__":
    main()
