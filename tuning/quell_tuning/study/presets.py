"""Known designs, as values of the parameters in `quell_tuning.study.search_space`. A study starts from those inside its
search."""

from __future__ import annotations

from collections.abc import Mapping

from quell.config import LOSS_WEIGHTS

Value = int | float | str | bool

DEFAULT = "compressed-unet"

# Magnitudes ** 0.3, a sigmoid mask, strides in frequency and time: 0.2 M parameters.
_COMPRESSED: Mapping[str, Value] = {
    "win_ms": 32,
    "overlap": 4,
    "representation": "power",
    "power": 0.3,
    "target": "mask",
    "phase": "noisy",
    "depth": 5,
    "base_channels": 16,
    "growth": 1.41,
    "kernel_bins": 5,
    "kernel_frames": 3,
    "convolution": "full",
    "convolutions_per_level": 1,
    "downsampling": "stride",
    "time_stride": 2,
    "skips": True,
    "normalisation": "batch",
    "activation": "prelu",
    "dropout": 0.0,
    "bottleneck": "none",
    "bottleneck_units": 96,
    "bottleneck_channels": 0,
    "causal": False,
    "output": "sigmoid",
    "loss": "compressed+si_sdr",
    **{f"{term}_weight": weight for term, weight in LOSS_WEIGHTS.items()},
    "optimiser": "adamw",
    "learning_rate": 2e-3,
    "batch_size": 4,
}

PRESETS: Mapping[str, Mapping[str, Value]] = {
    DEFAULT: _COMPRESSED,
    # The same with a recurrence in the bottleneck and no strides in time: 0.5 M parameters.
    "recurrent-unet": {
        **_COMPRESSED,
        "base_channels": 12,
        "time_stride": 1,
        "bottleneck": "both",
    },
    # The phase is heard and turned, half as many frames, a recurrence that hears a mix of the deepest channels, and a
    # loss that follows PESQ: 0.65 M parameters.
    "phase-unet": {
        **_COMPRESSED,
        "overlap": 2,
        "phase": "estimated",
        "depth": 4,
        "base_channels": 24,
        "time_stride": 1,
        "activation": "leaky_relu",
        "bottleneck": "both",
        "bottleneck_units": 112,
        "bottleneck_channels": 24,
        "loss": "compressed+complex+perceptual+si_sdr",
        "si_sdr_weight": 0.02,
        "optimiser": "muon",
    },
    # The noise is what is learnt: ten convolutions down, max-pooling, tanh, Huber (after V. Belz, "Speech-enhancement
    # with deep learning", 2019). At 8 kHz its window is 255 samples and its hop 63: 128 bins, and 7872 samples make
    # 128 frames. Our analysis covers the ends of a signal as often as its middle, so 8064 samples make 132, of which
    # 128 are centred inside.
    "residual-unet": {
        **_COMPRESSED,
        "win_ms": 31.875,
        "representation": "linear",
        "target": "noise",
        "growth": 2.0,
        "kernel_bins": 3,
        "convolutions_per_level": 2,
        "downsampling": "pool",
        "normalisation": "none",
        "activation": "leaky_relu",
        "dropout": 0.02,
        "output": "tanh",
        "loss": "huber",
        "learning_rate": 1e-3,
    },
    # Log spectrograms as pictures: every bin of the clean one as a probability.
    "logspec-unet": {
        **_COMPRESSED,
        "representation": "log",
        "target": "direct",
        "activation": "leaky_relu",
        "dropout": 0.1,
        "loss": "bce",
    },
    # Plain magnitudes and a mask.
    "mask-unet": {
        **_COMPRESSED,
        "representation": "linear",
        "activation": "leaky_relu",
        "loss": "l1",
    },
    # What a U-Net is measured against: convolutions that forget where things were.
    "plain-cnn": {
        **_COMPRESSED,
        "representation": "linear",
        "depth": 3,
        "time_stride": 1,
        "skips": False,
        "activation": "leaky_relu",
        "loss": "l2",
    },
}
