"""Transposed convolutions as plain ones, for inference on CPUs."""

# No `from __future__ import annotations`: TorchScript reads the annotations of these classes.
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn


class Tap(NamedTuple):
    """One weight of a transposed convolution along one axis."""

    phase: int  # the outputs it adds to: their place modulo the stride
    offset: int  # the input it takes, in rows from the output's place divided by the stride
    place: int  # in the kernel


class SubpixelConvolution(nn.Module):
    """A transposed convolution as a plain one that gives the outputs of all phases as channels, which are then put in
    order (Shi et al. 2016, arXiv:1609.05158).

    Made for oneDNN, which prepares a transposed convolution anew for every length that it meets, in about three times
    the time of a call; a plain one is prepared once. Gives m * stride rows for m, the first of the original's.
    """

    def __init__(self, up: nn.ConvTranspose2d) -> None:
        super().__init__()
        bins, frames = taps(up, 0), taps(up, 1)
        (behind, ahead), (before, after) = reach(bins), reach(frames)
        self.stride_bins, self.stride_frames = up.stride
        self.channels, self.apart = up.out_channels, up.groups > 1
        size = (behind + ahead + 1, before + after + 1)
        shared = (min(behind, ahead), min(before, after))  # a pad of its own is a copy
        self.pad = (before - shared[1], after - shared[1], behind - shared[0], ahead - shared[0])
        phases = self.stride_bins * self.stride_frames
        self.convolution = nn.Conv2d(up.in_channels, self.channels * phases, size, 1, shared, groups=up.groups)
        kernel = up.weight.unflatten(0, (up.groups, -1)).transpose(1, 2).flatten(0, 1)  # as that of a Conv2d
        spread = kernel.new_zeros(self.stride_bins, self.stride_frames, *kernel.shape[:2], *size)
        for bin in bins:
            for frame in frames:
                at = (bin.phase, frame.phase, ..., bin.offset + behind, frame.offset + before)
                spread[at] = kernel[..., bin.place, frame.place]
        assert up.bias is not None
        bias = up.bias.expand(self.stride_bins, self.stride_frames, -1)
        if self.apart:  # the outputs of a group lie together
            spread, bias = spread.movedim(2, 0), bias.movedim(2, 0)
        self.convolution.weight = nn.Parameter(spread.reshape(self.convolution.weight.shape))
        self.convolution.bias = nn.Parameter(bias.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, F, N). Returns (B, channels, F * stride_bins, N * stride_frames), channels last."""
        batch, _, bins, frames = x.shape
        if max(self.pad) > 0:
            x = nn.functional.pad(x, self.pad)
        phases = self.convolution(x).permute(0, 2, 3, 1)
        if self.apart:
            phases = phases.reshape(batch, bins, frames, self.channels, self.stride_bins, self.stride_frames)
            ordered = phases.permute(0, 1, 4, 2, 5, 3)
        else:
            phases = phases.reshape(batch, bins, frames, self.stride_bins, self.stride_frames, self.channels)
            ordered = phases.permute(0, 1, 3, 2, 4, 5)
        rows: Tensor = ordered.reshape(batch, bins * self.stride_bins, frames * self.stride_frames, self.channels)
        return rows.permute(0, 3, 1, 2)


def taps(up: nn.ConvTranspose2d, axis: int) -> list[Tap]:
    """Output o of a transposed convolution is the sum over i of x[i] w[o + padding - stride i]."""
    size, stride, padding = up.kernel_size[axis], up.stride[axis], up.padding[axis]
    found = []
    for phase in range(stride):
        steps, first = divmod(phase + int(padding), stride)
        found += [Tap(phase, steps - (place - first) // stride, place) for place in range(first, size, stride)]
    return found


def reach(along: list[Tap]) -> tuple[int, int]:
    """(rows behind, rows ahead) that the taps of one axis take."""
    offsets = [tap.offset for tap in along]
    return -min(offsets), max(offsets)


def use_subpixel(module: nn.Module, pays: Callable[[nn.ConvTranspose2d], bool]) -> None:
    """Replaces a module's transposed convolutions, in place, where that pays."""
    for name, child in module.named_children():
        if not isinstance(child, nn.ConvTranspose2d):
            use_subpixel(child, pays)
        elif pays(child):
            setattr(module, name, SubpixelConvolution(child))


def faster_in_torchscript(up: nn.ConvTranspose2d) -> bool:
    """Not kernels of 3 with steps of 2 both ways, which take 1.8 times the products: residual-unet took 1.23 times the
    time."""
    return SubpixelConvolution(up).convolution.weight.numel() <= 1.5 * up.weight.numel()


def faster_in_onnxruntime(up: nn.ConvTranspose2d) -> bool:
    """Not depthwise ones (1.4 times the time) and not the last, with few channels; the others take 0.8 to 0.9 of the
    time whatever their products, since ONNX Runtime (1.31) blocks plain convolutions only by channels."""
    return up.groups == 1 and up.out_channels > 1
