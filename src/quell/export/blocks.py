"""Blocks of a long signal and their context, such that blocks give the result of one pass."""

from typing import NamedTuple

from quell.network.denoiser import Denoiser

# Length of a block: longer ones cost more per second in page faults (compressed-unet, one thread, median of 5: 8 s 15 %
# more than 6 s; ONNX Runtime at 16 s twice its time at 4 s), shorter ones process more context twice.
BLOCK_S = 4.0
# A block has at least this many times its context: that of a recurrence in both directions is 4 s on each side, and
# blocks of 8 s took 1.7 times as long as those of 16 s.
CONTEXTS = 4


class Blocks(NamedTuple):
    """Blocks of one denoiser, in samples."""

    grid: int  # blocks start at multiples of it
    margin: int  # context before a block that makes the network's deepest level exact
    context: int  # of each side of a block, which makes its output exact
    block: int
    state_units: int  # of a recurrence forwards, else 0


def blocks_of(denoiser: Denoiser) -> Blocks:
    """The blocks with which a denoiser is exported."""
    samples = max(BLOCK_S * denoiser.config.sample_rate, CONTEXTS * denoiser.context)
    block = max(1, round(samples / denoiser.grid)) * denoiser.grid
    return Blocks(denoiser.grid, denoiser.margin, denoiser.context, block, denoiser.network.state_units)


def span(start: int, length: int, blocks: Blocks) -> tuple[int, int, int, int]:
    """Input of the block that starts at sample `start` of a signal of `length` samples: its first sample and the one
    after its last, and the arguments `context_frames` and `state_frame` of `Denoiser.forward_block`.

    The deepest level is exact from `margin` before a block, where the recurrence starts.
    """
    begin = max(start - blocks.context, 0)
    end = min(start + blocks.block + blocks.context, length)
    context_frames = (max(start - blocks.margin, 0) - begin) // blocks.grid
    state_frame = (max(start + blocks.block - blocks.margin, 0) - begin) // blocks.grid
    return begin, end, context_frames, state_frame
