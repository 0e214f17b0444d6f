"""Baseline denoisers by name: spectral gating and RNNoise.

A system maps (samples, sample_rate) to samples: (T,) float32, full scale at 1, at any rate in Hz; the output has the
length of the input and is aligned with it.
"""

import ctypes
from collections.abc import Callable

import numpy as np

from quell.audio import FloatArray, resample
from quell.errors import PackageError

System = Callable[[FloatArray, int], FloatArray]

# noisereduce smooths its mask over 50 ms and must have a hop of 256 samples inside.
GATE_RATE = 8_000
RNNOISE_RATE = 48_000
# Delay of RNNoise in samples: the cross-correlation of output and input peaks at 959 or 960 on ten utterances
# (pyrnnoise 0.4.5); one frame of overlap and one of look-ahead.
RNNOISE_DELAY = 960


def system(name: str) -> System:
    """Loads one of SYSTEMS; raises PackageError if its package is not installed."""
    try:
        return SYSTEMS[name]()
    except (ImportError, OSError) as error:  # OSError: pyrnnoise has no library for this machine
        reason = str(error).splitlines()[0]
        raise PackageError(
            f"{name}: {reason}, expected its package to be installed; pip install 'quell-denoiser[baselines]'"
        ) from error


def at_rate(run: Callable[[FloatArray], FloatArray], rate: int) -> System:
    """A system from a denoiser that works at one rate in Hz: resamples its input and its output."""

    def denoise(samples: FloatArray, sample_rate: int) -> FloatArray:
        clean = run(resample(samples, sample_rate, rate))
        return _fit(resample(clean, rate, sample_rate), len(samples))

    return denoise


def _noisy() -> System:
    return lambda samples, sample_rate: samples


def _spectral_gate() -> System:
    """Non-stationary spectral gating, noisereduce's default (Sainburg 2020, doi:10.1371/journal.pcbi.1008228)."""
    import noisereduce

    def denoise(samples: FloatArray, sample_rate: int) -> FloatArray:
        rate = max(sample_rate, GATE_RATE)
        # It divides by each bin's level, which is 0 in digital silence; the NaN become silence again.
        with np.errstate(divide="ignore", invalid="ignore"):
            clean = noisereduce.reduce_noise(y=resample(samples, sample_rate, rate), sr=rate)
        return _fit(resample(np.nan_to_num(clean).astype(np.float32), rate, sample_rate), len(samples))

    return denoise


def _rnnoise() -> System:
    """RNNoise, a recurrent network at 48 kHz (Valin 2018, arXiv:1709.08243), with the weights in pyrnnoise.

    Calls the C library: pyrnnoise's Python interface casts the output to 16 bits, where samples beyond full scale wrap
    around.
    """
    from pyrnnoise import rnnoise

    def denoise(signal: FloatArray) -> FloatArray:
        frames = -(-(len(signal) + RNNOISE_DELAY) // rnnoise.FRAME_SIZE)
        padded = np.zeros((frames, rnnoise.FRAME_SIZE), np.float32)
        padded.flat[: len(signal)] = signal
        padded *= 32_768  # its full scale
        state = rnnoise.lib.rnnoise_create(None)
        try:
            for frame in padded:  # in place
                pointer = frame.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
                rnnoise.lib.rnnoise_process_frame(state, pointer, pointer)
        finally:
            rnnoise.lib.rnnoise_destroy(state)
        clean = padded.reshape(-1)[RNNOISE_DELAY : RNNOISE_DELAY + len(signal)]
        clean /= 32_768
        return clean

    return at_rate(denoise, RNNOISE_RATE)


def _fit(samples: FloatArray, length: int) -> FloatArray:
    """Cut or padded to a length: resampling there and back may lose or gain a sample."""
    return np.pad(samples[:length], (0, max(length - len(samples), 0)))


SYSTEMS: dict[str, Callable[[], System]] = {"noisy": _noisy, "spectral-gate": _spectral_gate, "rnnoise": _rnnoise}
