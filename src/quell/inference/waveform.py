"""Denoises a recording that is an array: `quell.denoise`."""

from collections.abc import Iterator
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quell import audio
from quell.audio.limits import bad_samples, beyond_limits
from quell.export.exported_model import Model
from quell.inference import pretrained
from quell.inference.enhancement import denoised
from quell.inference.jobs import DenoiseOptions

INTEGERS = {"int16": 2.0**15, "int32": 2.0**31}  # types, and their full scale


def denoise(
    waveform: ArrayLike, sample_rate: int, model: Model | None = None, options: DenoiseOptions | None = None
) -> NDArray[Any]:
    """The denoised recording, at its own rate, each channel independently.

    Where the recording's rate is above the model's, the output has nothing above half the model's rate. The gain is
    kept: a float output may exceed full scale where the input did; integers are limited to their range.

    Args:
        waveform: float, full scale at 1, or int16 or int32, at their own full scale.
        sample_rate: of the waveform, 1000 to 1000000 Hz.
        model: from `quell.load`; if omitted, the pretrained denoiser that fits the rate.
        options: how much of the input stays in the output.

    Shape:
        waveform: (T,) or (T, C), T >= 1, at most as many channels as samples. Returns the same, float32 for floats,
        else the type of the input.

    Raises:
        ValueError: another shape, type, rate or model, or samples that are not finite.
        ExportError: no model was given, and the pretrained one is missing.
    """
    rate = _checked_rate(sample_rate)
    if model is not None and not isinstance(model, Model):
        raise ValueError(f"model: {model!r}, expected what quell.load returns; call quell.load on its path")
    try:
        array = np.asarray(waveform)
    except (RuntimeError, TypeError, ValueError) as error:  # tensors that need a gradient, or are elsewhere
        raise ValueError(f"waveform: {type(waveform).__name__}, expected an array of numpy; {error}") from error
    if options is not None and not isinstance(options, DenoiseOptions):
        raise ValueError(f"options: {options!r}, expected quell.DenoiseOptions(...); give them by name")
    samples = _as_floats(array)
    channels = samples.reshape(len(samples), -1)
    if problem := beyond_limits(rate, channels.shape[1]):
        raise ValueError(f"waveform: {problem}; give samples first, and the rate in Hz")
    if problem := bad_samples(channels):
        raise ValueError(f"waveform: {problem}, expected numbers; repair it")
    model = model or pretrained.fitting(rate)

    def pieces() -> Iterator[audio.FloatArray]:
        for start in range(0, len(channels), audio.READ_BLOCK):
            yield channels[start : start + audio.READ_BLOCK]

    clean = np.concatenate(list(denoised(pieces, rate, model, options))).reshape(samples.shape)
    return _in_type_of(array, clean)


def _checked_rate(sample_rate: object) -> int:
    known = isinstance(sample_rate, Real) and not isinstance(sample_rate, bool | np.bool_)
    if not known or not float(sample_rate).is_integer():  # type: ignore[arg-type]
        raise ValueError(f"sample_rate: {sample_rate!r}, expected a whole number of Hz; give the rate of the waveform")
    return int(sample_rate)  # type: ignore[call-overload,no-any-return]


def _as_floats(array: NDArray[Any]) -> audio.FloatArray:
    if array.dtype.name not in INTEGERS and array.dtype.kind != "f":
        raise ValueError(
            f"waveform: {array.dtype} samples, expected floats of full scale 1, int16 or int32; convert them"
        )
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(f"waveform: shape {array.shape}, expected (T,) or (T, C) with at least one sample")
    if array.ndim == 2 and array.shape[1] > array.shape[0]:
        raise ValueError(
            f"waveform: shape {array.shape}, more channels than samples, expected (T, C); transpose it, waveform.T"
        )
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what is infinite then is refused
            return array.astype(np.float32)
    return (array / INTEGERS[array.dtype.name]).astype(np.float32)


def _in_type_of(array: NDArray[Any], clean: audio.FloatArray) -> NDArray[Any]:
    if array.dtype.kind == "f":
        return clean
    limits = np.iinfo(array.dtype)
    scaled = np.round(clean.astype(np.float64) * INTEGERS[array.dtype.name])
    return np.clip(scaled, limits.min, limits.max).astype(array.dtype)
