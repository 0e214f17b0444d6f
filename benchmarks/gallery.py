"""Cost of a trial's gallery for its worker: CPU and wall seconds per part, and bytes.

    python benchmarks/gallery.py

Four clips as long as the longest mixtures, 8 s of noise at 16 kHz, which nothing compresses; the preset
compressed-unet, untrained, on one thread; a folder for the artifacts and an SQLite database, as in `quell tune`. The
first trial of a worker also loads matplotlib and draws the axes that the others reuse.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np
import optuna
import torch
from header import header
from optuna.artifacts import FileSystemArtifactStore
from quell_tuning.artifacts import gallery
from quell_tuning.storage.backends import open_storage
from quell_tuning.study import search_space
from quell_tuning.study.presets import DEFAULT, PRESETS

from quell.metrics.scorer import Scores
from quell.mixing.evaluation_mixtures import LONGEST_S, EvaluationSet
from quell.network.denoiser import Denoiser

P = ParamSpec("P")
T = TypeVar("T")

RATE = 16_000
TRIALS = 20
PARTS = {"denoise": "_denoised", "WAV": "_wav", "picture": "picture", "store": "_stored"}  # functions of the gallery


class Times:
    """CPU seconds of this thread and wall seconds, by part of a trial."""

    def __init__(self) -> None:
        self.of: dict[str, list[float]] = {}

    def timed(self, name: str, function: Callable[P, T]) -> Callable[P, T]:
        def measured(*args: P.args, **kwargs: P.kwargs) -> T:
            cpu, clock = time.thread_time(), time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = self.of.setdefault(name, [0.0, 0.0])
                spent[0] += time.thread_time() - cpu
                spent[1] += time.perf_counter() - clock

        return measured


def mixtures() -> EvaluationSet:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, gallery.CLIPS, round(LONGEST_S * RATE))).astype(np.float32)
    noisy, clean = 0.5 * noise / np.abs(noise).max(axis=-1, keepdims=True)
    labels = [f"speaker{clip}/1.flac + noise{clip}/1.ogg" for clip in range(gallery.CLIPS)]
    snr_db = np.array([-5.0, 5.0, 10.0, 20.0])
    scores = Scores({name: np.ones(gallery.CLIPS) for name in ("pesq", "stoi", "estoi", "si_sdr")}, snr_db, 0)
    return EvaluationSet(RATE, list(noisy), list(clean), labels, snr_db, scores)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> None:
    torch.set_num_threads(1)
    times = Times()
    for name, function in PARTS.items():
        setattr(gallery, function, times.timed(name, getattr(gallery, function)))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = mixtures()
    # Eval mode and memory format as after training.
    denoiser = (
        Denoiser(search_space.denoiser_config(PRESETS[DEFAULT], RATE)).eval().to(memory_format=torch.channels_last)
    )  # type: ignore[call-overload]
    with torch.inference_mode():
        denoiser(torch.from_numpy(shown.noisy[0])[None])  # warm, as after the validation set
    print(header("python benchmarks/gallery.py"))
    rows = []
    with tempfile.TemporaryDirectory() as place:
        storage = open_storage(f"sqlite:///{place}/q.db", create=True)
        folder = Path(place) / "artifacts"
        folder.mkdir()
        store = FileSystemArtifactStore(folder)
        study = optuna.create_study(storage=storage, study_name="gallery")
        showcase = gallery.store_study_clips(study, shown, store)
        of_study = size(folder)
        store_clips = times.timed("all", gallery.store_trial_clips)
        for _ in range(1 + TRIALS):
            times.of.clear()
            trial = study.ask()
            store_clips(trial, showcase, shown, denoiser, shown.noisy_scores, store)
            assert "gallery" in trial.user_attrs
            study.tell(trial, 1.0)
            spent = np.array([times.of[name] for name in (*PARTS, "all")])
            rest = spent[-1] - spent[:-1].sum(axis=0)
            rows.append(np.vstack([spent[:-1], rest, spent[-1]]))
        of_trial = (size(folder) - of_study) / len(rows)
        storage.close()
    median, highest = np.median(rows[1:], axis=0), np.max(rows[1:], axis=0)
    print(f"| part | CPU, s | clock, s | highest of {TRIALS} | first trial: CPU, s | clock, s |")
    print("|---|---|---|---|---|---|")
    for place, name in enumerate((*PARTS, "database", "all")):
        cells = [*median[place], highest[place, 1], *rows[0][place]]
        print(f"| {name} | " + " | ".join(f"{seconds:.3f}" for seconds in cells) + " |")
    print(f"\nBytes: {of_trial / 1e6:.2f} MB a trial, {of_study / 1e6:.2f} MB once for the study.")


if __name__ == "__main__":
    main()
