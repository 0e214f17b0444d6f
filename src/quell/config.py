"""Options of network, mixing and training: defaults, legal values, and which go together.

Needs no torch, so that a study file is checked quickly.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Values of the options that are names, and least and largest values of some that are whole numbers.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "convolution": ("full", "separable"),
    "downsampling": ("stride", "pool"),
    "normalisation": ("batch", "frame", "none"),
    "activation": ("leaky_relu", "prelu", "elu"),
    "bottleneck": ("none", "frequency", "forward", "both"),
    "output": ("sigmoid", "tanh", "softplus", "linear"),  # with range [0, 1], [-1, 1], [0, inf), all numbers
    "representation": ("power", "linear", "log"),
    "target": ("mask", "noise", "direct"),
    "phase": ("noisy", "estimated"),
    "optimiser": ("adamw", "muon"),
    "precision": ("auto", "float32"),  # "auto": bfloat16 on a device that multiplies it in hardware
}
RANGES: Mapping[str, tuple[int, int]] = {"depth": (2, 7), "time_stride": (1, 2)}
ODD = ("kernel_bins", "kernel_frames")  # options that are odd numbers
# Terms of a loss, joined by "+", and their default weights. si_sdr is in dB, perceptual in PESQ points; both leave the
# gain free.
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
# Suffix of an exported file by its format.
FORMATS = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network; options that are names take values of CHOICES. Defaults: preset `compressed-unet`."""

    depth: int = 5  # levels; each halves the bins
    base_channels: int = 16  # of the first level
    growth: float = 1.41  # channels of a level over those of the level above, rounded to a multiple of 4
    kernel_bins: int = 5  # odd
    kernel_frames: int = 3  # odd
    convolution: str = "full"
    convolutions_per_level: int = 1  # in the encoder, and as many in the decoder
    downsampling: str = "stride"
    time_stride: int = 2  # from the second level on
    skips: bool = True  # from each level of the encoder to that of the decoder
    normalisation: str = "batch"
    activation: str = "prelu"
    dropout: float = 0.0  # share of channels, 0 to below 1
    bottleneck: str = "none"
    bottleneck_units: int = 96  # of the recurrence, in each direction
    bottleneck_channels: int = 0  # input channels of the recurrence; 0 for all of the deepest level
    causal: bool = False  # output depends on no later frame
    output: str = "sigmoid"


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig(NetworkConfig):
    """All options of a denoiser. Defaults: preset `compressed-unet` at 16 kHz."""

    sample_rate: int = 16_000  # Hz
    win_length: int = 512  # samples
    hop_length: int = 128  # samples
    representation: str = "power"
    power: float = 0.3  # exponent of the representation "power", above 0 up to 1
    target: str = "mask"
    phase: str = "noisy"  # of the output: that of the input, or estimated by the network


@dataclass(frozen=True, kw_only=True)
class MixingConfig:
    """How training mixes speech and noise. Shares are of all mixtures, 0 to 1."""

    snr_db: tuple[float, float] = (-5.0, 20.0)
    snr_active: bool = False  # whether SNRs are measured where there is speech, instead of over the whole segment
    noise_level: tuple[float, float] | None = None  # instead of snr_db: gain of noise over speech, at equal peaks
    level_db: float = 10.0  # largest deviation of the level that the network's input is divided by, from the mixture's
    rooms: float = 0.5  # share with reverberation, where the corpus has room responses
    clean: float = 0.0  # share without noise, whose speech the denoiser learns to keep
    second_noise: float = 0.0  # share with two noises at once
    colour_db: float = 0.0  # largest gain of the random equalisation of speech and noise
    noise_weights: Mapping[str, float] = field(default_factory=dict)  # by kind of noise; 1 for a missing kind
    remix: float = 0.5  # of pairs: share whose noise is mixed with other speech, where the corpus has it
    band_limit: float = 0.0  # share whose noisy and clean sides end at a lower frequency
    clipping: float = 0.0  # share whose noisy side is clipped
    codec: float = 0.0  # share whose noisy side has passed a lossy codec


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(MixingConfig):
    """How a denoiser is trained. One hour of audio is 3600 s of new random mixtures."""

    loss: str = "compressed+si_sdr"
    loss_weights: Mapping[str, float] = field(default_factory=dict)  # by term; LOSS_WEIGHTS for a missing one
    optimiser: str = "adamw"  # "muon": for matrices, with adamw for all other weights
    learning_rate: float = 2e-3
    batch_size: int = 4
    segment_s: float = 2.0
    rungs_audio_hours: tuple[float, ...] = (1.0, 2.0, 4.0)  # ascending; the last one is the budget
    precision: str = "auto"
    seed: int = 0

    def steps(self, audio_hours: float) -> int:
        """Optimiser steps for this amount of training audio, at least one."""
        return max(1, round(audio_hours * 3600 / (self.batch_size * self.segment_s)))


# Fields added later: at their defaults, hashes and seeds are those of a configuration without them.
LATER = ("snr_active", "noise_level", "noise_weights", "remix", "band_limit", "clipping", "codec")


def identity(config: TrainingConfig) -> dict[str, Any]:
    """The fields that identify a training: all but those of LATER at their defaults."""
    default = asdict(TrainingConfig())
    return {name: value for name, value in asdict(config).items() if name not in LATER or value != default[name]}


def check(config: NetworkConfig) -> None:
    """Raises ValueError, with option and value, if no network can be built."""
    options = asdict(config)
    for name in options.keys() & CHOICES.keys():
        check_choice(name, options[name])
    for name, (low, high) in RANGES.items():
        if not low <= options[name] <= high:
            raise ValueError(f"{name}: {options[name]}, expected {low} to {high}")
    for name in ODD:
        if options[name] < 1 or options[name] % 2 == 0:
            raise ValueError(f"{name}: {options[name]}, expected an odd number")
    for name in ("base_channels", "convolutions_per_level", "bottleneck_units", "bottleneck_channels"):
        low = 0 if name == "bottleneck_channels" else 1
        if options[name] < low:
            raise ValueError(f"{name}: {options[name]}, expected at least {low}")
    if not 0 <= config.dropout < 1:
        raise ValueError(f"dropout: {config.dropout}, expected 0 to below 1")
    if config.causal and config.bottleneck == "both":
        raise ValueError("bottleneck: 'both' with causal, expected none, frequency or forward; both needs later frames")


def check_choice(name: str, value: str) -> None:
    """Raises ValueError if an option's value is not one of CHOICES."""
    if value not in CHOICES[name]:
        raise ValueError(f"{name}: {value!r}, expected one of {', '.join(CHOICES[name])}")


def weights_problem(weights: Mapping[str, float], kinds: Collection[str]) -> str | None:
    """Why weights do not fit the kinds of noise in training, as `<found>, expected <needed>`; None if they do."""
    for kind in weights:
        if kind not in kinds:
            return f"{kind!r}, expected kinds of noise in training: {', '.join(sorted(kinds))}"
    if not sum(weights.get(kind, 1.0) for kind in kinds) > 0:
        return f"{dict(weights)}, expected some kind of noise above 0"
    return None


def loss_terms(name: str) -> list[str]:
    """The terms of a loss, from its name.

    Raises:
        ValueError: an unknown term, one that is repeated, or none that fixes the gain.
    """
    terms = name.split("+")
    for term in terms:
        if term not in LOSS_WEIGHTS or terms.count(term) > 1:
            legal = ", ".join(LOSS_WEIGHTS)
            raise ValueError(f"loss: {term!r} in {name!r}, expected terms out of {legal}, each once, joined by +")
    if set(terms).isdisjoint(FIX_GAIN):
        raise ValueError(f"loss: {name!r} leaves the gain free, expected a sum with one of {', '.join(FIX_GAIN)}")
    return terms


def loss_problem(name: str, output: str, target: str) -> str | None:
    """Why a loss does not fit a network's output and target, as `<found>, expected <needed>`; None if it does.
    Cross-entropy compares shares in [0, 1]."""
    if "bce" not in loss_terms(name):
        return None
    if output != "sigmoid":
        return f"{name!r} with output {output!r}, expected output sigmoid"
    if target == "noise":
        return f"{name!r} with target {target!r}, expected target mask or direct"
    return None
