"""Mixtures as a study's trainings draw them, to be listened to and looked at before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from quell.atomic import replacing
from quell.audio import FloatArray, writer
from quell.audio.alignment import MOST_DB, measured_snr_db
from quell.audio.formats import Format
from quell.corpus.memory_map import Corpus
from quell.errors import AudioError
from quell.progress import Progress
from quell_tuning.artifacts.clip_picture import ClipSignals, picture
from quell_tuning.study.study_file import StudySpec

PEAK = 0.5  # of the loudest of noisy and clean, so that the pictures' axes fit


def preview(spec: StudySpec, corpus: Corpus, count: int, folder: Path, progress: Progress) -> list[Path]:
    """Writes `count` mixtures of the training split as the study's first training would draw them: noisy, clean and
    noise as WAV, and a picture of the three; returns the noisy ones. Nothing that is there is replaced.

    The SNR in the name is measured over the mixture.

    Raises:
        AudioError: a file of that name is there, or the folder cannot be written.
    """
    from quell.mixing.training_mixtures import sampler

    drawn = sampler(spec.training_config(), corpus, torch.Generator().manual_seed(spec.study.seed))
    batches = [drawn.draw(1) for _ in range(count)]
    snrs_db = [measured_snr_db(batch.noisy[0].numpy(), batch.clean[0].numpy()) for batch in batches]
    # A mixture without noise or without speech has no SNR.
    levels = ["no-noise" if abs(snr_db) == MOST_DB else f"{snr_db:+05.1f}dB" for snr_db in snrs_db]
    names = [f"{number:03d}_{level}" for number, level in enumerate(levels)]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (there := next(folder.glob(f"{name}_*"), None)) is not None:
            raise AudioError(f"{there}: already there, expected a folder without previews; choose another -o")
    written = []
    for done, (name, batch) in enumerate(zip(names, batches, strict=True)):
        progress(done, count)
        noisy, clean = batch.noisy[0].numpy(), batch.clean[0].numpy()
        scale = np.float32(PEAK / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9))
        parts = {"noisy": scale * noisy, "clean": scale * clean, "noise": scale * (noisy - clean)}
        for part, samples in parts.items():
            _write(folder / f"{name}_{part}.wav", samples, corpus.sample_rate)
        shown = ClipSignals(parts["noisy"], parts["noise"], parts["clean"])
        headings = ("noisy", "noise", "clean")
        with replacing(folder / f"{name}_picture.png") as partial:
            level = "without noise" if levels[done] == "no-noise" else f"SNR {snrs_db[done]:.1f} dB"
            title = f"{spec.study.name}, training mixture {done}: {level}"
            partial.write_bytes(picture(shown, corpus.sample_rate, title, headings))
        written.append(folder / f"{name}_noisy.wav")
    return written


def _write(path: Path, samples: FloatArray, sample_rate: int) -> None:
    writer.write(path, samples, Format(sample_rate, "WAV", "PCM_16"))
