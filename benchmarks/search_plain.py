"""A plain Optuna search: study.optimize, every trial trained to the end; the baseline of `search_efficiency.py`.

    python benchmarks/search_plain.py --corpus FOLDER --runs FOLDER --sampler tpe

Runs until it is interrupted; the study is in RUNS/quell.db.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from quell_tuning.study import search_space, study_file
from quell_tuning.study.study_file import StudySpec

from quell.corpus.memory_map import Corpus
from quell.corpus.store import prepare
from quell.metrics.scorer import Scorer
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set
from quell.training.training_loop import train

STUDY = Path(__file__).with_name("search_efficiency.toml")
SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}


def mixtures(spec: StudySpec, corpus: Corpus, scorer: Scorer) -> EvaluationSet:
    """The validation mixtures of a study."""
    count, seed = spec.training.validation_mixtures, spec.study.seed
    return evaluation_set(corpus, "validation", count, spec.corpus.snr_db, seed, scorer)


def search(spec: StudySpec, corpus: Corpus, sampler: str, storage: str) -> None:
    base = replace(spec.training_config(), rungs_audio_hours=(spec.training.audio_hours,))
    with Scorer(torch.get_num_threads()) as scorer:
        validation = mixtures(spec, corpus, scorer)

        def objective(trial: optuna.Trial) -> float:
            point = search_space.suggest(trial, spec.search)
            model = search_space.denoiser_config(point, spec.corpus.sample_rate)
            config = search_space.training_config(point, base, spec.study.seed, model)
            return train(model, config, corpus, validation, scorer).scores.mean(spec.study.score)

        study = optuna.create_study(
            study_name=spec.study.name,
            storage=storage,
            direction="maximize",
            sampler=SAMPLERS[sampler](seed=spec.study.seed),
        )
        study.optimize(objective)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--runs", type=Path, required=True, help="for the database and the decoded corpus")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = study_file.load(given.study)
    corpus = prepare(spec.corpus_config(given.corpus), given.runs / "corpora")
    try:
        search(spec, corpus, given.sampler, f"sqlite:///{given.runs / 'quell.db'}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
