"""Models of others from a file, to be compared with: TorchScript or ONNX, waveform in, waveform out, at one rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from quell.audio import FloatArray
from quell.errors import ExportError
from quell.evaluation.baselines import System, at_rate

SLACK_S = 0.1  # that an answer may be longer or shorter than the signal, by frames that a model rounds to
SHAPES = {2: "(1, T)", 1: "(T,)", 3: "(1, 1, T)"}  # that a waveform may have, by rank, in the order that they are tried
RATE = "sample_rate"  # attribute of a TorchScript module, metadata key of an ONNX file

Run = Callable[[FloatArray], FloatArray]  # (T,) to about (T,)


def system(path: Path, sample_rate: int | None = None) -> System:
    """A model of somebody else, ready to be called. Full scale is 1; a delay that it has is not taken away.

    Args:
        sample_rate: Hz; what the file says of itself without it.

    Raises:
        ExportError: the file is missing, takes no waveform, or nobody says its rate; onnxruntime is not installed.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file, expected a denoiser; check the path")
    try:
        run, said = _onnx(path) if path.suffix == ".onnx" else _torchscript(path)
    except ExportError:
        raise
    except Exception as error:  # both runtimes raise whatever the bytes make them raise
        needed = "expected TorchScript, ONNX, or a file made by `quell export`"
        raise ExportError(f"{path}: not a model, {needed}; name another") from error
    rate = sample_rate or said
    if not rate:
        raise ExportError(f"{path}: says no sample rate, expected one; add it, as in {path}@16000")

    def checked(samples: FloatArray) -> FloatArray:
        try:
            clean = run(samples)
        except Exception as error:
            reason = " ".join(str(error).split())[-200:]
            raise ExportError(f"{path}: {reason}, expected to run; leave it out") from error
        if abs(len(clean) - len(samples)) > SLACK_S * rate:
            found = f"{len(clean)} samples for {len(samples)}"
            raise ExportError(f"{path}: {found}, expected as many; wrap it so that they are")
        return clean

    return at_rate(checked, rate)


def _torchscript(path: Path) -> tuple[Run, int | None]:
    import torch

    from quell.export.torchscript import quiet

    with quiet():
        module = torch.jit.load(str(path), map_location="cpu").eval()

    def run(samples: FloatArray, rank: int) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(_shaped(samples, rank))).numpy(), np.float32)

    said = getattr(module, RATE, None)
    rank = _accepted(path, run)
    return lambda samples: run(samples, rank).reshape(-1), None if said is None else int(said)


def _accepted(path: Path, run: Callable[[FloatArray, int], FloatArray]) -> int:
    """The rank of the waveforms that a model answers in kind: TorchScript does not tell."""
    probe = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for rank in SHAPES:
        try:
            answer = run(probe, rank)
        except Exception:  # of another shape, in its own words
            continue
        if answer.ndim == rank and answer.size == answer.shape[-1]:
            return rank
    raise ExportError(f"{path}: no waveform back, expected one for one of {' or '.join(SHAPES.values())}; wrap it")


def _onnx(path: Path) -> tuple[Run, int | None]:
    try:
        import onnxruntime
    except ImportError:
        needed = "expected onnxruntime to be installed"
        raise ExportError(f"{path}: an ONNX file, {needed}; pip install 'quell-denoiser[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) not in SHAPES:
        found = ", ".join(f"{given.name} {given.shape}" for given in inputs)
        raise ExportError(f"{path}: takes {found}, expected one waveform {SHAPES[2]}; wrap it")
    said = session.get_modelmeta().custom_metadata_map.get(RATE)

    def run(samples: FloatArray) -> FloatArray:
        answer = session.run(None, {inputs[0].name: _shaped(samples, len(inputs[0].shape))})[0]
        return np.asarray(answer, np.float32).reshape(-1)

    return run, None if said is None else int(said)


def _shaped(samples: FloatArray, rank: int) -> FloatArray:
    return np.ascontiguousarray(samples, np.float32).reshape((1,) * (rank - 1) + (-1,))
