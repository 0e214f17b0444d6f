"""A denoiser as frozen TorchScript for CPUs, which processes long signals in blocks."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from quell.export.blocks import Blocks, blocks_of, span
from quell.export.subpixel_convolution import faster_in_torchscript, use_subpixel
from quell.levels import rms
from quell.network.denoiser import Denoiser, cpu_copy

METADATA = "quell.json"


@contextmanager
def quiet() -> Iterator[None]:
    """Hides TorchScript's deprecation (torch 2.13, no date): older torch and C++ load only its files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=FutureWarning)
        yield


class BlockDenoiser(nn.Module):
    """A denoiser for signals of any length, processed in blocks, with the result of one pass.

    Each block is processed with its context, at the level of the whole signal. The state of a recurrence forwards goes
    from block to block; for one in both directions blocks overlap by seconds.
    """

    blocks: Blocks

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.sample_rate = denoiser.config.sample_rate
        self.blocks = blocks_of(denoiser)

    def forward(self, noisy: Tensor) -> Tensor:
        """Clean waveform. Shape: (T,) or (B, T), any T; returned alike, float32."""
        batch = noisy.to(torch.float32)
        if noisy.dim() == 1:
            batch = batch.unsqueeze(0)
        length = batch.shape[-1]
        level = rms(batch)
        state = self.denoiser.network.first_state(batch)
        outputs = [batch[:, :0]]
        for start in range(0, length, self.blocks.block):
            begin, end, context_frames, state_frame = span(start, length, self.blocks)
            clean, state = self.denoiser.forward_block(batch[:, begin:end], level, state, context_frames, state_frame)
            outputs.append(clean[:, start - begin : start - begin + self.blocks.block])
        return torch.cat(outputs, dim=-1).reshape(noisy.shape)

    @torch.jit.export
    def carry_on(self, noisy: Tensor, level: Tensor, state: Tensor, lead: int, mark: int) -> tuple[Tensor, Tensor]:
        """`Denoiser.forward_block`, for signals that do not fit into memory. The name of this method and those of its
        parameters belong to the format of exported files."""
        return self.denoiser.forward_block(noisy, level, state, lead, mark)


def freeze(denoiser: Denoiser) -> torch.jit.ScriptModule:
    """The TorchScript of a denoiser, as it is exported; the denoiser itself is not changed.

    For CPUs: weights are laid out channels last, and transposed convolutions become sub-pixel ones.
    """
    denoiser = cpu_copy(denoiser)
    use_subpixel(denoiser.network, faster_in_torchscript)
    module = BlockDenoiser(denoiser).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with quiet():
        scripted = torch.jit.script(module.eval())
        frozen: torch.jit.ScriptModule = torch.jit.freeze(scripted, ["sample_rate", "carry_on"])
    return frozen
