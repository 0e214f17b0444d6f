"""What can be chosen: names, shapes of networks, trainings, and which of them go together. Needs no torch, so that a
study file is read in a moment."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

DOWNSAMPLINGS = ("stride", "pool")
BOTTLENECKS = ("none", "frequency", "forward", "both")
CONVOLUTIONS = ("full", "separable")
NORMALISATIONS = ("batch", "frame", "none")
ACTIVATIONS = ("leaky_relu", "prelu", "elu")
# What the network's last value passes through; ranges [0, 1], [-1, 1], [0, inf), all.
OUTPUTS = ("sigmoid", "tanh", "softplus", "linear")
REPRESENTATIONS = ("power", "linear", "log")
TARGETS = ("mask", "noise", "direct")
PHASES = ("noisy", "estimated")
OPTIMISERS = ("adamw", "muon")
# Of the network's products while it is trained. "auto": bfloat16 on a device that multiplies it in hardware.
PRECISIONS = ("auto", "float32")
# What an option by name may be, and the least and the largest value of an option that is a whole number.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "convolution": CONVOLUTIONS,
    "downsampling": DOWNSAMPLINGS,
    "normalisation": NORMALISATIONS,
    "activation": ACTIVATIONS,
    "bottleneck": BOTTLENECKS,
    "output": OUTPUTS,
    "representation": REPRESENTATIONS,
    "target": TARGETS,
    "phase": PHASES,
    "optimiser": OPTIMISERS,
}
RANGES: Mapping[str, tuple[int, int]] = {"depth": (2, 7), "time_stride": (1, 2)}
# Terms that a loss may be a sum of, joined by "+", with the weight of each. si_sdr counts dB, perceptual PESQ points;
# both leave the gain free.
LOSS_WEIGHTS: Mapping[str, float] = {
    "l1": 1.0,
    "l2": 1.0,
    "huber": 1.0,
    "bce": 1.0,
    "compressed": 1.0,
    "complex": 0.2,
    "multi_resolution": 0.1,
    "perceptual": 0.1,
    "si_sdr": 0.01,
}
FIX_GAIN = tuple(term for term in LOSS_WEIGHTS if term not in ("perceptual", "si_sdr"))


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network. The defaults are the preset `compressed-unet`."""

    depth: int = 5  # levels; each halves the bins
    base_channels: int = 16  # of the first level
    growth: float = 1.41  # channels of a level over those of the one before, rounded to a multiple of 4
    kernel_bins: int = 5  # odd
    kernel_frames: int = 3  # odd
    convolution: str = "full"  # CONVOLUTIONS
    convolutions_per_level: int = 1  # on the way down, and as many on the way up
    downsampling: str = "stride"  # DOWNSAMPLINGS
    time_stride: int = 2  # from the second level on
    skips: bool = True  # from each level down to the same level up
    normalisation: str = "batch"  # NORMALISATIONS
    activation: str = "prelu"  # ACTIVATIONS
    dropout: float = 0.0  # share of channels, 0 to below 1
    bottleneck: str = "none"  # BOTTLENECKS
    bottleneck_units: int = 96  # of the recurrence, for each direction
    bottleneck_channels: int = 0  # that the recurrence hears of the deepest level's; 0 for all
    causal: bool = False  # no frame after the one that is answered
    output: str = "sigmoid"  # OUTPUTS


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(NetworkConfig):
    """Everything that fixes a denoiser's shape. The defaults are the preset `compressed-unet` at 16 kHz."""

    sample_rate: int = 16_000  # Hz
    win_length: int = 512  # samples
    hop_length: int = 128  # samples
    representation: str = "power"  # REPRESENTATIONS
    power: float = 0.3  # exponent of the representation "power", over 0 up to 1
    target: str = "mask"  # TARGETS
    phase: str = "noisy"  # PHASES: kept, or seen by the network and turned


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How training mixes speech and noise. Shares are of the mixtures, 0 to 1."""

    snr_db: tuple[float, float] = (-5.0, 20.0)
    snr_active: bool = False  # whether the SNR is that of the speech where there is some, not of the whole segment
    noise_level: tuple[float, float] | None = None  # instead of snr_db: noise over speech, both at the same peak
    level_db: float = 10.0  # the level worked at is off the mixture's own by up to this much
    rooms: float = 0.5  # share that sound in a room, where the corpus has room responses
    clean: float = 0.0  # share without noise: clean speech must come out as it is
    second_noise: float = 0.0  # share in which two noises sound at once
    colour_db: float = 0.0  # speech and noise are each coloured by up to this much
    noise_weights: Mapping[str, float] = field(default_factory=dict)  # of kinds of noise; 1 for what is absent
    remix: float = 0.5  # of pairs: share whose noise sounds with other speech, where the corpus has it
    band_limit: float = 0.0  # share, clean side included, that ends at a lower frequency
    clipping: float = 0.0  # share whose noisy side is clipped
    codec: float = 0.0  # share whose noisy side has passed a lossy codec


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(MixingConfig):
    """How a denoiser is trained. One hour of audio is 3600 s of mixtures, drawn anew every time."""

    loss: str = "compressed+si_sdr"
    loss_weights: Mapping[str, float] = field(default_factory=dict)  # of its terms; LOSS_WEIGHTS for what is absent
    optimiser: str = "adamw"  # OPTIMISERS; muon for matrices, with adamw for all other weights
    learning_rate: float = 2e-3
    batch_size: int = 4
    segment_s: float = 2.0
    rungs_audio_hours: tuple[float, ...] = (1.0, 2.0, 4.0)  # ascending; the last one is the budget
    precision: str = "auto"  # PRECISIONS
    seed: int = 0

    def steps(self, audio_hours: float) -> int:
        """Optimiser steps that make up so much training audio."""
        return max(1, round(audio_hours * 3600 / (self.batch_size * self.segment_s)))


# Fields that came later: while they have their defaults nothing that follows from a configuration may change.
LATER = ("snr_active", "noise_level", "noise_weights", "remix", "band_limit", "clipping", "codec")


def identity(config: TrainingConfig) -> dict[str, Any]:
    """What a training is, but for the fields of LATER that have their defaults."""
    default = TrainingConfig()
    return {
        name: value for name, value in asdict(config).items() if name not in LATER or value != getattr(default, name)
    }


def check(config: NetworkConfig) -> None:
    """Raises ValueError when no network has this shape; the message names the value."""
    options = asdict(config)
    for name, value in options.items():
        if name in CHOICES and value not in CHOICES[name]:
            raise ValueError(f"{name}: {value!r}, expected one of {', '.join(CHOICES[name])}")
    for name, (low, high) in RANGES.items():
        if not low <= options[name] <= high:
            raise ValueError(f"{name}: {options[name]}, expected {low} to {high}")
    for name in ("kernel_bins", "kernel_frames"):
        if getattr(config, name) < 1 or getattr(config, name) % 2 == 0:
            raise ValueError(f"{name}: {getattr(config, name)}, expected an odd number")
    for name in ("base_channels", "convolutions_per_level", "bottleneck_units"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)}, expected at least 1")
    if config.bottleneck_channels < 0:
        raise ValueError(f"bottleneck_channels: {config.bottleneck_channels}, expected at least 0")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout: {config.dropout}, expected 0 to below 1")
    if config.causal and config.bottleneck == "both":
        raise ValueError("bottleneck: 'both' with causal, expected none, frequency or forward; it hears the future")


def weights_objection(weights: Mapping[str, float], kinds: Collection[str]) -> str | None:
    """Why weights do not fit the kinds of noise in training, as `<found>, expected <needed>`; None when they do."""
    for kind in weights:
        if kind not in kinds:
            return f"{kind!r}, expected kinds of noise in training: {', '.join(sorted(kinds))}"
    if not sum(weights.get(kind, 1.0) for kind in kinds) > 0:
        return f"{dict(weights)}, expected some kind of noise above 0"
    return None


def loss_terms(name: str) -> list[str]:
    """The terms of a loss's name.

    Raises:
        ValueError: an unknown term, one that is named twice, or nothing that fixes the gain.
    """
    found = name.split("+")
    for term in found:
        if term not in LOSS_WEIGHTS or found.count(term) > 1:
            known = ", ".join(LOSS_WEIGHTS)
            raise ValueError(f"loss: {term!r} in {name!r}, expected terms out of {known}, each once, joined by +")
    if set(found).isdisjoint(FIX_GAIN):
        raise ValueError(f"loss: {name!r} leaves the gain free, expected a sum with one of {', '.join(FIX_GAIN)}")
    return found


def loss_objection(name: str, output: str, target: str) -> str | None:
    """Why a loss cannot compare what a network with this output is asked for, as `<found>, expected <needed>`; None
    when it can. Cross-entropy compares shares in [0, 1]."""
    if "bce" not in loss_terms(name):
        return None
    if output != "sigmoid":
        return f"{name!r} with output {output!r}, expected output sigmoid"
    if target == "noise":
        return f"{name!r} with target {target!r}, expected target mask or direct"
    return None


FORMATS = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}
