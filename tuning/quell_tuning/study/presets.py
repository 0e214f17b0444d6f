"""Known designs as values of all parameters. A study's first trials are the presets that lie in its search."""

from collections.abc import Mapping

from quell_tuning.study.parameters import DEFAULTS, Value

DEFAULT = "compressed-unet"

# What differs from the defaults.
_CHANGES: Mapping[str, Mapping[str, Value]] = {
    # Magnitudes ** 0.3, a sigmoid mask, strides in frequency and time: 0.2 M parameters.
    DEFAULT: {},
    # The same with a recurrence in the bottleneck and no strides in time: 0.5 M parameters.
    "recurrent-unet": {"base_channels": 12, "time_stride": 1, "bottleneck": "both"},
    # An estimated phase, half as many frames, a recurrence over a mix of the deepest channels, and a loss after PESQ:
    # 0.65 M parameters.
    "phase-unet": {
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
    # Estimates the noise: ten encoder convolutions, max-pooling, tanh, Huber (after V. Belz, "Speech-enhancement with
    # deep learning", 2019). At 8 kHz the window is 255 samples and the hop 63: 128 bins, and 7872 samples make 128
    # frames. Our STFT covers the ends of a signal as often as its middle, so that the published 8064 samples make 132,
    # of which 128 are centred inside.
    "residual-unet": {
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
    # Log spectrograms as pictures: each bin of the clean one as a probability.
    "logspec-unet": {
        "representation": "log",
        "target": "direct",
        "activation": "leaky_relu",
        "dropout": 0.1,
        "loss": "bce",
    },
    # Plain magnitudes and a mask.
    "mask-unet": {"representation": "linear", "activation": "leaky_relu", "loss": "l1"},
    # The baseline for a U-Net: the same without skip connections.
    "plain-cnn": {
        "representation": "linear",
        "depth": 3,
        "time_stride": 1,
        "skips": False,
        "activation": "leaky_relu",
        "loss": "l2",
    },
}
PRESETS: Mapping[str, Mapping[str, Value]] = {name: {**DEFAULTS, **changes} for name, changes in _CHANGES.items()}
