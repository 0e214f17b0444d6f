"""Where the blocks of a long signal lie, so that together they give the result of one pass."""

# No `from __future__ import annotations`: TorchScript reads the annotations of these functions.
from typing import NamedTuple

from quell.network.denoiser import Denoiser

# A block's length: longer ones cost more per second in page faults (compressed-unet, one thread, medians of 5: 8 s 15 %
# more than 6 s; ONNX Runtime at 16 s twice what it takes at 4 s), shorter ones in context heard twice.
BLOCK_S = 4.0
# A recurrence in both directions hears 4 s to each side: blocks of 8 s took 1.7 times what those of 16 s do.
CONTEXTS = 4


class Blocks(NamedTuple):
    """Of one denoiser; all in samples but the last. A block starts on the network's grid and hears so much of its
    neighbours (`context`) that it ends up like one pass; `margin` of it make the deepest level exact."""

    grid: int
    margin: int
    context: int
    block: int
    state_units: int


def blocks_of(denoiser: Denoiser) -> Blocks:
    """Those in which a denoiser is exported."""
    samples = max(BLOCK_S * denoiser.config.sample_rate, CONTEXTS * denoiser.context)
    block = max(1, round(samples / denoiser.grid)) * denoiser.grid
    return Blocks(denoiser.grid, denoiser.margin, denoiser.context, block, denoiser.network.state_units)


def span(start: int, length: int, grid: int, margin: int, context: int, block: int) -> tuple[int, int, int, int]:
    """What the block that starts at sample `start` of a signal of `length` samples must hear; the rest as in `Blocks`.

    Returns:
        begin and end of it, and `context_frames` and `state_frame` of `Denoiser.forward_block`: from `margin` before a
        block on the deepest level is exact, and there a recurrence takes over.
    """
    begin = max(start - context, 0)
    end = min(start + block + context, length)
    context_frames = (max(start - margin, 0) - begin) // grid
    state_frame = (max(start + block - margin, 0) - begin) // grid
    return begin, end, context_frames, state_frame
