"""Replays searches over a bank of trained configurations, to compare samplers, pruners, rungs and mixtures.

    python benchmarks/search_replay.py --seeds 100

A replayed trial takes the seconds and reports the scores that `search_bank.py` recorded; samplers, pruners and studies
are the real ones. Workers are asynchronous, like Quell's. Each strategy of a table differs from "quell" as its name
says.
"""

import argparse
import heapq
import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from header import header
from numpy.typing import NDArray
from optuna.pruners import PercentilePruner
from optuna.trial import TrialState
from quell_tuning.study import samplers, search_space, study_file
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.study_file import StudySpec
from rich.progress import Progress
from scipy.stats import spearmanr
from search_bank import BANK, STUDY, Configuration, Rung, Searched, read_bank

TAKEN_OVER_S = 0.5  # to ask, store, and copy a result
TRIALS = 200  # of a search, at most: one that repeats its proposals would hardly end
MIXTURES = (16, 32, 64, 128)
Key = tuple[object, ...]


@dataclass(frozen=True)
class Strategy:
    """A way to search, named by its difference from Quell's defaults."""

    name: str
    sampler: Callable[[int], optuna.samplers.BaseSampler] = samplers.SAMPLERS["tpe"]
    pruner: str = "asha"
    shares: tuple[float, ...] = (1 / 4, 1 / 2, 1.0)  # rungs, of the training audio
    mixtures: int = 32  # scored at the rungs before the last
    presets: bool = True  # are the first trials
    takes_over: bool = True  # copies the result of a configuration that was trained before


# Tried beside those of `quell_tuning.study.samplers`; the median keeps half.
PRUNERS = {f"best {share} %": PercentilePruner(share, n_startup_trials=samplers.UNPRUNED) for share in (25, 75)}


def univariate(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.TPESampler(seed=seed, multivariate=False, constant_liar=True)


QUELL = Strategy("quell")
PLAIN = Strategy(
    "(a) plain Optuna loop",
    lambda seed: optuna.samplers.TPESampler(seed=seed),
    pruner="none",
    shares=(1.0,),
    presets=False,
    takes_over=False,
)
RANDOM = replace(PLAIN, name="(b) random search", sampler=samplers.SAMPLERS["random"])
LADDERS = {
    "1/4 1/2 1": QUELL.shares,
    "1/8 1/4 1/2 1": (1 / 8, 1 / 4, 1 / 2, 1.0),
    "1/16 to 1 by 2": (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0),
    "1/8 3/8 1": (1 / 8, 3 / 8, 1.0),
    "1/4 1": (1 / 4, 1.0),
    "3/8 1": (3 / 8, 1.0),
    "1/2 1": (1 / 2, 1.0),
}


def strategies() -> list[Strategy]:
    ladders = [
        replace(QUELL, name=f"{pruner}, {ladder}", pruner=pruner, shares=shares)
        for pruner in ("median", "asha", "hyperband", *PRUNERS)
        for ladder, shares in LADDERS.items()
        if (pruner, shares) != (QUELL.pruner, QUELL.shares)
    ]
    return [
        PLAIN,
        RANDOM,
        replace(PLAIN, name="(a) taking duplicates over", takes_over=True),
        QUELL,
        replace(QUELL, name="no presets", presets=False),
        replace(QUELL, name="duplicates trained again", takes_over=False),
        replace(QUELL, name="no pruning", pruner="none", shares=(1.0,)),
        replace(QUELL, name="no pruning, no presets", pruner="none", shares=(1.0,), presets=False),
        *(replace(QUELL, name=f"{count} mixtures", mixtures=count) for count in MIXTURES if count != QUELL.mixtures),
        *ladders,
        *(replace(QUELL, name=f"sampler {name}", sampler=samplers.SAMPLERS[name]) for name in ("random", "gp")),
        replace(QUELL, name="sampler tpe, parameter by parameter", sampler=univariate),
    ]


@dataclass
class Search:
    """One search of simulated workers; `reached` has (seconds since its start, score) of complete trials."""

    bank: dict[Key, Configuration]
    spec: StudySpec
    strategy: Strategy
    seed: int
    reached: list[tuple[float, float]] = field(default_factory=list)
    now: float = 0.0

    def __post_init__(self) -> None:
        # Wall time on a shared machine, with delays that do not depend on the configuration: the lower quartile.
        rungs = [rung for configuration in self.bank.values() for rung in configuration.rungs]
        self.score_s = {
            hours: float(np.quantile([rung.score_s for rung in rungs if rung.audio_hours == hours], 0.25))
            for hours in {rung.audio_hours for rung in rungs}
        }

    def run(self, workers: int, seconds: float) -> list[tuple[float, float]]:
        hours = [share * self.spec.training.audio_hours for share in self.strategy.shares]
        pruner = PRUNERS.get(self.strategy.pruner) or samplers.pruner(self.strategy.pruner, hours)
        self.study = optuna.create_study(direction="maximize", sampler=self.strategy.sampler(self.seed), pruner=pruner)
        self.ended: dict[Key, tuple[tuple[Rung, ...], bool]] = {}
        if self.strategy.presets:
            for point in (search_space.inside(preset, self.spec.search) for preset in PRESETS.values()):
                if point is not None:
                    self.study.enqueue_trial(point)
        order = itertools.count()
        queue = [(0.0, next(order), self.work(hours)) for _ in range(workers)]
        best = max(configuration.rungs[-1].pesq.mean() for configuration in self.bank.values())
        while queue[0][0] < seconds and len(self.study.get_trials(deepcopy=False)) <= TRIALS:
            self.now, _, worker = heapq.heappop(queue)
            heapq.heappush(queue, (self.now + next(worker), next(order), worker))
            if any(score >= best for _, score in self.reached):
                break
        return self.reached

    def work(self, hours: list[float]) -> Iterator[float]:
        """Runs trial after trial; yields the seconds until the next event."""
        while True:
            trial = self.study.ask()
            point = search_space.suggest(trial, self.spec.search)
            key = tuple(point[name] for name in searched_names(self.spec))
            if self.strategy.takes_over and key in self.ended:
                yield TAKEN_OVER_S
                self.take_over(trial, *self.ended[key])
            else:
                yield from self.train(trial, key, hours)

    def take_over(self, trial: optuna.Trial, rungs: tuple[Rung, ...], pruned: bool) -> None:
        for rung in rungs:
            trial.report(self.score(rung), round(rung.audio_hours * 3600))
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, self.score(rungs[-1]))

    def train(self, trial: optuna.Trial, key: Key, hours: list[float]) -> Iterator[float]:
        rungs = tuple(rung for rung in self.bank[key].rungs if rung.audio_hours in hours)
        before = 0.0
        for place, rung in enumerate(rungs):
            yield rung.train_s - before + self.score_s[rung.audio_hours] * self.scored(rung) / len(rung.pesq)
            before = rung.train_s
            trial.report(self.score(rung), round(rung.audio_hours * 3600))
            if rung is not rungs[-1] and trial.should_prune():
                self.study.tell(trial, state=TrialState.PRUNED)
                self.ended[key] = rungs[: place + 1], True
                return
        self.study.tell(trial, self.score(rungs[-1]))
        self.ended[key] = rungs, False
        self.reached.append((self.now, self.score(rungs[-1])))

    def scored(self, rung: Rung) -> int:
        last = rung.audio_hours == self.spec.training.audio_hours
        return len(rung.pesq) if last else self.strategy.mixtures

    def score(self, rung: Rung) -> float:
        return float(rung.pesq[: self.scored(rung)].mean())


def searched_names(spec: StudySpec) -> list[str]:
    return [name for name, domain in spec.search.items() if isinstance(domain, search_space.Choices)]


def key_of(point: Searched, spec: StudySpec) -> Key:
    return tuple(point[name] for name in searched_names(spec))


def curve(reached: list[tuple[float, float]], workers: int, grid: NDArray[np.float64], worst: float) -> list[float]:
    """Best score so far at each of the grid's worker-minutes."""
    return [max([score for at, score in reached if at * workers <= 60 * minutes], default=worst) for minutes in grid]


def replay(
    strategy: int, bank_file: Path, spec: StudySpec, seeds: int, workers: int, minutes: float
) -> list[list[float]]:
    """Curves of all seeds, every 0.1 worker-minutes.

    Args:
        strategy: its index, since the samplers of strategies cannot be pickled.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    bank = {key_of(one.point, spec): one for one in read_bank(bank_file)}
    worst = min(one.rungs[-1].pesq.mean() for one in bank.values())
    grid = np.arange(0, minutes + 1e-9, 0.1)
    searches = (Search(bank, spec, strategies()[strategy], seed) for seed in range(seeds))
    return [curve(search.run(workers, 60 * minutes / workers), workers, grid, worst) for search in searches]


def show_bank(bank: list[Configuration]) -> None:
    """Prints the scores of the bank, and how well each rung predicts the final ones."""
    final = np.array([one.rungs[-1].pesq.mean() for one in bank])
    seconds = [one.rungs[-1].train_s for one in bank]
    quartiles = ", ".join(f"{value:.3f}" for value in np.quantile(final, [0, 0.25, 0.5, 0.75, 0.95, 1]))
    print(f"{len(bank)} configurations, PESQ {quartiles} (least, quartiles, 95 %, best); ", end="")
    print(f"training {min(seconds):.0f} to {max(seconds):.0f} s, together {sum(seconds) / 60:.0f} min\n")
    print("Rank correlation of a rung's score with the final one, and ranks of the finally best three:\n")
    print("| share of the audio | " + " | ".join(f"{count} mixtures" for count in MIXTURES) + " | ranks |")
    print("|---|" + "---|" * (len(MIXTURES) + 1))
    for place, rung in enumerate(bank[0].rungs):
        share = rung.audio_hours / bank[0].rungs[-1].audio_hours
        scores = [[one.rungs[place].pesq[:count].mean() for one in bank] for count in MIXTURES]
        correlations = " | ".join(f"{spearmanr(few, final).statistic:.3f}" for few in scores)
        ranks = np.argsort(np.argsort(scores[-1])[::-1])[np.argsort(final)[:-4:-1]] + 1
        print(f"| {share:.4g} | {correlations} | {', '.join(map(str, ranks))} |")


def show(curves: dict[str, NDArray[np.float64]], best: float, minutes: float) -> None:
    """Prints regrets at parts of the budget, the difference to Quell's, and the time to the plain final score."""
    target = float(np.median(curves[PLAIN.name][:, -1]))
    marks = [minutes / 4, minutes / 2, minutes]
    heads = " | ".join(f"{mark:g} min" for mark in marks)
    print(f"| strategy | {heads} | against quell at {marks[1]:g} min | minutes to {target:.3f} | plain / it |")
    print("|---|" + "---|" * (len(marks) + 3))
    times = {name: minutes_to(target, scores) for name, scores in curves.items()}
    plain = np.quantile(times[PLAIN.name], 0.5, method="nearest")
    for name, scores in curves.items():
        regrets = " | ".join(f"{1000 * (best - scores[:, round(10 * mark)].mean()):.1f}" for mark in marks)
        gaps = 1000 * (curves[QUELL.name] - scores)[:, round(10 * marks[1])]
        error = 1.96 * gaps.std(ddof=1) / len(gaps) ** 0.5
        against = "" if name == QUELL.name else f"{gaps.mean():+.1f} ± {error:.1f}"
        low, middle, high = np.quantile(times[name], [0.25, 0.5, 0.75], method="nearest")
        print(f"| {name} | {regrets} | {against} | {middle:.1f} ({low:.1f} to {high:.1f}) | {ratio(plain, middle)} |")


def ratio(plain: float, minutes: float) -> str:
    return f"{plain / minutes:.2f}" if np.isfinite(minutes) else ""


def minutes_to(target: float, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Worker-minutes until the target is reached, per seed; infinite if it is not."""
    reached = scores >= target - 1e-9
    return np.where(reached.any(axis=1), reached.argmax(axis=1) / 10, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--bank", type=Path, default=BANK)
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--minutes", type=float, default=10.0, help="worker-minutes of a search")
    parser.add_argument("--skip", nargs="+", default=[], help="strategies; the slow one is 'sampler gp'")
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args()
    spec, bank = study_file.load(given.study), read_bank(given.bank)
    best = max(one.rungs[-1].pesq.mean() for one in bank)
    print(header(f"python benchmarks/search_replay.py {' '.join(sys.argv[1:])}"))
    show_bank(bank)
    places = [place for place, strategy in enumerate(strategies()) if strategy.name not in given.skip]
    names = [strategies()[place].name for place in places]
    for workers in given.workers:
        one = partial(
            replay, bank_file=given.bank, spec=spec, seeds=given.seeds, workers=workers, minutes=given.minutes
        )
        with ProcessPoolExecutor(given.processes) as pool, Progress(transient=True) as bars:
            curves = list(bars.track(pool.map(one, places), len(places), description=f"{workers} workers"))
        print(f"\n{workers} worker{'s' * (workers > 1)}, {given.seeds} seeds; mean regret in thousandths of PESQ:\n")
        show(dict(zip(names, map(np.array, curves), strict=True)), best, given.minutes)


if __name__ == "__main__":
    main()
