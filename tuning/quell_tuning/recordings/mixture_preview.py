"""Examples of a study's training mixtures as WAV files and pictures, before anything is trained."""

from pathlib import Path

import numpy as np
import torch

from quell.atomic import replacing
from quell.audio import writer
from quell.audio.alignment import MOST_DB, measured_snr_db
from quell.audio.formats import Format
from quell.corpus.memory_map import Corpus
from quell.errors import AudioError
from quell.progress import Progress
from quell_tuning.artifacts.clip_picture import ClipSignals, picture
from quell_tuning.study.study_file import StudySpec

PEAK = 0.5  # of the louder of noisy and clean: fits the axes of the pictures


def preview(spec: StudySpec, corpus: Corpus, count: int, folder: Path, progress: Progress) -> list[Path]:
    """Writes the first `count` mixtures of the study's first training: noisy, clean and noise as WAV, and a picture of
    the three; returns the noisy files. Never replaces a file.

    The SNR in the name is measured over the mixture.

    Raises:
        AudioError: a file of that name exists, or the folder cannot be written.
    """
    from quell.mixing.training_mixtures import sampler

    mixtures = sampler(spec.training_config(), corpus, torch.Generator().manual_seed(spec.study.seed))
    batches = [mixtures.draw(1) for _ in range(count)]
    snrs_db = [measured_snr_db(batch.noisy[0].numpy(), batch.clean[0].numpy()) for batch in batches]
    # A mixture without noise or without speech has no SNR.
    levels = ["no-noise" if abs(snr_db) == MOST_DB else f"{snr_db:+05.1f}dB" for snr_db in snrs_db]
    names = [f"{number:03d}_{level}" for number, level in enumerate(levels)]
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (existing := next(folder.glob(f"{name}_*"), None)) is not None:
            raise AudioError(f"{existing}: exists already, expected a folder without previews; choose another -o")
    wav = Format(corpus.sample_rate, "WAV", "PCM_16")
    for done, (name, batch) in enumerate(zip(names, batches, strict=True)):
        progress(done, count)
        noisy, clean = batch.noisy[0].numpy(), batch.clean[0].numpy()
        scale = np.float32(PEAK / max(float(np.abs(noisy).max()), float(np.abs(clean).max()), 1e-9))
        parts = {"noisy": scale * noisy, "clean": scale * clean, "noise": scale * (noisy - clean)}
        for part, samples in parts.items():
            writer.write(folder / f"{name}_{part}.wav", samples, wav, overwrite=False)
        signals = ClipSignals(parts["noisy"], parts["noise"], parts["clean"])
        headings = ("noisy", "noise", "clean")
        with replacing(folder / f"{name}_picture.png") as partial:
            level = "without noise" if levels[done] == "no-noise" else f"SNR {snrs_db[done]:.1f} dB"
            title = f"{spec.study.name}, training mixture {done}: {level}"
            partial.write_bytes(picture(signals, corpus.sample_rate, title, headings))
    return [folder / f"{name}_noisy.wav" for name in names]
