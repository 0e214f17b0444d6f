"""A denoiser as one file: TorchScript, which needs nothing but torch, ONNX, or a torch.export program."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quell.atomic import replacing
from quell.blocks import blocks_of, span
from quell.denoiser import Denoiser, rms
from quell.errors import ExportError
from quell.model import METADATA, quiet
from quell.phases import pays_in_torchscript, with_phases

TOLERANCE = 1e-5
FORMATS = {"torchscript": ".pt", "onnx": ".onnx", "pt2": ".pt2"}


class BlockDenoiser(nn.Module):
    """A denoiser for signals of any length: long ones pass in blocks, with the result of one pass.

    Each block is given as much of its neighbours as the network can see, starts on the network's grid, and works at the
    level of the whole signal. A recurrence forwards carries its state on; for one in both directions blocks overlap by
    seconds.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sample_rate = denoiser.config.sample_rate
        self.grid, self.margin, self.context, self.block, _ = blocks_of(denoiser)

    def forward(self, noisy: Tensor) -> Tensor:
        """Clean waveform. Shape: (T,) or (B, T), any T; the same is returned, as float32."""
        batch = noisy.to(torch.float32)
        if noisy.dim() == 1:
            batch = batch.unsqueeze(0)
        length = batch.shape[-1]
        level = rms(batch)
        state = self.denoiser.network.first_state(batch)
        done = [batch[:, :0]]
        for start in range(0, length, self.block):
            begin, end, lead, mark = span(start, length, self.grid, self.margin, self.context, self.block)
            clean, state = self.denoiser.carry_on(batch[:, begin:end], level, state, lead, mark)
            done.append(clean[:, start - begin : start - begin + self.block])
        return torch.cat(done, dim=-1).reshape(noisy.shape)

    @torch.jit.export
    def carry_on(self, noisy: Tensor, level: Tensor, state: Tensor, lead: int, mark: int) -> tuple[Tensor, Tensor]:
        """One block, as `Denoiser.carry_on`: for signals that do not fit into memory."""
        return self.denoiser.carry_on(noisy, level, state, lead, mark)


def export(denoiser: Denoiser, path: Path, metadata: dict[str, Any], kind: str = "torchscript") -> dict[str, Any]:
    """Writes a denoiser with its metadata inside, once what is written was found to equal the eager one; returns all
    of the metadata.

    Args:
        kind: one of FORMATS.

    Raises:
        ExportError: the written denoiser is off or cannot be made, or the file cannot be written.
    """
    config = denoiser.config
    known = {
        "denoiser": asdict(config),
        "sample_rate": config.sample_rate,
        "blocks": blocks_of(denoiser)._asdict(),
        "torch": torch.__version__,
    }
    whole = known | metadata
    text = json.dumps(whole)
    try:
        with replacing(path) as partial:
            write = {"torchscript": _torchscript, "onnx": _onnx, "pt2": _pt2}[kind]
            compare(write(denoiser, partial, text), denoiser, path)
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ExportError(f"{path}: {reason}, expected a path that can be written; choose another") from error
    return whole


def freeze(denoiser: Denoiser) -> torch.jit.ScriptModule:
    """The frozen TorchScript of a denoiser, as it is exported; the denoiser itself stays as it is.

    For CPUs: weights are laid out channels last, and transposed convolutions become plain ones.
    """
    copied = _on_cpu(denoiser)
    with_phases(copied.network, pays_in_torchscript)
    module = BlockDenoiser(copied).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with quiet():
        scripted = torch.jit.script(module.eval())
        frozen: torch.jit.ScriptModule = torch.jit.freeze(scripted, ["sample_rate", "carry_on"])
    return frozen


def _torchscript(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    with quiet():
        freeze(denoiser).save(str(path), _extra_files={METADATA: text})
        return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return]


def _onnx(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        missing = error.name
        raise ExportError(
            f"{path}: {missing} is not installed, expected it for ONNX; pip install 'quell-denoiser[onnx]'"
        ) from None
    from quell.graph import onnx_bytes

    path.write_bytes(onnx_bytes(denoiser, {METADATA: text}))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda noisy: torch.from_numpy(session.run(["clean"], {"noisy": noisy.numpy()})[0])


def _pt2(denoiser: Denoiser, path: Path, text: str) -> Callable[[Tensor], Tensor]:
    from quell.graph import program

    torch.export.save(program(denoiser, onnx=False), path, extra_files={METADATA: text})
    loaded = torch.export.load(path).module()
    return lambda noisy: loaded(noisy)[0]


def compare(written: Callable[[Tensor], Tensor], denoiser: Denoiser, path: Path) -> None:
    """Holds an exported denoiser against the eager one, on short, odd and long signals, with silence in them.

    Raises:
        ExportError: they differ by more than TOLERANCE of the peak.
    """
    eager = _on_cpu(denoiser)
    generator = torch.Generator().manual_seed(0)
    rate, block = denoiser.config.sample_rate, blocks_of(denoiser).block
    with torch.inference_mode():
        # One sample, 0.1 s, a length that no hop divides, and one that takes three blocks.
        for length in (1, rate // 10, rate + 1, 2 * block + rate // 3):
            for batch in (1, 2):
                noisy = 0.1 * torch.randn(batch, length, generator=generator)
                noisy[:, length // 2 : length // 2 + rate // 10] = 0
                expected = eager(noisy)
                # An output that is no mask may be louder than full scale, and rounds accordingly.
                gap = (written(noisy) - expected).abs().max().item() / max(1.0, expected.abs().max().item())
                if not gap <= TOLERANCE:  # written so that NaN fails too
                    found = f"exported output is off by {gap:.1e} at {batch} x {length} samples"
                    raise ExportError(f"{path}: {found}, expected at most {TOLERANCE}")


def _on_cpu(denoiser: Denoiser) -> Denoiser:
    return copy.deepcopy(denoiser).cpu().eval()
