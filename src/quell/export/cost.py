"""Cost of a denoiser in use: parameters, multiply-accumulates, latency, real-time factor."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from quell.config import DenoiserConfig
from quell.export.torchscript import freeze
from quell.network.denoiser import Denoiser

# Length of the signals that costs are measured on. 60 s in one pass take twice as long per second as 4 s (page faults).
MEASURED_S = 4.0
WARM_UP = 3
RUNS = 5
ENOUGH_S = 0.5  # CPU time of all runs after which no further one is made


@dataclass(frozen=True)
class Cost:
    """Costs that follow from the configuration, known before any training."""

    parameters: int
    macs_per_s: float  # multiply-accumulates of the network for a second of audio, without the transforms
    latency_ms: float  # window and look-ahead; infinite with a recurrence in both directions over time

    def record(self) -> dict[str, float | None]:
        """For JSON, which has no infinity: None instead."""
        latency = None if math.isinf(self.latency_ms) else self.latency_ms
        return asdict(self) | {"latency_ms": latency}


def cost(config: DenoiserConfig) -> Cost:
    """Costs counted on torch's device "meta", which computes shapes only: as fast for the largest networks."""
    samples = round(MEASURED_S * config.sample_rate)
    with torch.device("meta"):
        denoiser = Denoiser(config).eval()
        spectrum = denoiser.spectrogram(torch.empty(1, samples))
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            denoiser.estimate(spectrum)
    ahead = math.inf if config.bottleneck == "both" else denoiser.network.look_ahead_frames * config.hop_length
    return Cost(
        parameters=sum(parameter.numel() for parameter in denoiser.parameters()),
        macs_per_s=counter.get_total_flops() / 2 / MEASURED_S,
        latency_ms=(config.win_length + ahead) / config.sample_rate * 1000,
    )


def real_time_factor(denoiser: Denoiser) -> float:
    """`measured` real-time factor of the frozen TorchScript."""
    return measured(lambda: freeze(denoiser), denoiser.config.sample_rate)


def measured(make: Callable[[], Callable[[Tensor], Tensor]], sample_rate: int) -> float:
    """Real-time factor: processing time over audio time on one thread; below 1 is faster than real time.

    CPU time of the calling thread, median of several runs on 4 s, so that other processes have little influence; slow
    networks get fewer runs.

    Args:
        make: makes the function to measure; called while torch is set to one thread, which ONNX Runtime keeps.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = make()
        noisy = 0.1 * torch.randn(1, round(MEASURED_S * sample_rate))
        seconds: list[float] = []
        with torch.inference_mode():
            for _ in range(WARM_UP):  # TorchScript compiles in the first calls
                model(noisy)
            while not seconds or (len(seconds) < RUNS and sum(seconds) < ENOUGH_S):
                started = time.thread_time()
                model(noisy)
                seconds.append(time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(seconds) / MEASURED_S
