"""A denoiser as one TorchScript file that needs nothing but torch, and back."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quell.atomic import replacing
from quell.denoiser import Denoiser, rms
from quell.errors import ExportError

METADATA = "quell.json"
# A block's length: longer ones cost more per second in page faults (60 s in one pass: twice the time of 4 s).
BLOCK_S = 8.0
TOLERANCE = 1e-5


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
        self.grid, self.margin, self.context = denoiser.grid, denoiser.margin, denoiser.context
        self.block = max(1, round(BLOCK_S * self.sample_rate / self.grid)) * self.grid

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
            begin = max(start - self.context, 0)
            end = min(start + self.block + self.context, length)
            # From `margin` before a block on, the deepest level is exact: there the recurrence takes over.
            lead = (max(start - self.margin, 0) - begin) // self.grid
            mark = (max(start + self.block - self.margin, 0) - begin) // self.grid
            clean, state = self.denoiser.carry_on(batch[:, begin:end], level, state, lead, mark)
            done.append(clean[:, start - begin : start - begin + self.block])
        return torch.cat(done, dim=-1).reshape(noisy.shape)


@dataclass(frozen=True)
class Exported:
    """An exported file, loaded: call it with (T,) or (B, T) float32 at `sample_rate`."""

    module: torch.jit.ScriptModule
    sample_rate: int
    metadata: dict[str, Any]

    def __call__(self, noisy: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.module(noisy)  # type: ignore[no-any-return]


def export(denoiser: Denoiser, path: Path, metadata: dict[str, Any]) -> None:
    """Writes the frozen TorchScript of a denoiser, with its metadata inside, once it was found to equal the eager one.

    Raises:
        ExportError: the scripted output is off, or the file cannot be written.
    """
    frozen = freeze(denoiser)
    _compare(frozen, BlockDenoiser(_on_cpu(denoiser)), path)
    config = denoiser.config
    known = {"denoiser": asdict(config), "sample_rate": config.sample_rate, "torch": torch.__version__}
    with _scripting():
        try:
            with replacing(path) as partial:
                frozen.save(str(partial), _extra_files={METADATA: json.dumps(known | metadata)})
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise ExportError(f"{path}: {reason}, expected a path that can be written; choose another") from error


def freeze(denoiser: Denoiser) -> torch.jit.ScriptModule:
    """The frozen TorchScript of a denoiser, as it is exported; the denoiser itself stays as it is.

    Weights are laid out channels last, which takes less time on CPUs.
    """
    module = BlockDenoiser(_on_cpu(denoiser)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with _scripting():
        frozen: torch.jit.ScriptModule = torch.jit.freeze(torch.jit.script(module.eval()), ["sample_rate"])
    return frozen


def load(path: Path) -> Exported:
    """An exported file, on the CPU.

    Raises:
        ExportError: the file is missing or is not one of ours.
    """
    extra = {METADATA: ""}
    if not path.is_file():
        raise ExportError(f"{path}: no such file, expected an exported denoiser; make one with `quell export`")
    with _scripting():
        try:
            module = torch.jit.load(str(path), map_location="cpu", _extra_files=extra)
            metadata = json.loads(extra[METADATA])
            return Exported(module.eval(), int(metadata["sample_rate"]), metadata)
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise ExportError(f"{path}: not an exported denoiser, expected a file made by `quell export`") from error


def _compare(scripted: nn.Module, eager: BlockDenoiser, path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rate = eager.sample_rate
    with torch.inference_mode():
        # One sample, 0.1 s, a length that no hop divides, and one that takes three blocks.
        for length in (1, rate // 10, rate + 1, 2 * eager.block + rate // 3):
            for batch in (1, 2):
                noisy = 0.1 * torch.randn(batch, length, generator=generator)
                expected = eager(noisy)
                # An output that is no mask may be louder than full scale, and rounds accordingly.
                gap = (scripted(noisy) - expected).abs().max().item() / max(1.0, expected.abs().max().item())
                if not gap <= TOLERANCE:  # written so that NaN fails too
                    found = f"scripted output is off by {gap:.1e} at {batch} x {length} samples"
                    raise ExportError(f"{path}: {found}, expected at most {TOLERANCE}")


def _on_cpu(denoiser: Denoiser) -> Denoiser:
    return copy.deepcopy(denoiser).cpu().eval()


@contextmanager
def _scripting() -> Iterator[None]:
    """Quiet about TorchScript's deprecation (torch 2.13, no date): its files are what older torch and C++ load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        yield
