"""SI-SDR of recurrent networks on recordings longer than their training segments: one pass against shorter passes.

    python benchmarks/long_recordings.py --corpus FOLDER --weights FILE [FILE ...]

FILE: weights written by `benchmarks/presets.py`. Two minutes of validation speech in validation noise; the mean SI-SDR
over pieces of 4 s. A bidirectional recurrence gets windows of several lengths; a forward one is restarted as often,
with the preceding audio as context.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from header import header
from torch import Tensor

from quell.audio import FloatArray
from quell.corpus.memory_map import Corpus
from quell.corpus.recordings import CorpusConfig
from quell.corpus.store import prepare
from quell.levels import rms
from quell.metrics import intrusive
from quell.network.denoiser import Denoiser, load_weights

MINUTES, PIECE_S = 2, 4
SNRS_DB = (0, 10)
LENGTHS_S = (1, 2, 4, 8)


def mixture(corpus: Corpus, snr_db: float) -> tuple[FloatArray, FloatArray]:
    """(noisy, clean), the noisy peak at 0.3."""
    split = corpus.splits["validation"]
    length = MINUTES * 60 * corpus.sample_rate
    sides = (np.concatenate([split.waveform(clip) for clip in split.of(kind)]) for kind in ("clean", "noise"))
    clean, noise = (np.resize(side, length) for side in sides)
    noisy = clean + noise * (clean.std() / noise.std()) * 10 ** (-snr_db / 20)
    scale = 0.3 / np.abs(noisy).max()
    return scale * noisy, scale * clean


def in_passes(denoiser: Denoiser, noisy: Tensor, seconds: int) -> Tensor:
    """Passes over `seconds` and as much before, at the level of the whole recording."""
    step, level = seconds * denoiser.config.sample_rate, rms(noisy)
    done = []
    for start in range(0, noisy.shape[-1], step):
        begin = max(start - step, 0)
        done.append(denoiser(noisy[:, begin : start + step], level)[:, start - begin :])
    return torch.cat(done, -1)


def outputs(denoiser: Denoiser, noisy: Tensor) -> dict[str, Tensor]:
    recurrence = denoiser.network.bottleneck
    if denoiser.config.bottleneck != "both" or recurrence is None:
        passes = {f"{length} s": in_passes(denoiser, noisy, length) for length in LENGTHS_S}
        return {"one pass": denoiser(noisy), **passes}
    frames_per_s = denoiser.config.sample_rate / denoiser.config.hop_length / denoiser.network.time_factor
    by_length = {}
    for name, length in {"one pass": 10_000, **{f"{length} s": length for length in LENGTHS_S}}.items():
        recurrence.window = 2 * round(length * frames_per_s / 2)
        by_length[name] = denoiser(noisy)
    return by_length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, required=True, help="folder with speech/ and noise/")
    parser.add_argument("--weights", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    print(header(f"python benchmarks/long_recordings.py {' '.join(sys.argv[1:])}"))
    print("| weights | SNR (dB) | one pass | " + " | ".join(f"{length} s" for length in LENGTHS_S) + " |")
    print("|---" * (3 + len(LENGTHS_S)) + "|")
    for path in given.weights:
        denoiser = load_weights(path)
        rate = denoiser.config.sample_rate
        config = CorpusConfig(given.corpus / "speech", given.corpus / "noise", rate, group_noise=r"^\d-(\d+)-")
        with tempfile.TemporaryDirectory() as store, torch.inference_mode():
            corpus = prepare(config, Path(store))
            for snr_db in SNRS_DB:
                noisy, clean = mixture(corpus, snr_db)
                pieces = range(0, len(clean), PIECE_S * rate)
                row = []
                for output in outputs(denoiser, torch.from_numpy(noisy).float()[None]).values():
                    ours = output[0].numpy()
                    scores = [intrusive.si_sdr(ours[i : i + pieces.step], clean[i : i + pieces.step]) for i in pieces]
                    row.append(f"{np.mean(scores):.2f}")
                print(f"| {path.stem} | {snr_db} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
