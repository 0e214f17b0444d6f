"""Any number of bins and frames is legal, and receptive fields are those documented, for every configuration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from quell.config import NetworkConfig
from quell.network.unet import UNet

PLANES = [(1, 1), (1, 9), (9, 1), (2, 3), (5, 8), (33, 17), (64, 16)]
RANGES = {"sigmoid": (0, 1), "tanh": (-1, 1), "softplus": (0, math.inf), "linear": (-math.inf, math.inf)}
# Values of the options that determine the receptive field.
KERNELS = (1, 3, 5)
SHAPES = [
    {"downsampling": downsampling, "causal": causal, "convolutions_per_level": convolutions, "time_stride": stride}
    for downsampling, causal, convolutions, stride in itertools.product(
        ("stride", "pool"), (False, True), (1, 2), (1, 2)
    )
]


def network_settings(settings):
    return {name: value for name, value in settings.items() if name in NetworkConfig.__dataclass_fields__}


def context_of(network):
    """Frames before or after a frame on which the output depends through convolutions; the larger number."""
    return max(map(sum, zip(network.encoder_reach, network.decoder_reach, strict=True)))


def dependent_frames(network, features, at):
    """Frames, counted from `at`, whose output changes with frame `at` of the input."""
    changed = features.clone()
    changed[..., at] += 100
    return torch.nonzero((network(changed) != network(features)).any(2)[0, 0])[:, 0] - at


@pytest.mark.parametrize(
    ("depth", "kernel", "time_stride"), [(2, (3, 3), 1), (3, (5, 3), 2), (4, (1, 5), 2), (7, (7, 1), 2)]
)
@torch.inference_mode()
def test_the_output_has_the_bins_and_frames_of_the_input(tiny_unet, depth, kernel, time_stride):
    network = tiny_unet(depth=depth, kernel_bins=kernel[0], kernel_frames=kernel[1], time_stride=time_stride)
    for bins, frames in PLANES:
        mask = network(10 * torch.randn(2, 1, bins, frames))
        assert mask.shape == (2, 1, bins, frames)
        assert mask.min() >= 0 and mask.max() <= 1
        assert mask.unique().numel() > 1


@pytest.mark.parametrize("number", range(40))
@torch.inference_mode()
def test_the_output_of_any_configuration_has_the_size_of_the_input_and_the_range_of_its_activation(
    tiny_unet, drawn_settings, number
):
    settings = network_settings(drawn_settings(number))
    low, high = RANGES[settings["output"]]
    over_time = settings["bottleneck"] in ("forward", "both")
    network = tiny_unet(bins=33, **settings)
    for bins, frames in [(33, n) for n in (1, 2, 3, 8, 17)] if over_time else PLANES:
        answer = network(10 * torch.randn(2, 1, bins, frames))
        assert answer.shape == (2, 1, bins, frames)
        assert torch.isfinite(answer).all()
        assert answer.min() >= low and answer.max() <= high


@pytest.mark.parametrize("bottleneck", ["forward", "both"])
@torch.inference_mode()
def test_a_recurrence_over_time_refuses_inputs_with_another_number_of_deepest_bins(tiny_unet, bottleneck):
    network = tiny_unet(bins=33, bottleneck=bottleneck)  # 33 -> 17 -> 9 -> 5
    for bins in (33, 34, 40):  # 5 at the deepest level, too
        assert network(torch.rand(1, 1, bins, 7)).shape == (1, 1, bins, 7)
    for bins, deepest in ((32, 4), (41, 6), (1, 1)):
        with pytest.raises(ValueError, match=f"^{deepest} bins at the deepest level, expected 5$"):
            network(torch.rand(1, 1, bins, 7))


@pytest.mark.parametrize("time_stride", [1, 2])
@pytest.mark.parametrize("kernel_frames", [1, 3, 5])
@pytest.mark.parametrize("depth", [2, 3, 4])
@torch.inference_mode()
def test_the_receptive_field_lies_within_the_context(tiny_unet, depth, kernel_frames, time_stride):
    network = tiny_unet(depth=depth, kernel_frames=kernel_frames, time_stride=time_stride)
    context = context_of(network)
    features = torch.rand(1, 1, 6, 4 * context + 64)
    # Strided levels treat odd and even frames differently.
    phases = range(2 * context + 32, 2 * context + 32 + network.time_factor)
    reach = max(dependent_frames(network, features, at).abs().max().item() for at in phases)
    assert reach <= context
    # The bound is tight, except with kernels of one frame: else blocks would pay for unused context.
    assert kernel_frames == 1 or reach >= context // 2


@pytest.mark.parametrize("convolution", ["full", "separable"])
@pytest.mark.parametrize("kernel_frames", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
@torch.inference_mode()
def test_a_frame_changes_the_output_from_the_look_ahead_before_it_to_the_past_after_it(
    tiny_unet, shape, kernel_frames, convolution
):
    # Without skips everything passes the deepest level.
    network = tiny_unet(kernel_frames=kernel_frames, convolution=convolution, output="linear", skips=False, **shape)
    past = network.encoder_reach[0] + network.decoder_reach[0]
    ahead = network.look_ahead_frames
    assert ahead <= context_of(network) and past <= context_of(network)
    start = ahead + 8
    features = torch.rand(1, 1, 6, start + past + 16)
    moved = torch.cat([dependent_frames(network, features, start + phase) for phase in range(network.time_factor)])
    assert -ahead <= moved.min() and moved.max() <= past
    if shape["causal"]:
        assert ahead == 0
    # The bounds are tight: the look-ahead is latency, the past is context that blocks pay for.
    assert moved.min() <= -0.9 * ahead and moved.max() >= 0.9 * past


@pytest.mark.parametrize("bottleneck", ["none", "frequency", "forward"])
@pytest.mark.parametrize("normalisation", ["batch", "frame", "none"])
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape["causal"]])
@torch.inference_mode()
def test_a_causal_network_depends_on_no_later_frame(tiny_unet, shape, normalisation, bottleneck):
    network = tiny_unet(normalisation=normalisation, bottleneck=bottleneck, output="linear", **shape)
    assert network.look_ahead_frames == 0
    features = torch.rand(1, 1, 9, 60)
    for at in range(30, 30 + network.time_factor):
        assert dependent_frames(network, features, at).min() >= 0


@pytest.mark.parametrize("downsampling", ["stride", "pool"])
@pytest.mark.parametrize(
    ("bottleneck", "causal"),
    [("frequency", False), ("frequency", True), ("forward", False), ("forward", True), ("both", False)],
)
@torch.inference_mode()
def test_a_recurrence_over_time_extends_the_receptive_field_to_the_past_or_to_all_frames(
    tiny_unet, bottleneck, downsampling, causal
):
    network = tiny_unet(bottleneck=bottleneck, output="linear", downsampling=downsampling, causal=causal)
    # Update gates of 0.98 and more: initial ones forget within ten steps as far as float32 resolves.
    for name, bias in network.bottleneck.gru.named_parameters():
        if "bias_ih" in name:
            nn.init.constant_(bias[8:16], 4.0)
    past, ahead = network.encoder_reach[0] + network.decoder_reach[0], network.look_ahead_frames
    at, frames = 2 * context_of(network), 5 * context_of(network)
    moved = set(dependent_frames(network, torch.rand(1, 1, 9, frames), at).tolist())
    near = set(range(-ahead, past + 1))
    before, after = set(range(-at, -ahead)), set(range(past + 1, frames - at))
    if bottleneck == "frequency":
        assert moved <= near
    elif bottleneck == "forward":
        assert after <= moved and not before & moved
    else:
        assert after <= moved and before <= moved


@pytest.mark.parametrize("bottleneck", ["frequency", "forward", "both"])
def test_a_recurrence_reads_bottleneck_channels_and_writes_all_channels(bottleneck):
    # Eight channels at the deepest level, of 5 bins.
    networks = {
        few: UNet(
            NetworkConfig(depth=3, base_channels=8, growth=1.0, bottleneck=bottleneck, bottleneck_channels=few), 33
        )
        for few in (0, 2, 8, 9)
    }
    sizes = {few: network.bottleneck.size for few, network in networks.items()}
    over_time = 1 if bottleneck == "frequency" else 5
    assert sizes == {0: 8 * over_time, 2: 2 * over_time, 8: 8 * over_time, 9: 8 * over_time}
    assert [network.narrow is None for network in networks.values()] == [True, False, True, True]
    assert networks[2].widen.weight.shape == (8, 2, 1, 1)


@torch.inference_mode()
def test_a_recurrence_over_frequency_depends_on_all_bins_of_a_frame(tiny_unet):
    features = torch.rand(1, 1, 200, 9)
    changed = features.clone()
    changed[:, :, 100] += 100
    for bottleneck, on_all in (("frequency", True), ("none", False)):
        network = tiny_unet(bins=200, bottleneck=bottleneck, output="linear")
        moved = (network(changed) != network(features)).any(3)
        assert moved.all().item() == on_all


@pytest.mark.parametrize("downsampling", ["stride", "pool"])
@torch.inference_mode()
def test_the_output_depends_on_every_value_with_kernels_of_one(tiny_unet, downsampling):
    network = tiny_unet(
        kernel_bins=1, kernel_frames=1, downsampling=downsampling, activation="elu", output="linear", skips=False
    )
    features = torch.rand(1, 1, 9, 11)
    before = network(features)
    for bin_, frame in itertools.product(range(9), range(11)):
        changed = features.clone()
        changed[..., bin_, frame] += 100
        assert not torch.equal(network(changed), before)


@pytest.mark.parametrize("bottleneck", ["none", "frequency"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("downsampling", ["stride", "pool"])
@torch.inference_mode()
def test_a_shift_by_the_time_factor_shifts_the_output(tiny_unet, downsampling, causal, bottleneck):
    network = tiny_unet(depth=4, downsampling=downsampling, causal=causal, bottleneck=bottleneck)
    factor, context = network.time_factor, context_of(network)
    assert factor == 8
    frames = 2 * context + 80
    features = torch.rand(1, 1, 9, frames)
    shifted = network(features[..., factor:])
    inner = slice(context, frames - factor - context)
    gap = shifted[..., inner] - network(features)[..., factor:][..., inner]
    assert gap.abs().max() < 1e-5  # float32 sums in another order


@torch.inference_mode()
def test_a_recurrence_forwards_continues_from_its_state(tiny_unet):
    network = tiny_unet(bottleneck="forward", causal=True, time_stride=1, kernel_frames=1, downsampling="pool")
    features = torch.rand(2, 1, 9, 30)
    whole, state = network.forward_block(features, network.first_state(features), 0, 30)
    assert torch.equal(whole, network(features))  # where the state is taken changes nothing
    first, between = network.forward_block(features[..., :13], network.first_state(features), 0, 13)
    second, end = network.forward_block(features[..., 13:], between, 0, 17)
    # 1e-5: float32 sums over other lengths round differently
    assert (torch.cat([first, second], 3) - whole).abs().max() < 1e-5
    assert (end - state).abs().max() < 1e-5
    _, inner = network.forward_block(features, network.first_state(features), 0, 13)
    assert (inner - between).abs().max() < 1e-5


@pytest.mark.parametrize("downsampling", ["stride", "pool"])
@torch.inference_mode()
def test_only_the_first_of_several_planes_passes_the_output_activation(tiny_unet, downsampling):
    network = tiny_unet(downsampling=downsampling, planes=3)
    planes = 100 * torch.randn(2, 3, 9, 17, generator=torch.Generator().manual_seed(0))
    answer = network(planes)
    assert answer.shape == planes.shape
    assert answer[:, 0].min() >= 0 and answer[:, 0].max() <= 1
    assert answer[:, 1:].min() < 0 and answer[:, 1:].max() > 1
    for plane in range(3):  # the output depends on all of them
        changed = planes.clone()
        changed[:, plane] += 100
        assert not torch.equal(network(changed), answer)


@pytest.mark.parametrize("downsampling", ["stride", "pool"])
def test_channels_grow_in_multiples_of_4(downsampling):
    config = NetworkConfig(depth=4, base_channels=8, growth=1.41, downsampling=downsampling, convolutions_per_level=2)
    network = UNet(config, 33)
    channels = [[block[0].out_channels for block in level] for level in network.encoder]
    assert channels == [[8, 8], [12, 12], [16, 16], [24, 24]]  # 8, 11.3, 15.9, 22.4


def test_skips_add_the_channels_of_their_level_to_the_decoders_input():
    for downsampling, with_skips in (("stride", [24, 32, 24, 16]), ("pool", [24, 48, 32, 24])):
        for skips, expected in ((True, with_skips), (False, None)):
            config = NetworkConfig(depth=4, base_channels=8, growth=1.41, downsampling=downsampling, skips=skips)
            in_channels = [
                level[0][0].in_channels if isinstance(level[0], nn.Sequential) else level[0].in_channels
                for level in UNet(config, 33).decoder
            ]
            plain = [24, 16, 12, 8] if downsampling == "stride" else [24, 24, 16, 12]
            assert in_channels == (expected or plain)


def test_dropout_drops_whole_channels_and_only_in_training(tiny_unet):
    network = tiny_unet(dropout=0.5)
    features = torch.rand(1, 1, 9, 20)
    assert torch.equal(network(features), network(features))
    network.train()
    assert not torch.equal(network(features), network(features))
    block = network.encoder[0][0][-1]
    assert {0, 20} >= set((block(torch.ones(1, 50, 20, 1)) == 0).sum(2).flatten().tolist())
