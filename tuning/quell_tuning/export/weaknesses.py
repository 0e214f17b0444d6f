"""Where an exported denoiser is weak: what its scores say, and what training did not let it hear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from quell.metrics.intrusive import UNITS
from quell_tuning.formatting import number

if TYPE_CHECKING:
    from quell.corpus.memory_map import Corpus
    from quell.metrics.scorer import Scores
    from quell_tuning.export.chosen_trial import Made, Validation

SHOWN = 3  # kinds of noise with the least gain


class NoiseKind(NamedTuple):
    """What became of the clips with one kind of noise."""

    name: str
    clips: int
    gain: dict[str, float]
    worse: float  # share of them with less STOI


def text(made: Made) -> str:
    """Markdown: the SNRs, clips and kinds of noise with least gain, as far as scores are there, and what was never
    heard."""
    parts = []
    if made.validation is not None and made.corpus is not None:
        parts = [_scores(made.validation), _kinds(by_noise(made.validation, made.corpus))]
    missing = (f"- {what}" for what in unheard(made.metadata, made.corpus))
    parts += ["Never heard in training:", "\n".join(missing)]
    return "\n\n".join(part for part in parts if part)


def unheard(metadata: dict[str, Any], corpus: Corpus | None) -> list[str]:
    """What can be told from its data that a denoiser does not know."""
    low, high = metadata["training"]["snr_db"]
    found = [f"noise louder than {low:g} dB SNR, or softer than {high:g} dB"]
    if corpus is not None:
        train = corpus.splits["train"]
        if train.of("noisy"):
            found = ["noise of other kinds, or louder, than in the pairs of recordings"]
        noises = sorted({clip.category for clip in train.of("noise")})
        speakers = len({clip.group for clip in train.of("clean")})
        if any(noises):
            found.append(f"noises other than {', '.join(noises)}")
        found.append(f"voices and languages other than those of {speakers} groups of speech")
        if not train.of("room") or metadata["training"].get("rooms") == 0:
            found.append("reverberation that was not recorded with the speech")
    found.append(f"sound above {metadata['sample_rate'] / 2000:g} kHz, which does not come back")
    return found


def _scores(validation: Validation) -> str:
    noisy, denoised = validation.noisy, validation.denoised
    return "\n".join([_least(noisy, denoised), _on_top(noisy, denoised), _worst(validation)])


def _kinds(kinds: list[NoiseKind]) -> str:
    """A table of the kinds of noise with the least gain."""
    if not kinds:
        return ""
    names = list(kinds[0].gain)
    rows = [
        "| noise with least gain | clips | " + " | ".join(names) + " | made worse (stoi) |",
        "|---" * (3 + len(names)) + "|",
    ]
    for kind in sorted(kinds, key=lambda kind: kind.gain[names[0]])[:SHOWN]:
        gains = " | ".join(number(name, kind.gain[name], "+") for name in names)
        rows.append(f"| {kind.name} | {kind.clips} | {gains} | {kind.worse:.0%} |")
    return "\n".join(rows)


def by_noise(validation: Validation, corpus: Corpus) -> list[NoiseKind]:
    """What became of each kind of noise that has a name."""
    named = {clip.path: clip.category for clip in corpus.splits["validation"].of("noise")}
    kinds = np.array([named.get(label.rpartition(" + ")[2], "") for label in validation.labels])
    return [_kind(str(kind), validation, kinds == kind) for kind in np.unique(kinds) if kind]


def _kind(name: str, validation: Validation, chosen: NDArray[np.bool_]) -> NoiseKind:
    noisy, denoised = validation.noisy.of_clips(chosen), validation.denoised.of_clips(chosen)
    gain = {metric: denoised.mean(metric) - noisy.mean(metric) for metric in denoised.values}
    return NoiseKind(name, int(chosen.sum()), gain, denoised.worse_than(noisy, "stoi"))


def _least(noisy: Scores, denoised: Scores) -> str:
    """The SNR with the least gain."""
    name, before = next(iter(denoised.values)), noisy.by_snr()
    gains = {snr_db: means[name] - before[snr_db][name] for snr_db, means in denoised.by_snr().items()}
    least = min(gains, key=lambda snr_db: gains[snr_db])
    return f"- {least:g} dB SNR: {name} {number(name, gains[least], '+')} {UNITS[name]}, the least gain of all SNRs"


def _on_top(noisy: Scores, denoised: Scores) -> str:
    top = float(noisy.snr_db.max())
    at_top = noisy.snr_db == top
    before, after = noisy.of_clips(at_top), denoised.of_clips(at_top)
    shares = ", ".join(f"{name} {after.worse_than(before, name):.0%}" for name in after.values)
    return f"- {top:g} dB SNR, the highest: clips made worse in {shares}"


def _worst(validation: Validation) -> str:
    name = "si_sdr"
    gains = validation.denoised.values[name] - validation.noisy.values[name]
    place = int(gains.argmin())
    where = f"`{validation.labels[place]}` at {validation.noisy.snr_db[place]:g} dB SNR"
    return f"- the clip that fares worst: {where}, {name} {number(name, gains[place], '+')} dB"
