"""What a recording may be, as a file or as an array: its sample rate, channels, and levels."""

import numpy as np

from quell.audio.resampling import FloatArray

# No recorder exceeds these limits; damaged headers do.
RATES = (1_000, 1_000_000)  # Hz
MOST_CHANNELS = 256
LARGEST = 1e10  # times full scale: 32-bit integers stored as floats, and some headroom


def beyond_limits(sample_rate: int, channels: int) -> str | None:
    """What is wrong with a sample rate in Hz or a number of channels, and what is expected; None where nothing is."""
    low, high = RATES
    if low <= sample_rate <= high and 1 <= channels <= MOST_CHANNELS:
        return None
    needed = f"1 to {MOST_CHANNELS} channels at {low} to {high} Hz"
    return f"{channels} channels at {sample_rate} Hz, expected {needed}"


def bad_samples(block: FloatArray) -> str | None:
    """What is wrong with samples of full scale 1; None where all are numbers that a recording may have."""
    loudest = np.abs(block).max(initial=0)
    if loudest <= LARGEST:
        return None
    if count := int((~np.isfinite(block)).sum()):
        return f"{count} samples are NaN or infinite"
    return f"samples of up to {loudest:.0e} times full scale"
