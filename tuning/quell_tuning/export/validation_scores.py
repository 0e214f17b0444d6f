"""What an exported file scores on the validation mixtures, and where it is weak: Markdown for the model card."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from quell.corpus.memory_map import Corpus
from quell.metrics.intrusive import UNITS
from quell.metrics.scorer import Scores
from quell_tuning.formatting import number
from quell_tuning.markdown import plain_table

WEAKEST_NOISES = 3  # rows of the table of noise categories
# Largest differences of a metric's mean that are float noise. Three small trained networks over 24 mixtures: the file
# differs from its network by 1e-5 at most, products rounded to TF32, as a GPU's are, by .0058, .00013, .00014, .013.
NOISE = {"pesq": 0.02, "stoi": 0.002, "estoi": 0.003, "si_sdr": 0.1}


@dataclass(frozen=True)
class Validation:
    """Scores of the noisy validation mixtures and of the exported file's output for them."""

    noisy: Scores
    denoised: Scores
    labels: list[str]  # "speaker/utterance.flac + rain/1-2-A.ogg"


def unlike(found: Mapping[str, float], expected: Mapping[str, float], noise: float = 1.0) -> str:
    """The first metric whose means differ by more than `noise` times NOISE; empty if none does, or they share none."""
    for name in found.keys() & expected.keys():
        if not abs(found[name] - expected[name]) <= noise * NOISE[name]:  # written so that NaN differs, too
            return f"{name} {number(name, found[name])}, expected {number(name, expected[name])}"
    return ""


def uncompared(validation: Validation, noisy: Mapping[str, float], denoised: Mapping[str, float]) -> str:
    """Why a file's scores cannot be compared with those of its trial (means); empty where they can."""
    if not denoised:
        return "it has no scores"
    if unlike(validation.noisy.means(), noisy, noise=0.1):
        return "it was scored on other mixtures, by an earlier Quell"
    return ""


def score_table(validation: Validation) -> str:
    """Each metric before and after, its gain and the gain's interval: a row for each SNR, and one for all mixtures."""
    noisy, denoised = validation.noisy, validation.denoised
    names = list(denoised.values)
    rows = []
    for snr_db in np.unique(denoised.snr_db):
        clips = denoised.snr_db == snr_db
        rows.append([f"{snr_db:g}", *_cells(noisy.of_clips(clips), denoised.of_clips(clips))])
    rows.append(["all", *_cells(noisy, denoised)])
    rows.append(["made worse", *(f"{denoised.worse_than(noisy, name):.0%}" for name in names)])
    return plain_table(["SNR, dB", *(f"{name} ({UNITS[name]})" for name in names)], rows)


def _cells(noisy: Scores, denoised: Scores) -> list[str]:
    cells = []
    for name in denoised.values:
        gain, low, high = (number(name, value, "+") for value in denoised.gain_over(noisy, name))
        before, after = number(name, noisy.mean(name)), number(name, denoised.mean(name))
        cells.append(f"{before} -> {after}, {gain} [{low}, {high}]")
    return cells


def weak_spots(validation: Validation) -> str:
    """A list: the SNR with the least gain, clips made worse at the highest SNR, and the worst clip."""
    noisy, denoised = validation.noisy, validation.denoised
    name, before = next(iter(denoised.values)), noisy.by_snr()
    gains = {snr_db: means[name] - before[snr_db][name] for snr_db, means in denoised.by_snr().items()}
    least = min(gains, key=lambda snr_db: gains[snr_db])
    shares = ", ".join(f"{name} {share:.0%}" for name, share in denoised.worse_at_highest_snr(noisy).items())
    clip, lost = denoised.worst_clip(noisy, "si_sdr")
    label = f"`{validation.labels[clip]}` at {noisy.snr_db[clip]:g} dB SNR"
    return "\n".join(
        [
            f"- {least:g} dB SNR: {name} {number(name, gains[least], '+')} {UNITS[name]}, the least gain of all SNRs",
            f"- {max(gains):g} dB SNR, the highest: clips made worse in {shares}",
            f"- the worst clip: {label}, si_sdr {number('si_sdr', lost, '+')} dB",
        ]
    )


def weakest_noises(validation: Validation, corpus: Corpus) -> str:
    """A table of the noise categories with the least gain in the first metric; empty when no noise has a category."""
    categories = {clip.path: clip.category for clip in corpus.splits["validation"].of("noise")}
    of_clips = np.array([categories.get(label.rpartition(" + ")[2], "") for label in validation.labels])
    names = list(validation.denoised.values)
    rows = []
    for category in filter(None, np.unique(of_clips)):
        clips = of_clips == category
        noisy, denoised = validation.noisy.of_clips(clips), validation.denoised.of_clips(clips)
        gains = [denoised.mean(name) - noisy.mean(name) for name in names]
        cells = [number(name, gain, "+") for name, gain in zip(names, gains, strict=True)]
        worse = f"{denoised.worse_than(noisy, 'stoi'):.0%}"
        rows.append((gains[0], [str(category), str(clips.sum()), *cells, worse]))
    rows.sort(key=lambda row: row[0])
    header = ["noise with least gain", "clips", *names, "made worse (stoi)"]
    return plain_table(header, [cells for _, cells in rows[:WEAKEST_NOISES]]) if rows else ""
