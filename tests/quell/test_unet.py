"""Any plane is legal, the mask is one, and the network sees no further than it says."""

from __future__ import annotations

import re

import pytest
import torch

from quell.unet import UNet


def unet(depth=3, base_channels=4, growth=1.5, kernel=(3, 3), time_stride=2, dropout=0.0):
    torch.manual_seed(0)
    network = UNet(depth, base_channels, growth, kernel, time_stride, dropout)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.normal_(module.bias)
    return network.eval()


@pytest.mark.parametrize(
    ("depth", "kernel", "time_stride"), [(2, (3, 3), 1), (3, (5, 3), 2), (4, (1, 5), 2), (7, (7, 1), 2)]
)
@torch.inference_mode()
def test_any_number_of_bins_and_frames_gives_a_mask_of_that_size(depth, kernel, time_stride):
    network = unet(depth=depth, kernel=kernel, time_stride=time_stride)
    for bins, frames in [(1, 1), (1, 9), (9, 1), (2, 3), (5, 8), (33, 17), (64, 16)]:
        mask = network(10 * torch.randn(2, bins, frames))
        assert mask.shape == (2, bins, frames)
        assert mask.min() >= 0 and mask.max() <= 1
        assert mask.unique().numel() > 1


@pytest.mark.parametrize("time_stride", [1, 2])
@pytest.mark.parametrize("kernel_frames", [1, 3, 5])
@pytest.mark.parametrize("depth", [2, 3, 4])
@torch.inference_mode()
def test_receptive_field_lies_within_the_context(depth, kernel_frames, time_stride):
    network = unet(depth=depth, kernel=(3, kernel_frames), time_stride=time_stride)
    context, frames = network.context_frames, 4 * network.context_frames + 64
    features = torch.rand(1, 6, frames)
    before = network(features)
    reach = 0
    for phase in range(network.time_factor):  # strided levels treat odd frames otherwise than even ones
        at = frames // 2 + phase
        changed = features.clone()
        changed[:, :, at] += 100
        moved = torch.nonzero((network(changed) != before).any(1)[0])[:, 0] - at
        reach = max(reach, moved.abs().max().item())
    assert reach <= context
    # It is no idle bound either, kernels of one frame apart: blocks would pay for context that nothing looks at.
    assert kernel_frames == 1 or reach >= context // 2


@torch.inference_mode()
def test_a_shift_by_the_time_factor_shifts_the_mask():
    network = unet(depth=4)
    features = torch.rand(1, 9, 200)
    factor, context = network.time_factor, network.context_frames
    assert factor == 8
    shifted = network(features[:, :, factor:])
    inner = slice(context, 200 - factor - context)
    gap = shifted[:, :, inner] - network(features)[:, :, factor:][:, :, inner]
    assert gap.abs().max() < 1e-5  # float32 sums in another order


def test_channels_grow_in_multiples_of_4():
    network = unet(depth=4, base_channels=8, growth=1.41)
    assert [block[0].out_channels for block in network.encoder] == [8, 12, 16, 24]  # 8, 11.3, 15.9, 22.4


def test_dropout_drops_whole_channels_while_training_only():
    network = unet(dropout=0.5)
    features = torch.rand(1, 9, 20)
    assert torch.equal(network(features), network(features))
    network.train()
    assert not torch.equal(network(features), network(features))
    block = network.encoder[0][-1]
    assert {0, 20} >= set((block(torch.ones(1, 50, 20, 1)) == 0).sum(2).flatten().tolist())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 1}, "depth: 1, expected 2 to 7 levels"),
        ({"depth": 8}, "depth: 8, expected 2 to 7 levels"),
        ({"time_stride": 3}, "time_stride: 3, expected 1 or 2"),
        ({"time_stride": 0}, "time_stride: 0, expected 1 or 2"),
        ({"kernel": (4, 3)}, "kernel: (4, 3), expected odd numbers"),
        ({"kernel": (3, 2)}, "kernel: (3, 2), expected odd numbers"),
        ({"dropout": -0.1}, "dropout: -0.1, expected 0 to 1"),
        ({"dropout": 1.5}, "dropout: 1.5, expected 0 to 1"),
    ],
)
def test_an_argument_out_of_range_is_refused_with_its_value(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        unet(**settings)
