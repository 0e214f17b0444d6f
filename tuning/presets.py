"""Known designs, as values of the parameters in `tuning.space`. A study starts from those inside its search."""

from __future__ import annotations

from collections.abc import Mapping

Value = int | float | str

PRESETS: Mapping[str, Mapping[str, Value]] = {
    # Magnitudes ** 0.3, a sigmoid mask, strides in frequency and time: 0.2 M parameters.
    "compressed-unet": {
        "win_ms": 32,
        "overlap": 4,
        "power": 0.3,
        "depth": 5,
        "base_channels": 16,
        "growth": 1.41,
        "kernel_bins": 5,
        "kernel_frames": 3,
        "time_stride": 2,
        "dropout": 0.0,
        "loss": "compressed+si_sdr",
        "si_sdr_weight": 0.01,
        "learning_rate": 2e-3,
        "batch_size": 8,
    },
}
DEFAULT = "compressed-unet"
