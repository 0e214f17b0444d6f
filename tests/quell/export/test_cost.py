"""Costs that are known before training equal those counted by hand."""

import math
import time
from dataclasses import replace

import pytest
import torch

from quell.config import DenoiserConfig
from quell.export.cost import cost, real_time_factor
from quell.network.denoiser import Denoiser

SMALL = DenoiserConfig(
    sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, growth=1.0, time_stride=1
)
FRAMES_PER_S = ((4 * 8_000 - 1 + 32) // 32 + 1) / 4  # of the 4 s that are counted


def test_parameters_and_macs_of_a_small_network_are_those_counted_by_hand() -> None:
    # 33 bins -> 17 -> 9, kernels of 5 x 3, 4 channels; biases, batch norm (2 a channel) and PReLU (1 a channel).
    taps = 5 * 3
    encoder = (taps * 1 * 4 + 4) + 3 * 4 + (taps * 4 * 4 + 4) + 3 * 4
    decoder = (taps * 4 * 4 + 4) + 3 * 4 + (taps * 8 * 1 + 1)
    found = cost(SMALL)
    assert found.parameters == encoder + decoder
    # Per frame: a convolution makes its output bins, a transposed one spreads its input bins.
    per_frame = taps * (1 * 4 * 17 + 4 * 4 * 9 + 4 * 4 * 9 + 8 * 1 * 17)
    assert found.macs_per_s == pytest.approx(per_frame * FRAMES_PER_S)


def test_parameters_and_macs_of_a_separable_network_are_those_counted_by_hand() -> None:
    taps = 5 * 3
    # From the one channel of the input and to the one of the output they stay full.
    separable = 4 * (taps + 1) + 4 * (4 + 1)
    found = cost(replace(SMALL, convolution="separable"))
    assert found.parameters == (taps * 4 + 4) + separable + separable + (taps * 8 + 1) + 3 * 3 * 4
    # Pointwise where there are fewest bins: after the steps on the way down, before them on the way up.
    per_frame = taps * 1 * 4 * 17 + 2 * (taps * 4 + 4 * 4) * 9 + taps * 8 * 1 * 17
    assert found.macs_per_s == pytest.approx(per_frame * FRAMES_PER_S)


def test_parameters_and_macs_of_a_pooling_network_are_those_counted_by_hand() -> None:
    taps = 5 * 3
    full = taps * 4 * 4 + 4 + 3 * 4
    found = cost(replace(SMALL, downsampling="pool"))
    # Both levels of the decoder give 4 channels and have 4 of the skip; a 1 x 1 convolution maps the 8 to one.
    assert found.parameters == (taps * 4 + 4 + 3 * 4) + full + full + (taps * 8 * 4 + 4 + 3 * 4) + (8 + 1)
    per_frame = taps * (1 * 4 * 33 + 4 * 4 * 17 + 4 * 4 * 9 + 8 * 4 * 17) + 8 * 33
    assert found.macs_per_s == pytest.approx(per_frame * FRAMES_PER_S)


@pytest.mark.parametrize(
    ("bottleneck", "size", "steps_per_s", "directions"),
    [
        # 9 bins of 4 channels at the deepest level: each a step of its own, or all of a frame at once.
        ("frequency", 4, 9 * FRAMES_PER_S, 2),
        ("forward", 36, FRAMES_PER_S, 1),
        # Windows of 2 s and 64 samples, 502 frames, from frames 0, 251 and 499 of the 1001 on.
        ("both", 36, 3 * 502 / 4, 2),
    ],
)
def test_a_recurrence_adds_the_parameters_and_macs_of_its_gates(bottleneck, size, steps_per_s, directions) -> None:
    plain, found = cost(SMALL), cost(replace(SMALL, bottleneck=bottleneck, bottleneck_units=8))
    gates = directions * 3 * 8 * (size + 8)
    back = directions * 8 * size
    assert found.parameters - plain.parameters == gates + directions * 3 * 2 * 8 + back + size
    added = steps_per_s * (gates + back)
    assert found.macs_per_s - plain.macs_per_s == pytest.approx(added)


def test_latency_is_the_window_and_the_frames_it_looks_ahead() -> None:
    # Two levels of kernels over 3 frames, each passed twice: 4 frames of 32 samples, and the window of 64.
    assert cost(SMALL).latency_ms == pytest.approx((64 + 4 * 32) / 8)
    # Strides of 1 and 2 frames: the second level's kernel takes steps of 1 on its way down and up; pooling in pairs
    # waits for one frame more.
    assert cost(replace(SMALL, time_stride=2)).latency_ms == pytest.approx((64 + 4 * 32) / 8)
    pooled = replace(SMALL, time_stride=2, downsampling="pool")
    assert cost(pooled).latency_ms == pytest.approx((64 + 5 * 32) / 8)


@pytest.mark.parametrize("bottleneck", ["none", "frequency", "forward"])
@pytest.mark.parametrize("downsampling", ["stride", "pool"])
def test_latency_of_a_causal_denoiser_is_its_window(downsampling, bottleneck) -> None:
    config = replace(SMALL, causal=True, downsampling=downsampling, bottleneck=bottleneck, time_stride=2)
    assert cost(config).latency_ms == pytest.approx(64 / 8)


def test_latency_with_a_recurrence_in_both_directions_is_infinite_and_none_in_json() -> None:
    found = cost(replace(SMALL, bottleneck="both"))
    assert math.isinf(found.latency_ms)
    assert found.record() == {
        "parameters": found.parameters,
        "macs_per_s": found.macs_per_s,
        "latency_ms": None,
    }
    assert cost(SMALL).record()["latency_ms"] == pytest.approx(24.0)


def test_the_costs_of_the_largest_network_are_counted_within_two_seconds() -> None:
    huge = replace(SMALL, depth=7, base_channels=256, growth=2.0, convolutions_per_level=3)
    cost(SMALL)  # imports
    began = time.process_time()
    assert cost(huge).parameters > 1e9
    assert time.process_time() - began < 2


def test_a_larger_network_has_a_larger_real_time_factor_and_the_threads_are_restored() -> None:
    threads = torch.get_num_threads()
    large = Denoiser(DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, base_channels=32))
    assert 0 < real_time_factor(Denoiser(SMALL)) < real_time_factor(large)
    assert torch.get_num_threads() == threads
