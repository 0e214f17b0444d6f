"""What is counted before training equals what can be counted by hand."""

import pytest
import torch

from quell.cost import cost, real_time_factor
from quell.denoiser import Denoiser, DenoiserConfig

SMALL = DenoiserConfig(
    sample_rate=8_000, win_length=64, hop_length=32, depth=2, base_channels=4, growth=1.0, time_stride=1
)


def test_parameters_and_macs_of_a_small_network_are_those_counted_by_hand() -> None:
    # 33 bins -> 17 -> 9, kernels of 5 x 3, 4 channels; biases, batch norm (2 a channel) and PReLU (1 a channel).
    taps = 5 * 3
    encoder = (taps * 1 * 4 + 4) + 3 * 4 + (taps * 4 * 4 + 4) + 3 * 4
    decoder = (taps * 4 * 4 + 4) + 3 * 4 + (taps * 8 * 1 + 1)
    found = cost(Denoiser(SMALL))
    assert found.parameters == encoder + decoder
    # Per frame: a convolution makes its output bins, a transposed one spreads its input bins.
    per_frame = taps * (1 * 4 * 17 + 4 * 4 * 9 + 4 * 4 * 9 + 8 * 1 * 17)
    frames = (4 * 8_000 - 1 + 32) // 32 + 1
    assert found.macs_per_s == pytest.approx(per_frame * frames / 4)


def test_latency_is_the_window_and_the_frames_it_looks_ahead() -> None:
    # Two levels of kernels over 3 frames, each met twice: 4 frames of 32 samples, and the window of 64.
    assert cost(Denoiser(SMALL)).latency_ms == pytest.approx((64 + 4 * 32) / 8)


def test_counting_leaves_the_denoiser_as_it_was() -> None:
    denoiser = Denoiser(SMALL).train()
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}
    cost(denoiser)
    assert denoiser.training
    assert all(torch.equal(value, before[name]) for name, value in denoiser.state_dict().items())


def test_a_larger_network_takes_longer_and_threads_are_given_back() -> None:
    threads = torch.get_num_threads()
    large = Denoiser(DenoiserConfig(sample_rate=8_000, win_length=64, hop_length=32, base_channels=32))
    assert 0 < real_time_factor(Denoiser(SMALL)) < real_time_factor(large)
    assert torch.get_num_threads() == threads
