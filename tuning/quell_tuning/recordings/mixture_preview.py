"""Mixtures as a study's trainings draw them, to be listened to and looked at before anything is trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from quell.atomic import replacing
from quell.audio import FloatArray, writer
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
    names = [f"{number:03d}_{_level(batch.noisy[0], batch.clean[0])}" for number, batch in enumerate(batches)]
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
            title = f"{spec.study.name}, training mixture {done}: {_said(batch.noisy[0], batch.clean[0])}"
            partial.write_bytes(picture(shown, corpus.sample_rate, title, headings))
        written.append(folder / f"{name}_noisy.wav")
    return written


def _write(path: Path, samples: FloatArray, sample_rate: int) -> None:
    writer.write(path, samples, Format(sample_rate, "WAV", "PCM_16"))


def _snr_db(noisy: torch.Tensor, clean: torch.Tensor) -> float | None:
    noise = (noisy - clean).double().square().sum()
    speech = clean.double().square().sum()
    return None if noise == 0 or speech == 0 else float(10 * torch.log10(speech / noise))


def _level(noisy: torch.Tensor, clean: torch.Tensor) -> str:
    snr_db = _snr_db(noisy, clean)
    return "no-noise" if snr_db is None else f"{snr_db:+05.1f}dB"


def _said(noisy: torch.Tensor, clean: torch.Tensor) -> str:
    snr_db = _snr_db(noisy, clean)
    return "without noise" if snr_db is None else f"SNR {snr_db:.1f} dB"
