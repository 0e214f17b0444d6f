"""Where a number of a training or a score changes, the recipe is raised: with fixed inputs all are as recorded.

After the recipe was raised, record them anew in tests/data/recipe.json:

    PYTHONPATH=tests/support python tests/test_recipe.py

The inputs are made from integers; the recorded numbers are of one CPU with AMX.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import compatibility as support
import numpy as np
import pytest
import torch
from quell_tuning.study.presets import PRESETS
from quell_tuning.study.search_space import denoiser_config, training_config

from quell.config import MixingConfig, TrainingConfig
from quell.corpus.memory_map import Clip, Corpus, Split
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.metrics.scorer import Scorer
from quell.mixing import recipe
from quell.mixing.evaluation_mixtures import EvaluationSet, evaluation_set, score_denoiser
from quell.mixing.training_mixtures import MixtureSampler
from quell.training.trainer import Trainer
from quell.training.training_loop import train

RECORDED = Path(__file__).parent / "data" / "recipe.json"
RATE = support.RATE
# Largest differences on other CPUs, relative to a number or to 1, whichever is larger.
# Measured with torch, oneDNN and OpenBLAS held to AVX2 and to SSE: 2e-13, 2.4e-7, 4.5e-5 and 1.4e-4 in the last four.
TOLERANCES = {"recipes": 0.0, "corpus": 0.0, "sets": 1e-5, "mixtures": 2e-6, "steps": 5e-4, "training": 2e-3}
EVERYTHING = MixingConfig(
    rooms=0.0, clean=0.1, second_noise=0.5, colour_db=5, snr_active=True, band_limit=0.5, clipping=0.5, level_db=10
)
STEPS = 3
TRAINED = ("phase-unet", "residual-unet", "logspec-unet")  # between them most options, losses and both optimisers


def numbers(folder: Path, scorer: Scorer) -> dict[str, Any]:
    """All that is compared."""
    torch.set_num_threads(1)
    support.write_recordings(folder / "recordings")
    config = CorpusConfig(folder / "recordings" / "speech", folder / "recordings" / "noise", RATE, group_noise="file")
    corpus = prepare(config, folder / "store")
    utterances = evaluation_set(corpus, "validation", 6, (-5.0, 20.0), 0, scorer)
    sessions = evaluation_set(session(folder / "session"), "validation", 3, (0.0, 10.0), 0, scorer)
    return {
        "recipes": [recipe.RECIPE, recipe.RECIPE_OF_UTTERANCES],
        "corpus": {path.name: digest(path) for path in sorted(corpus.folder.glob("*.int16"))},
        "sets": {"utterances": of_set(utterances), "sessions": of_set(sessions), **denoised(utterances, scorer)},
        "mixtures": {"default": batch(corpus, MixingConfig()), "everything": batch(corpus, EVERYTHING)},
        "steps": {preset: steps(preset, corpus) for preset in TRAINED},
        "training": training(corpus, utterances, scorer),
    }


def session(folder: Path) -> Corpus:
    """A corpus of one long recording that begins with a pause, and a noise."""
    folder.mkdir()
    pause = support.hiss(12 * RATE, "pause") // 64
    speech = np.concatenate([pause, support.voice(30 * RATE, 130, RATE), pause]).astype(np.int16)
    noise = support.hiss(4 * RATE, "noise").astype(np.int16)
    clips = [Clip("clean", "s.wav", "s", "", 0, len(speech)), Clip("noise", "n.wav", "n", "", len(speech), len(noise))]
    return Corpus(folder, "session", RATE, {"validation": Split(np.concatenate([speech, noise]), clips)})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def of_set(mixtures: EvaluationSet) -> dict[str, Any]:
    return {
        "labels": mixtures.labels,
        "snr_db": mixtures.snr_db.tolist(),
        "noisy": [rms(noisy) for noisy in mixtures.noisy],
        "scores": {name: values.tolist() for name, values in mixtures.noisy_scores.values.items()},
    }


def rms(samples: Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(samples, np.float64)))))


def denoised(mixtures: EvaluationSet, scorer: Scorer) -> dict[str, Any]:
    scores = score_denoiser(scorer, lambda noisy: noisy.clamp(-0.2, 0.2), mixtures)
    return {"clipped": {name: values.tolist() for name, values in scores.values.items()}}


def batch(corpus: Corpus, config: MixingConfig) -> list[dict[str, Any]]:
    drawn = MixtureSampler(corpus.splits["train"], RATE, RATE, torch.Generator().manual_seed(0), config).draw(8)
    return [support.record(side.flatten().numpy()) for side in drawn]


def steps(preset: str, corpus: Corpus) -> dict[str, Any]:
    """Seed, losses, learning rates and movement of the weights of a preset's first steps."""
    point = {**PRESETS[preset], "batch_size": 2}
    model = denoiser_config(point, RATE)
    base = TrainingConfig(rungs_audio_hours=(20 / 3600,), segment_s=0.5, precision="float32")
    config = training_config(point, base, 0, model)
    trainer = Trainer(model, config, corpus, torch.device("cpu"))
    before = weights(trainer.averaged)
    losses = [trainer.step() for _ in range(STEPS)]
    return {
        "seed": str(config.seed),
        "initial": before.norm().item(),
        "losses": losses,
        "movement": (weights(trainer.averaged) - before).norm().item(),
        "rates": rates(trainer),
    }


def rates(trainer: Trainer) -> list[float]:
    """Learning rates, relative to the peak, from the beginning to the end of a training."""
    shares = []
    for done in range(0, trainer.total, 4):
        trainer.steps_done = done
        shares.append(trainer.learning_rate() / trainer.config.learning_rate)
    return shares


def weights(denoiser: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in denoiser.parameters()]).double()


def training(corpus: Corpus, mixtures: EvaluationSet, scorer: Scorer) -> dict[str, Any]:
    """Scores at the rungs of a short training."""
    point = {**PRESETS["compressed-unet"], "depth": 2, "base_channels": 4}
    model = denoiser_config(point, RATE)
    config = replace(TrainingConfig(), rungs_audio_hours=(10 / 3600, 20 / 3600), segment_s=0.5, precision="float32")
    rungs: list[list[float]] = []
    trained = train(
        model,
        config,
        corpus,
        mixtures,
        scorer,
        metric="si_sdr",
        on_rung=lambda hours, clips: rungs.append([hours, len(clips), float(clips.mean())]),
    )
    return {"rungs": rungs, "means": trained.scores.means()}


def changes(then: Any, now: Any, tolerance: float, at: str) -> list[str]:
    """What is another number, a line each."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = sorted({*then, *now})
        return [line for key in keys for line in changes(then.get(key), now.get(key), tolerance, f"{at}.{key}")]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [line for place, pair in pairs for line in changes(*pair, tolerance, f"{at}[{place}]")]
    if isinstance(then, float) and isinstance(now, float) and tolerance:
        same = math.isclose(then, now, rel_tol=tolerance, abs_tol=tolerance)
    else:
        same = then == now
    return [] if same else [f"{at}: {then!r} then, {now!r} now"]


@pytest.fixture(scope="module")
def now(tmp_path_factory: pytest.TempPathFactory, scorer: Scorer) -> dict[str, Any]:
    threads = torch.get_num_threads()
    values = numbers(tmp_path_factory.mktemp("recipe"), scorer)
    torch.set_num_threads(threads)
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


@pytest.mark.parametrize("section", TOLERANCES)
def test_the_numbers_of_trainings_and_scores_are_those_of_the_recipe(now: dict[str, Any], section: str) -> None:
    then = json.loads(RECORDED.read_text())
    recorded = "then record the numbers anew, as the first lines of this file say"
    assert then["recipes"] == now["recipes"], f"the recipe was raised; {recorded}"
    lines = changes(then[section], now[section], TOLERANCES[section], section)
    advice = f"raise the recipe in src/quell/mixing/recipe.py if this is meant, {recorded}"
    assert not lines, "\n".join([advice, *lines[:20]])


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as scratch, Scorer(1) as one:
        sections = numbers(Path(scratch), one).items()
        RECORDED.write_text(
            "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(of)}" for key, of in sections) + "\n}\n"
        )
    print(RECORDED, file=sys.stderr)
