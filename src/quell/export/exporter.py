"""Writes a denoiser as one file (TorchScript, ONNX or torch.export) and checks it against the eager denoiser."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quell import check_sums
from quell.atomic import WRITTEN_MEANWHILE, replacing
from quell.errors import ExportError
from quell.export.blocks import blocks_of
from quell.export.exported_model import onnx_session
from quell.export.torchscript import METADATA, freeze, quiet
from quell.network.denoiser import Denoiser, cpu_copy
from quell.progress import ignore

TOLERANCE = 1e-5


def export(
    denoiser: Denoiser,
    path: Path,
    metadata: dict[str, Any],
    kind: str = "torchscript",
    accept: Callable[[Path], None] = ignore,
    *,
    overwrite: bool = True,
) -> dict[str, Any]:
    """Writes a denoiser and its metadata to one file, checked before it appears; returns all of the metadata.

    Args:
        kind: one of `quell.config.FORMATS`.
        accept: called with the written file before it appears at `path`, and not at all if this raises.
        overwrite: replace a file of that name, also one that appears meanwhile.

    Raises:
        ExportError: the written denoiser differs from the eager one or cannot be made, or the file cannot be written.
    """
    config = denoiser.config
    metadata = {
        "denoiser": asdict(config),
        "sample_rate": config.sample_rate,
        "blocks": blocks_of(denoiser)._asdict(),
        "torch": torch.__version__,
    } | metadata
    write = {"torchscript": _torchscript, "onnx": _onnx, "pt2": _pt2}[kind]
    try:
        with replacing(path, overwrite=overwrite) as partial:
            try:
                compare(write(denoiser, partial, json.dumps(metadata)), denoiser, path)
            except RuntimeError as error:  # of torch, for a file that it cannot write
                raise OSError(error) from error
            accept(partial)
    except FileExistsError as error:
        raise ExportError(f"{path}: {WRITTEN_MEANWHILE}") from error
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"{path}: {reason}, expected a path that can be written; choose another") from error
    return metadata


def _torchscript(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    with quiet():
        freeze(denoiser).save(str(path), _extra_files={METADATA: text})
        check_sums.seal(path)
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return]


def _onnx(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime  # noqa: F401 - before the work of writing
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ExportError(
            f"{path}: {error.name} is not installed, expected it for ONNX; pip install 'quell-denoiser[onnx]'"
        ) from None
    from quell.export.onnx_graph import onnx_bytes

    path.write_bytes(onnx_bytes(denoiser, {METADATA: text}))
    check_sums.seal(path)
    session = onnx_session(path)
    return lambda noisy: torch.from_numpy(session.run(["clean"], {"noisy": noisy.numpy()})[0])


def _pt2(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    from quell.export.onnx_graph import program

    torch.export.save(program(denoiser, onnx=False), path, extra_files={METADATA: text})
    check_sums.seal(path)
    loaded = torch.export.load(path).module()
    return lambda noisy: loaded(noisy)[0]


def compare(written: Callable[[Tensor], Tensor], denoiser: Denoiser, path: Path) -> None:
    """Raises ExportError if an exported denoiser differs from the eager one by more than TOLERANCE of the peak, on
    short, odd and long signals with silence in them."""
    eager = cpu_copy(denoiser)
    generator = torch.Generator().manual_seed(0)
    rate, block = denoiser.config.sample_rate, blocks_of(denoiser).block
    with torch.inference_mode():
        # One sample, 0.1 s, a length that no hop divides, and three blocks.
        for length in (1, rate // 10, rate + 1, 2 * block + rate // 3):
            for batch in (1, 2):
                noisy = 0.1 * torch.randn(batch, length, generator=generator)
                noisy[:, length // 2 : length // 2 + rate // 10] = 0
                expected = eager(noisy)
                # An output that is not a mask may exceed full scale; its rounding then grows, too.
                gap = (written(noisy) - expected).abs().max().item() / max(1.0, expected.abs().max().item())
                if not gap <= TOLERANCE:  # written so that NaN fails too
                    problem = f"exported output is off by {gap:.1e} at {batch} x {length} samples"
                    raise ExportError(f"{path}: {problem}, expected at most {TOLERANCE}")
