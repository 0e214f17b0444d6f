"""Names with their units, numbers as people read them, and a denoiser's configuration in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from quell.config import LOSS_WEIGHTS, loss_terms
from quell.metrics import dnsmos
from quell.metrics.intrusive import UNITS

NAMES = {"pesq": "PESQ", "stoi": "STOI", "estoi": "ESTOI", "si_sdr": "SI-SDR", "macs": "multiply-accumulates"}
TWO_DIGITS = ("pesq", "si_sdr", *dnsmos.NAMES)
# First digits of numbers, from the roundest on.
ROUND: Sequence[Sequence[float]] = (
    (1,),
    (1, 2, 5),
    (1, 1.5, 2, 3, 5, 7),
    (1, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.8, 2, 2.2, 2.5, 2.8, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6.5, 7, 8, 9),
)

# What a name means; a text may hold the names of other values.
MEANINGS: Mapping[str, Mapping[Any, str]] = {
    "representation": {"power": "magnitude ** {power:g}", "linear": "magnitude", "log": "magnitude in dB"},
    "target": {"mask": "a mask", "noise": "the noise, to be subtracted", "direct": "the clean spectrogram"},
    "phase": {"noisy": "the noisy phase is kept", "estimated": "the phase is heard and turned"},
    "downsampling": {"stride": "strides", "pool": "max-pooling"},
    "time_stride": {1: "of 2 in frequency only", 2: "of 2 in frequency and, from the second level on, in time"},
    "skips": {True: "with skips", False: "without skips"},
    "normalisation": {"batch": "over the batch", "frame": "of each frame by itself", "none": "none"},
    "activation": {"leaky_relu": "leaky ReLU", "prelu": "PReLU", "elu": "ELU"},
    "bottleneck": {
        "none": "none",
        "frequency": "GRU over frequency, {bottleneck_units} units each way",
        "forward": "GRU over time, forwards, {bottleneck_units} units",
        "both": "GRU over time in both directions, {bottleneck_units} units each: offline only",
    },
    "optimiser": {"adamw": "AdamW", "muon": "Muon, AdamW for what is no matrix"},
    "causal": {
        True: "yes: convolutions hear no frame after the one they answer",
        False: "no: convolutions hear later frames, too",
    },
}
CONFIGURATION = (
    ("window", "{win_ms:.4g} ms ({win_length} samples at {sample_rate} Hz), hop {hop_ms:.4g} ms ({hop_length})"),
    ("spectrogram -> target", "{representation} -> {target}"),
    ("phase", "{phase}"),
    ("network", "{depth} levels {skips}, {base_channels} channels, at each level {growth:.3g} times as many"),
    ("convolutions", "{convolution}, {kernel_bins} bins x {kernel_frames} frames, {convolutions_per_level} a level"),
    ("downsampling", "{downsampling} {time_stride}"),
    ("normalisation", "{normalisation}"),
    ("activation", "{activation}; the last one {output}"),
    ("dropout", "{dropout:.3g}"),
    ("bottleneck", "{bottleneck}"),
    ("causal", "{causal}"),
    ("loss", "{loss}"),
    ("optimiser", "{optimiser}"),
    ("learning rate", "{learning_rate:.3g}"),
    ("batch", "{batch_size} segments of {segment_s:g} s"),
)


def title(name: str) -> str:
    """A score with its unit, as an axis says it: `PESQ (MOS-LQO)`."""
    unit = "MAC/s" if name == "macs" else UNITS.get(name)
    return f"{plain(name)} ({unit})" if unit else plain(name)


def plain(name: str) -> str:
    """A score's name without its unit."""
    return NAMES.get(name, name.replace("_", " "))


def number(name: str, value: float, sign: str = "") -> str:
    """A score with the digits that mean something; `sign` "+" for a difference."""
    if name in ("macs", "parameters"):
        return f"{value:{sign},.0f}"
    return f"{value:{sign}.2f}" if name in TWO_DIGITS else f"{value:{sign}.3f}"


def configuration(denoiser: Mapping[str, Any], training: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a denoiser is and how it was trained, as (what, words).

    Args:
        denoiser, training: fields of `DenoiserConfig` and of `TrainingConfig`; what an older study does not know of
            them is left out.
    """
    known = in_ms(denoiser, training)
    with suppress(KeyError):
        known["loss"] = _loss(known["loss"], known.get("loss_weights", {}))
    for name, meanings in MEANINGS.items():
        with suppress(KeyError):
            known[name] = meanings[known[name]].format_map(known)
    rows = []
    for what, words in CONFIGURATION:
        with suppress(KeyError):
            rows.append((what, words.format_map(known)))
    return rows


def in_ms(denoiser: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of both, and window and hop as `win_ms` and `hop_ms` where they are known."""
    known: dict[str, Any] = {**denoiser, **training}
    with suppress(KeyError):
        known["win_ms"] = known["win_length"] / known["sample_rate"] * 1000
        known["hop_ms"] = known["hop_length"] / known["sample_rate"] * 1000
    return known


def domain(searched: Mapping[str, Any]) -> str:
    """What a parameter is searched over, as a study file has it."""
    if "choices" in searched:
        return ", ".join(map(value, searched["choices"]))
    step = f" in steps of {value(searched['step'])}" if searched.get("step") else ""
    return (
        f"{value(searched['low'])} to {value(searched['high'])}{step}{', logarithmic' if searched.get('log') else ''}"
    )


def value(given: object) -> str:
    """A parameter's value."""
    return str(given).lower() if isinstance(given, bool) else f"{given:.4g}" if isinstance(given, float) else str(given)


def _loss(name: str, weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weights.get(term, LOSS_WEIGHTS[term]):.3g} x {term}" for term in loss_terms(name))


def round_numbers(low: float, high: float) -> list[float]:
    """The roundest numbers between two, three at least unless they lie closer than a fifth: for logarithmic axes."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for digits in ROUND:
        numbers = [float(f"{digit * 10.0**power:g}") for power in powers for digit in digits]
        found = [number for number in numbers if low <= number <= high]
        if len(found) >= 3:
            break
    return found
