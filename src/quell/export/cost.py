"""What a denoiser costs where it runs: parameters, multiplications, delay, time."""

from __future__ import annotations

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

# Signals that costs are measured on. 60 s in one pass takes twice the time per second that 4 s take (page faults).
MEASURED_S = 4.0
WARM_UP = 3
RUNS = 5
ENOUGH_S = 0.5


@dataclass(frozen=True)
class Cost:
    """Fixed by the configuration, known before any training."""

    parameters: int
    macs_per_s: float  # multiply-accumulates of the network for a second of audio; the transforms are not counted
    latency_ms: float  # window and look-ahead: how far behind its input the output must be; infinite when it hears all

    def record(self) -> dict[str, float | None]:
        """As JSON, which knows no infinity: None stands for it."""
        latency = None if math.isinf(self.latency_ms) else self.latency_ms
        return asdict(self) | {"latency_ms": latency}


def cost(config: DenoiserConfig) -> Cost:
    """Counted, not measured; a network without numbers is counted, so that the largest take as little time as any."""
    samples = round(MEASURED_S * config.sample_rate)
    with torch.device("meta"):
        ghost = Denoiser(config).eval()
        spectrum = ghost.spectrogram(torch.empty(1, samples))
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            ghost.estimate(spectrum)
    ahead = math.inf if config.bottleneck == "both" else ghost.network.look_ahead_frames * config.hop_length
    return Cost(
        parameters=sum(parameter.numel() for parameter in ghost.parameters()),
        macs_per_s=counter.get_total_flops() / 2 / MEASURED_S,
        latency_ms=(config.win_length + ahead) / config.sample_rate * 1000,
    )


def real_time_factor(denoiser: Denoiser) -> float:
    """That of the frozen TorchScript, as `measured`."""
    return measured(lambda: freeze(denoiser), denoiser.config.sample_rate)


def measured(make: Callable[[], Callable[[Tensor], Tensor]], sample_rate: int) -> float:
    """Processing time over audio time on one thread: under 1 is faster than real time.

    CPU time of the calling thread, the median of several runs on 4 s, so that what else the machine does counts little;
    of a slow network fewer runs.

    Args:
        make: what is to be measured; called with one thread set, which ONNX Runtime takes for good.
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
