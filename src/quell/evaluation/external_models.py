"""TorchScript and ONNX models of others as systems: waveform in, waveform out, at one sample rate."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from quell import check_sums
from quell.audio import FloatArray
from quell.child_processes.remote_function import RemoteError, RemoteFunction
from quell.errors import ExportError
from quell.evaluation.baselines import System, at_rate
from quell.export.model_process import ended

SLACK_S = 0.1  # by which an output may be longer or shorter than the input, as models round to frames
SHAPES = {2: "(1, T)", 1: "(T,)", 3: "(1, 1, T)"}  # of a waveform, by rank, in the order in which they are tried
RATE = "sample_rate"  # attribute of a TorchScript module, metadata key of an ONNX file

CLIP_LIMIT_S = 600.0  # for a clip of the test set

Run = Callable[[FloatArray], FloatArray]  # (T,) to about (T,)


class RemoteSystem:
    """`system` in another process, which a limit of time and the end of this process end, whatever the model does.

    Raises:
        ExportError: from the beginning and from calls, as `system`; and where the process is killed or takes too long.
    """

    def __init__(self, path: Path, sample_rate: int | None = None) -> None:
        self.path = path
        try:
            self.function = RemoteFunction(_make, path, sample_rate)
        except RemoteError as error:
            ended(path, error)

    def __call__(self, samples: FloatArray, sample_rate: int) -> FloatArray:
        try:
            clean: FloatArray = self.function(samples, sample_rate, limit_s=CLIP_LIMIT_S)
        except RemoteError as error:
            ended(self.path, error)
        return clean

    def clock(self) -> float:
        """CPU time in seconds; its differences are those of the calls between."""
        return self.function.cpu_s


def _make(path: Path, sample_rate: int | None) -> tuple[None, System]:
    import torch

    torch.set_num_threads(1)
    return None, system(path, sample_rate)


def system(path: Path, sample_rate: int | None = None) -> System:
    """Loads a model. Full scale is 1; a delay of the model is not compensated.

    Args:
        sample_rate: Hz; if omitted, the one stated in the file.

    Raises:
        ExportError: the file is missing, takes no waveform or has no sample rate, or onnxruntime is not installed.
    """
    if not path.is_file():
        raise ExportError(f"{path}: no such file, expected a denoiser; check the path")
    try:
        check_sums.check(path)
        run, stated_rate = _onnx(path) if path.suffix == ".onnx" else _torchscript(path)
    except ExportError:
        raise
    except check_sums.DamagedFileError as error:
        raise ExportError(f"{path}: damaged, expected the bytes that were written; get it again") from error
    except Exception as error:  # both runtimes raise errors of any type
        needed = "expected TorchScript, ONNX, or a file made by `quell export`"
        raise ExportError(f"{path}: not a model, {needed}; name another") from error
    rate = sample_rate or stated_rate
    if not rate:
        raise ExportError(f"{path}: states no sample rate, expected one; add it, as in {path}@16000")

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

    from quell.export.script_check import read_checked
    from quell.export.torchscript import quiet

    with quiet():
        module = torch.jit.load(read_checked(path), map_location="cpu").eval()

    def run(samples: FloatArray, rank: int) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(_shaped(samples, rank))).numpy(), np.float32)

    rate = getattr(module, RATE, None)
    rank = _accepted_rank(path, run)
    return lambda samples: run(samples, rank).reshape(-1), None if rate is None else int(rate)


def _accepted_rank(path: Path, run: Callable[[FloatArray, int], FloatArray]) -> int:
    """The first rank of SHAPES that a model accepts and returns; a TorchScript file does not state it."""
    probe = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    for rank in SHAPES:
        try:
            output = run(probe, rank)
        except Exception:  # of any type, for a shape that it does not accept
            continue
        if output.ndim == rank and output.size == output.shape[-1]:
            return rank
    raise ExportError(f"{path}: returns no waveform, expected one for one of {' or '.join(SHAPES.values())}; wrap it")


def _onnx(path: Path) -> tuple[Run, int | None]:
    from quell.export.exported_model import onnx_session

    session = onnx_session(path, threads=1)
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) not in SHAPES:
        found = ", ".join(f"{node.name} {node.shape}" for node in inputs)
        raise ExportError(f"{path}: takes {found}, expected one waveform {SHAPES[2]}; wrap it")
    rate = session.get_modelmeta().custom_metadata_map.get(RATE)

    def run(samples: FloatArray) -> FloatArray:
        output = session.run(None, {inputs[0].name: _shaped(samples, len(inputs[0].shape))})[0]
        return np.asarray(output, np.float32).reshape(-1)

    return run, None if rate is None else int(rate)


def _shaped(samples: FloatArray, rank: int) -> FloatArray:
    return np.ascontiguousarray(samples, np.float32).reshape((1,) * (rank - 1) + (-1,))
