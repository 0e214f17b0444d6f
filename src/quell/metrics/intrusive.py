"""SI-SDR, PESQ, STOI and ESTOI: metrics of an estimate against its clean reference, in numpy.

Every metric takes the estimate first, then the target, both (T,) float; higher is better. A failure caused by the
estimate (silence, NaN) scores the metric's worst value, so that muting a clip never pays.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np

from quell.audio import FloatArray

EPS = 1e-8
# Worst value and unit of each metric.
WORST = {"pesq": 1.0, "stoi": 0.0, "estoi": 0.0, "si_sdr": float(10 * np.log10(EPS))}
UNITS = {"pesq": "MOS-LQO", "stoi": "0 to 1", "estoi": "0 to 1", "si_sdr": "dB"}
PESQ_MODES = {8_000: "nb", 16_000: "wb"}
# Its C code has room for 50 utterances and crashes beyond (pesq 0.0.4, ludlows/PESQ issue 18): bursts of 0.2 s and
# pauses of 0.2 s, the shortest it tells apart, are that many in 20 s.
PESQ_S = 20.0


@dataclass(frozen=True)
class ClipScore:
    """Metrics of one clip; `failed` names those that could not be computed and have their worst value."""

    values: dict[str, float]
    failed: tuple[str, ...]


def si_sdr(estimate: FloatArray, target: FloatArray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, arXiv:1811.02508).

    Both signals are centred first. Silence on either side scores 10 * log10(EPS), the worst value, never NaN. Raises
    ValueError if shapes differ.
    """
    if estimate.shape != target.shape:
        raise ValueError(f"estimate: shape {estimate.shape}, expected that of target, {target.shape}")
    estimate64 = estimate.astype(np.float64) - estimate.mean(dtype=np.float64)
    target64 = target.astype(np.float64) - target.mean(dtype=np.float64)
    scale = (estimate64 @ target64) / (target64 @ target64 + EPS)
    speech = scale * target64
    distortion = estimate64 - speech
    return float(10 * np.log10((speech @ speech) / (distortion @ distortion + EPS) + EPS))


def pesq(estimate: FloatArray, target: FloatArray, sample_rate: int) -> float:
    """Perceptual evaluation of speech quality, MOS-LQO 1 to 4.64 (ITU-T P.862): wide band at 16 kHz, narrow at 8 kHz.

    A clip over PESQ_S is cut into the fewest equal pieces that are short enough; the result is the mean over those with
    speech in the target.

    Raises:
        ValueError: another sample rate.
        ArithmeticError: PESQ finds no utterance, or returns no number.
    """
    if sample_rate not in PESQ_MODES:
        raise ValueError(f"sample_rate: {sample_rate} Hz, expected 8000 or 16000 Hz for PESQ; score by estoi or stoi")
    count = max(1, math.ceil(len(target) / (PESQ_S * sample_rate)))
    if count == 1:
        return _pesq(estimate, target, sample_rate)
    values = []
    for part, target_part in zip(np.array_split(estimate, count), np.array_split(target, count), strict=True):
        if not _has_utterance(target_part, sample_rate):
            continue
        try:
            values.append(_pesq(part, target_part, sample_rate))
        except ArithmeticError:
            values.append(WORST["pesq"])
    if not values:
        raise ArithmeticError("PESQ: no utterance in any piece")
    return float(np.mean(values))


def _has_utterance(target: FloatArray, sample_rate: int) -> bool:
    if not target.any():  # the package would divide by its peak
        return False
    try:
        _pesq(target, target, sample_rate)
    except ArithmeticError:
        return False
    return True


def _pesq(estimate: FloatArray, target: FloatArray, sample_rate: int) -> float:
    import pesq as package

    mode = PESQ_MODES[sample_rate]
    try:
        value = float(package.pesq(sample_rate, target, estimate, mode))
    except (package.PesqError, ValueError) as error:  # ValueError: NaN inside, from a signal below about 1e-20
        raise ArithmeticError(f"PESQ: {error}") from error
    if not np.isfinite(value):
        raise ArithmeticError(f"PESQ: {value}")
    return value


def stoi(estimate: FloatArray, target: FloatArray, sample_rate: int, extended: bool = False) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), or ESTOI (Jensen and Taal 2016); about 0 to 1.

    Raises:
        ArithmeticError: less than 0.4 s of speech in the target, or the result is no number.
    """
    import pystoi

    # pystoi's ESTOI adds 1e-16 of numpy's global noise; the same clip must score the same to the last digit.
    state = np.random.get_state()
    np.random.seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi returns 1e-5 with a warning when speech is too short
        try:
            value = float(pystoi.stoi(target, estimate, sample_rate, extended=extended))
        except (RuntimeWarning, np.exceptions.AxisError) as error:  # AxisError: less than one frame of 26 ms
            raise ArithmeticError(f"STOI: {error}") from error
        finally:
            np.random.set_state(state)
    if not np.isfinite(value):
        raise ArithmeticError(f"STOI: {value}")
    return value


def binary_iou(estimate: FloatArray, target: FloatArray, threshold: float = 0.5) -> float:
    """Intersection over union of the bins above the threshold in arrays of one shape, 0 to 1; 1 when there are none."""
    loud, target_loud = estimate > threshold, target > threshold
    union = int((loud | target_loud).sum())
    return int((loud & target_loud).sum()) / union if union else 1.0


def score_clip(estimate: FloatArray, target: FloatArray, sample_rate: int, names: tuple[str, ...]) -> ClipScore:
    """The named metrics of one clip; a failed one has its worst value."""
    if not np.isfinite(estimate).all() or not estimate.any():
        return ClipScore({name: WORST[name] for name in names}, names)
    values: dict[str, float] = {}
    failed: list[str] = []
    for name in names:
        try:
            values[name] = max(_compute(name, estimate, target, sample_rate), WORST[name])
        except ArithmeticError:
            values[name] = WORST[name]
            failed.append(name)
    return ClipScore(values, tuple(failed))


def _compute(name: str, estimate: FloatArray, target: FloatArray, sample_rate: int) -> float:
    if name == "si_sdr":
        return si_sdr(estimate, target)
    if name == "pesq":
        return pesq(estimate, target, sample_rate)
    return stoi(estimate, target, sample_rate, extended=name == "estoi")


def available(sample_rate: int) -> tuple[str, ...]:
    """Metrics that are defined at a sample rate."""
    return tuple(name for name in WORST if name != "pesq" or sample_rate in PESQ_MODES)
