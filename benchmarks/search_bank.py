"""Trains every configuration of a finite search space once, for the replayed searches of `search_replay.py`.

    OMP_NUM_THREADS=1 python benchmarks/search_bank.py --corpus FOLDER

Training is a function of the configuration, so a search that repeats one gets the same scores: with all of them
recorded, a sampler and a pruner can be tried on hundreds of seeds in a minute. One line of JSON is appended per
configuration, with the PESQ of every validation mixture and the seconds spent up to each rung. Configurations already
in the file are skipped, so an interrupted run resumes. Scores are rounded to thousandths.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from quell_tuning.study import search_space, study_file
from quell_tuning.study.presets import DEFAULT, PRESETS
from quell_tuning.study.study_file import StudySpec
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from quell.corpus.memory_map import Corpus
from quell.corpus.store import prepare
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set, score_denoiser
from quell.training.trainer import Trainer
from quell.training.training_loop import train

HERE = Path(__file__).parent
STUDY = HERE / "search_bank.toml"
BANK = Path("runs/search-bank.jsonl")
# Shares of the training audio: the ladders 1/16 to 1 and 1/8 to 1 by 2, and 1/8, 3/8, 1 by 3.
SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 1.0)

Searched = Mapping[str, Any]


@dataclass(frozen=True)
class Rung:
    """One configuration at one rung."""

    audio_hours: float
    train_s: float  # CPU time of the steps since the start of the training
    wall_s: float  # the same by the clock
    score_s: float  # wall time of scoring all mixtures, on two processes; at the last rung by every metric
    pesq: NDArray[np.float64]  # of each validation mixture


@dataclass(frozen=True)
class Configuration:
    """One line of a bank."""

    point: Searched  # the searched parameters
    rungs: tuple[Rung, ...]

    @classmethod
    def read(cls, line: str) -> "Configuration":
        stored = json.loads(line)
        rungs = [rung | {"pesq": np.array(rung.pop("milli_pesq")) / 1000} for rung in stored["rungs"]]
        return cls(stored["point"], tuple(Rung(**rung) for rung in rungs))

    def line(self) -> str:
        rungs = []
        for rung in self.rungs:
            seconds = {name: round(getattr(rung, name), 3) for name in ("train_s", "wall_s", "score_s")}
            scores = [round(1000 * score) for score in rung.pesq]
            rungs.append({"audio_hours": rung.audio_hours, **seconds, "milli_pesq": scores})
        return json.dumps({"point": dict(self.point), "rungs": rungs}, separators=(",", ":")) + "\n"


def read_bank(path: Path) -> list[Configuration]:
    """The configurations of a file; none if it does not exist."""
    return [Configuration.read(line) for line in path.read_text().splitlines()] if path.exists() else []


def searched(spec: StudySpec) -> list[Searched]:
    """All points of a space of choices: the default preset first, the others in random order."""
    choices = {name: domain.choices for name, domain in spec.search.items() if isinstance(domain, search_space.Choices)}
    points = [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]
    random.Random(0).shuffle(points)
    return sorted(points, key=lambda point: any(point[name] != PRESETS[DEFAULT][name] for name in point))


@dataclass(frozen=True)
class Bench:
    """The data that all configurations are trained and scored on."""

    spec: StudySpec
    corpus: Corpus
    validation: EvaluationSet
    scorer: Scorer

    def trainer(self, point: Searched) -> Trainer:
        full = dict(PRESETS[DEFAULT]) | dict(point)
        full |= {name: value for name, value in self.spec.search.items() if not isinstance(value, search_space.Choices)}
        hours = self.spec.training.audio_hours
        base = replace(self.spec.training_config(), rungs_audio_hours=tuple(hours * share for share in SHARES))
        model = search_space.denoiser_config(full, self.spec.corpus.sample_rate)
        config = search_space.training_config(full, base, self.spec.study.seed, model)
        return Trainer(model, config, self.corpus, torch.device("cpu"))

    def measure(self, point: Searched) -> Configuration:
        trainer = self.trainer(point)
        rungs = []
        cpu = wall = 0.0
        for hours in trainer.config.rungs_audio_hours:
            trainer.denoiser.train()
            began = time.process_time(), time.perf_counter()
            while trainer.steps_done < trainer.config.steps(hours):
                trainer.step()
            cpu, wall = cpu + time.process_time() - began[0], wall + time.perf_counter() - began[1]
            began_scoring = time.perf_counter()
            last = hours == trainer.config.rungs_audio_hours[-1]
            scores = score_denoiser(self.scorer, trainer.averaged, self.validation, None if last else ("pesq",))
            rungs.append(Rung(hours, cpu, wall, time.perf_counter() - began_scoring, scores.values["pesq"]))
        return Configuration(point, tuple(rungs))

    def check(self, configuration: Configuration) -> None:
        """Checks that `train` reaches the same scores to the last bit."""
        trainer = self.trainer(configuration.point)
        trained = train(trainer.model, trainer.config, self.corpus, self.validation, self.scorer)
        gap = np.abs(trained.scores.values["pesq"] - configuration.rungs[-1].pesq).max()
        if not gap == 0:
            raise SystemExit(
                f"{dict(configuration.point)}: PESQ is off by {gap} from quell.training.training_loop.train, expected 0"
            )


def fill(bench: Bench, path: Path, check: bool) -> None:
    """Trains the configurations that the file does not have."""
    done = [configuration.point for configuration in read_bank(path)]
    missing: Sequence[Searched] = [point for point in searched(bench.spec) if point not in done]
    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(elapsed_when_finished=True)) as bars:
        task = bars.add_task("configurations", total=len(done) + len(missing), completed=len(done))
        for point in missing:
            configuration = bench.measure(point)
            with path.open("a") as file:
                file.write(configuration.line())
            values = ", ".join(f"{value}" for value in point.values())
            scores = " ".join(f"{rung.pesq.mean():.3f}" for rung in configuration.rungs)
            seconds = configuration.rungs[-1].train_s
            bars.console.print(f"{values}: PESQ {scores} in {seconds:.0f} s", highlight=False)
            if check:
                bench.check(configuration)
                bars.console.print("equal to quell.training.training_loop.train")
                check = False
            bars.advance(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--study", type=Path, default=STUDY, help="a study that searches choices only")
    parser.add_argument("--bank", type=Path, default=BANK, help="the file that lines are appended to")
    parser.add_argument("--runs", type=Path, default=Path("runs/search"), help="for the decoded corpus")
    parser.add_argument(
        "--check", action="store_true", help="also train the first configuration with training_loop.train"
    )
    given = parser.parse_args()
    spec = study_file.load(given.study)
    torch.set_num_threads(1)
    corpus = prepare(spec.corpus_config(given.corpus), given.runs / "corpora")
    with Scorer(2) as scorer:
        count, seed = spec.training.validation_mixtures, spec.study.seed
        mixtures = evaluation_set(corpus, "validation", count, spec.corpus.snr_db, seed, scorer)
        print(f"noisy: PESQ {mixtures.noisy_scores.mean('pesq'):.3f}")
        fill(Bench(spec, corpus, mixtures, scorer), given.bank, given.check)


if __name__ == "__main__":
    main()
