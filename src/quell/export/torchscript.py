"""TorchScript of a denoiser: long signals pass in blocks; frozen for CPUs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quell.export.blocks import blocks_of, span
from quell.export.subpixel_convolution import faster_in_torchscript, use_subpixel
from quell.levels import rms
from quell.network.denoiser import Denoiser

METADATA = "quell.json"


@contextmanager
def quiet() -> Iterator[None]:
    """Quiet about TorchScript's deprecation (torch 2.13, no date): its files are what older torch and C++ load."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        yield


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
            begin, end, context_frames, state_frame = span(
                start, length, self.grid, self.margin, self.context, self.block
            )
            clean, state = self.denoiser.forward_block(batch[:, begin:end], level, state, context_frames, state_frame)
            done.append(clean[:, start - begin : start - begin + self.block])
        return torch.cat(done, dim=-1).reshape(noisy.shape)

    @torch.jit.export
    def carry_on(self, noisy: Tensor, level: Tensor, state: Tensor, lead: int, mark: int) -> tuple[Tensor, Tensor]:
        """One block, as `Denoiser.forward_block`, for signals that do not fit into memory. Its name is part of the
        format of exported files."""
        return self.denoiser.forward_block(noisy, level, state, lead, mark)


def freeze(denoiser: Denoiser) -> torch.jit.ScriptModule:
    """The frozen TorchScript of a denoiser, as it is exported; the denoiser itself stays as it is.

    For CPUs: weights are laid out channels last, and transposed convolutions become plain ones.
    """
    copied = _on_cpu(denoiser)
    use_subpixel(copied.network, faster_in_torchscript)
    module = BlockDenoiser(copied).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with quiet():
        scripted = torch.jit.script(module.eval())
        frozen: torch.jit.ScriptModule = torch.jit.freeze(scripted, ["sample_rate", "carry_on"])
    return frozen


def _on_cpu(denoiser: Denoiser) -> Denoiser:
    return copy.deepcopy(denoiser).cpu().eval()
