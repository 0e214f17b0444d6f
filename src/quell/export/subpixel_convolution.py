"""Transposed convolutions as sub-pixel convolutions, which are faster on CPUs."""

from collections.abc import Callable

from torch import Tensor, nn


class SubpixelConvolution(nn.Module):
    """A transposed convolution as a sub-pixel convolution (Shi et al. 2016, arXiv:1609.05158): all output phases as
    channels of a plain one, then reordered. Gives m * stride rows for m, the first of the original's.

    For oneDNN, which prepares a transposed convolution again for every new length, in about three times the time of a
    call; a plain one is prepared once.
    """

    def __init__(self, up: nn.ConvTranspose2d) -> None:
        super().__init__()
        bins, frames = taps(up, 0), taps(up, 1)
        (below, above), (before, after) = (
            (-min(offset for _, offset in axis), max(offset for _, offset in axis)) for axis in (bins, frames)
        )
        self.stride_bins, self.stride_frames = up.stride
        self.channels, self.depthwise = up.out_channels, up.groups > 1
        size = (below + above + 1, before + after + 1)
        shared = (min(below, above), min(before, after))  # padding outside the convolution copies
        self.pad = (before - shared[1], after - shared[1], below - shared[0], above - shared[0])
        phases = self.stride_bins * self.stride_frames
        self.convolution = nn.Conv2d(up.in_channels, self.channels * phases, size, 1, shared, groups=up.groups)
        kernel = up.weight.unflatten(0, (up.groups, -1)).transpose(1, 2).flatten(0, 1)  # as that of a Conv2d
        spread = kernel.new_zeros(self.stride_bins, self.stride_frames, *kernel.shape[:2], *size)
        for row, (bin_phase, bin_offset) in enumerate(bins):
            for column, (frame_phase, frame_offset) in enumerate(frames):
                weight = kernel[..., row, column]
                spread[bin_phase, frame_phase, ..., bin_offset + below, frame_offset + before] = weight
        assert up.bias is not None
        bias = up.bias.expand(self.stride_bins, self.stride_frames, -1)
        if self.depthwise:  # the outputs of a group are adjacent
            spread, bias = spread.movedim(2, 0), bias.movedim(2, 0)
        self.convolution.weight = nn.Parameter(spread.reshape(self.convolution.weight.shape))
        self.convolution.bias = nn.Parameter(bias.flatten())

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (B, C, F, N). Returns (B, channels, F * stride_bins, N * stride_frames), channels last."""
        batch, _, bins, frames = x.shape
        if max(self.pad) > 0:
            x = nn.functional.pad(x, self.pad)
        phases = self.convolution(x).permute(0, 2, 3, 1)
        if self.depthwise:
            phases = phases.reshape(batch, bins, frames, self.channels, self.stride_bins, self.stride_frames)
            ordered = phases.permute(0, 1, 4, 2, 5, 3)
        else:
            phases = phases.reshape(batch, bins, frames, self.stride_bins, self.stride_frames, self.channels)
            ordered = phases.permute(0, 1, 3, 2, 4, 5)
        rows: Tensor = ordered.reshape(batch, bins * self.stride_bins, frames * self.stride_frames, self.channels)
        return rows.permute(0, 3, 1, 2)


def taps(up: nn.ConvTranspose2d, axis: int) -> list[tuple[int, int]]:
    """For each weight of the kernel along an axis: the phase of the outputs that it adds to (their index modulo the
    stride), and the offset of its input from the output's index divided by the stride.

    Output o of a transposed convolution is the sum over i of x[i] w[o + padding - stride i].
    """
    stride, padding = up.stride[axis], int(up.padding[axis])
    return [((place - padding) % stride, -((place - padding) // stride)) for place in range(up.kernel_size[axis])]


def use_subpixel(module: nn.Module, is_faster: Callable[[nn.ConvTranspose2d], bool]) -> None:
    """Replaces the transposed convolutions of a module, in place, where that is faster."""
    for name, child in module.named_children():
        if not isinstance(child, nn.ConvTranspose2d):
            use_subpixel(child, is_faster)
        elif is_faster(child):
            setattr(module, name, SubpixelConvolution(child))


def faster_in_torchscript(up: nn.ConvTranspose2d) -> bool:
    """Not for kernels of 3 with a stride of 2 in both axes, which take 1.8 times the products: residual-unet took 1.23
    times as long."""
    return SubpixelConvolution(up).convolution.weight.numel() <= 1.5 * up.weight.numel()


def faster_in_onnxruntime(up: nn.ConvTranspose2d) -> bool:
    """Not for depthwise ones (1.4 times as long) or the last one, with few channels; others take 0.8 to 0.9 of the time
    whatever their products, since ONNX Runtime (1.31) blocks only plain convolutions by channels."""
    return up.groups == 1 and up.out_channels > 1
