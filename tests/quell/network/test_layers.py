"""Layers have the sizes, the statistics and the receptive fields that they document."""

from __future__ import annotations

import itertools
import math
import re

import pytest
import torch
from torch import nn

from quell.config import CHOICES, NetworkConfig, check
from quell.network.layers import FrameNorm, Recurrence, block, down_convolution, up_convolution
from quell.network.unet import UNet

STRIDES = [(1, 1), (2, 1), (2, 2)]


def shape(**settings):
    return NetworkConfig(**({"kernel_bins": 5, "kernel_frames": 3} | settings))


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 5), (5, 3)])
@pytest.mark.parametrize(
    ("convolution", "causal"), [("full", False), ("full", True), ("separable", False), ("separable", True)]
)
@torch.inference_mode()
def test_down_gives_a_row_for_each_stride_and_up_at_least_the_original_rows(convolution, causal, kernel, stride):
    config = shape(convolution=convolution, causal=causal, kernel_bins=kernel[0], kernel_frames=kernel[1])
    down, up = down_convolution(config, 4, 8, stride), up_convolution(config, 8, 4, stride)
    for bins, frames in itertools.product((1, 2, 3, 8, 9), repeat=2):
        deep = down(torch.rand(1, 4, bins, frames))
        assert deep.shape == (1, 8, -(-bins // stride[0]), -(-frames // stride[1]))
        shallow = up(deep)
        assert shallow.shape[:2] == (1, 4)
        assert shallow.shape[2] >= bins and shallow.shape[3] >= frames


@pytest.mark.parametrize("causal", [False, True])
def test_a_separable_convolution_has_a_kernel_for_each_channel_and_a_matrix(causal):
    config = shape(convolution="separable", causal=causal)
    taps = 5 * 3
    for stride in STRIDES:
        assert parameters(down_convolution(config, 12, 20, stride)) == 12 * (taps + 1) + 20 * (12 + 1)
        assert parameters(up_convolution(config, 20, 12, stride)) == 12 * (20 + 1) + 12 * (taps + 1)
        # From one channel, and to one, the convolution is full.
        assert parameters(down_convolution(config, 1, 20, stride)) == 20 * (taps + 1)
        assert parameters(up_convolution(config, 20, 1, stride)) == 20 * taps + 1


def test_a_full_convolution_has_a_kernel_for_each_pair_of_channels():
    config = shape(convolution="full")
    assert parameters(down_convolution(config, 12, 20, (2, 2))) == 20 * (12 * 15 + 1)
    assert parameters(up_convolution(config, 20, 12, (2, 2))) == 12 * (20 * 15 + 1)


@torch.inference_mode()
def test_separable_equals_the_full_convolution_with_the_product_of_its_kernels():
    torch.manual_seed(0)
    separable = down_convolution(shape(convolution="separable"), 4, 8, (2, 2))
    full = down_convolution(shape(convolution="full"), 4, 8, (2, 2))
    depthwise, pointwise = separable
    full.weight.copy_(pointwise.weight * depthwise.weight[:, 0])  # (8, 4, 1, 1) * (4, 5, 3)
    full.bias.copy_(pointwise.bias + pointwise.weight[:, :, 0, 0] @ depthwise.bias)
    inner = torch.rand(2, 4, 12, 12)
    assert (separable(inner) - full(inner)).abs().max() < 1e-5  # float32 sums in another order


@pytest.mark.parametrize("make", [down_convolution, up_convolution])
@torch.inference_mode()
def test_a_causal_convolution_is_the_centred_one_a_frame_later(make):
    torch.manual_seed(0)
    plain, causal = (make(shape(causal=causal), 4, 8, (1, 1)) for causal in (False, True))
    for parameter, source in zip(causal.parameters(), plain.parameters(), strict=True):
        parameter.copy_(source)
    rows = torch.rand(1, 4, 8, 24)
    assert (causal(rows)[..., 1:24] - plain(rows)[..., :23]).abs().max() < 1e-5  # float32; a kernel of 3 frames


@pytest.mark.parametrize("activation", CHOICES["activation"])
@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("make", [down_convolution, up_convolution])
@pytest.mark.parametrize("convolution", ["full", "separable"])
@torch.inference_mode()
def test_signals_keep_their_power_through_an_activation_and_a_convolution(activation, make, stride, convolution):
    torch.manual_seed(0)
    config = shape(activation=activation, convolution=convolution, normalisation="none")
    layer = make(config, 64, 64, stride)
    assert all(not value.any() for name, value in layer.named_parameters() if name.endswith("bias"))
    activated = block(config, nn.Identity(), 64)(torch.randn(4, 64, 40, 40))
    power = layer(activated)[:, :, 6:-6, 6:-6].square().mean().item()
    # A depthwise kernel is 15 random weights a channel: +-37 % each, +-5 % over 64 channels; three times that.
    assert power == pytest.approx(1.0, rel=0.15)


@torch.inference_mode()
def test_frame_norm_gives_every_frame_mean_0_and_variance_1():
    x = 3 + torch.randn(2, 8, 17, 12) * torch.logspace(-1, 2, 12)
    normed = FrameNorm(8)(x)
    assert normed.mean((1, 2)).abs().max() < 1e-5  # float32
    # 1e-5 is added to a variance of 0.01: 0.1 %
    assert (normed.var((1, 2), correction=0) - 1).abs().max() < 2e-3


@torch.inference_mode()
def test_frame_norm_equals_layer_norm_over_channels_and_bins():
    torch.manual_seed(0)
    norm = FrameNorm(8)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 17, 12)
    reference = nn.functional.layer_norm(x.permute(0, 3, 1, 2), (8, 17), eps=1e-5).permute(0, 2, 3, 1)
    assert (norm(x) - (reference * norm.weight + norm.bias)).abs().max() < 1e-5  # float32


@torch.inference_mode()
def test_frame_norm_normalises_frames_independently_and_keeps_silence():
    torch.manual_seed(0)
    norm, x = FrameNorm(8), torch.randn(1, 8, 17, 12)
    changed = x.clone()
    changed[..., 5] *= 100
    changed[..., 6] = 0
    others = [frame for frame in range(12) if frame not in (5, 6)]
    assert torch.equal(norm(changed)[..., others], norm(x)[..., others])
    assert not norm(changed)[..., 6].any()


@pytest.mark.parametrize(("activation", "slope"), [("leaky_relu", 0.2), ("prelu", 0.25), ("elu", None)])
@torch.inference_mode()
def test_a_block_has_the_activation_of_its_name(activation, slope):
    values = torch.tensor([-2.0, -0.5, 0.0, 3.0]).reshape(1, 1, 1, 4)
    found = block(shape(activation=activation, normalisation="none"), nn.Identity(), 1)(values)
    below = torch.expm1(values) if slope is None else slope * values
    assert torch.allclose(found, torch.where(values > 0, values, below))


@pytest.mark.parametrize(("normalisation", "added"), [("none", 0), ("batch", 16), ("frame", 16)])
def test_a_block_has_a_scale_and_an_offset_for_each_channel_it_normalises(normalisation, added):
    config = shape(normalisation=normalisation, activation="elu")
    assert parameters(block(config, nn.Identity(), 8)) == added


@pytest.mark.parametrize(("over", "directions"), [("frequency", 2), ("forward", 1), ("both", 2)])
def test_a_recurrence_has_the_parameters_of_its_gates_and_of_its_projection(over, directions):
    size = 6 if over == "frequency" else 6 * 5
    gates = 3 * 4 * (size + 4 + 2)  # three gates of 4 units, with two biases each
    assert parameters(Recurrence(over, 6, 5, 4, 16)) == directions * gates + size * (directions * 4 + 1)


@pytest.mark.parametrize("over", ["frequency", "forward", "both"])
@torch.inference_mode()
def test_a_recurrence_adds_to_its_input(over):
    recurrence = Recurrence(over, 6, 5, 4, 16)
    nn.init.zeros_(recurrence.back.weight)
    nn.init.zeros_(recurrence.back.bias)
    x = torch.rand(2, 6, 5, 7)
    assert torch.equal(recurrence(x, torch.zeros(1, 2, 4), 0, 0)[0], x)


@torch.inference_mode()
def test_a_recurrence_forwards_skips_its_context():
    recurrence, state = Recurrence("forward", 6, 5, 4, 16), torch.rand(1, 2, 4)
    x = torch.rand(2, 6, 5, 9)
    whole, end = recurrence(x, state, 0, 9)
    behind = torch.cat([torch.rand(2, 6, 5, 3), x], -1)
    answer, after = recurrence(behind, state, 3, 12)
    assert (answer[..., 3:] - whole).abs().max() < 1e-6  # float32 sums over other lengths
    assert (after - end).abs().max() < 1e-6


@pytest.mark.parametrize("frames", [17, 24, 25, 50])
@torch.inference_mode()
def test_a_recurrence_in_both_directions_cross_fades_windows(frames):
    recurrence, x = Recurrence("both", 6, 5, 4, 16), torch.rand(2, 6, 5, frames)
    total, weights = torch.zeros_like(x), torch.zeros(frames)
    for start in [*range(0, frames - 16, 8), frames - 16]:
        window = slice(start, start + 16)
        weight = 8 - (torch.arange(16) - 7.5).abs()
        total[..., window] += weight * recurrence(x[..., window], torch.zeros(1, 2, 0), 0, 0)[0]
        weights[window] += weight
    answer, _ = recurrence(x, torch.zeros(1, 2, 0), 0, 0)
    assert (answer - total / weights).abs().max() < 1e-6  # float32 sums in another order


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("convolution", "dense", "'dense', expected one of full, separable"),
        ("downsampling", "max", "'max', expected one of stride, pool"),
        ("normalisation", "layer", "'layer', expected one of batch, frame, none"),
        ("activation", "relu", "'relu', expected one of leaky_relu, prelu, elu"),
        ("bottleneck", "time", "'time', expected one of none, frequency, forward, both"),
        ("output", "relu", "'relu', expected one of sigmoid, tanh, softplus, linear"),
        ("depth", 1, "1, expected 2 to 7"),
        ("depth", 8, "8, expected 2 to 7"),
        ("time_stride", 3, "3, expected 1 to 2"),
        ("time_stride", 0, "0, expected 1 to 2"),
        ("kernel_bins", 4, "4, expected an odd number"),
        ("kernel_bins", 0, "0, expected an odd number"),
        ("kernel_frames", 2, "2, expected an odd number"),
        ("kernel_frames", -1, "-1, expected an odd number"),
        ("base_channels", 0, "0, expected at least 1"),
        ("convolutions_per_level", 0, "0, expected at least 1"),
        ("bottleneck_units", 0, "0, expected at least 1"),
        ("bottleneck_channels", -1, "-1, expected at least 0"),
        ("dropout", -0.1, "-0.1, expected 0 to below 1"),
        ("dropout", 1.0, "1.0, expected 0 to below 1"),
        ("dropout", math.nan, "nan, expected 0 to below 1"),
    ],
)
def test_an_option_out_of_range_is_refused_with_its_value(name, value, expected):
    for build in (check, lambda config: UNet(config, 33)):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{name}: {expected}')}$"):
            build(NetworkConfig(**{name: value}))


def test_a_causal_network_with_a_recurrence_in_both_directions_is_refused():
    with pytest.raises(ValueError, match=r"^bottleneck: 'both' with causal, expected none, frequency or forward;"):
        check(NetworkConfig(causal=True, bottleneck="both"))
