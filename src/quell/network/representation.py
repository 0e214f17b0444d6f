"""Magnitudes to features of the network's input, and the network's output to clean magnitudes."""

import math

import torch
from torch import Tensor, nn

from quell.network.stft import FLOOR

# `inverse` limits features to this many times the largest one of the training data: an unbounded output of an untrained
# network must not overflow.
HIGHEST = 2.0


class Representation(nn.Module):
    """Magnitudes to features on a fixed scale, and back.

    "linear": |X| to [-1, 1]. "power": |X| ** power to [0, 1]. "log": |X| in dB to [0, 1]. `fit` fixes the ends of the
    scale from training data, and they are stored with the weights, not taken from each file: the minimum and maximum of
    a file are unknown at its first block, and those of its clean speech always.

    Raises ValueError for a power outside (0, 1]; `quell.config.check` refuses unknown names.
    """

    low: Tensor
    high: Tensor

    def __init__(self, name: str, power: float) -> None:
        super().__init__()
        if not 0 < power <= 1:
            raise ValueError(f"power: {power}, expected above 0 up to 1")
        self.name = name
        self.exponent = power if name == "power" else 1.0
        self.bottom = -1.0 if name == "linear" else 0.0  # the scale ends at 1
        self.highest = HIGHEST  # TorchScript sees no module constants
        self.register_buffer("low", torch.tensor(20 * math.log10(FLOOR) if name == "log" else 0.0))
        self.register_buffer("high", torch.tensor(40.0 if name == "log" else 100.0**self.exponent))

    @torch.no_grad()
    def fit(self, magnitudes: Tensor) -> None:
        """Fixes the ends of the scale at those of magnitudes of any shape."""
        raw = self._raw(magnitudes)
        self.high.copy_(raw.max())
        if self.name == "log":
            # At least 20 dB wide, so that silence or a single level does not make the width 0.
            self.low.copy_(torch.minimum(raw.min(), raw.max() - 20))

    def forward(self, magnitude: Tensor) -> Tensor:
        """Features of magnitudes (at least the floor), any shape."""
        share = (self._raw(magnitude) - self.low) / (self.high - self.low)
        return self.bottom + (1 - self.bottom) * share

    def inverse(self, feature: Tensor) -> Tensor:
        """Magnitudes of features, clamped to the low end of the scale and to HIGHEST.

        The gradient ignores the clamp, so that training can bring an output back to the scale.
        """
        share = (feature - self.bottom) / (1 - self.bottom)
        share = share.clamp(0.0, self.highest).detach() + (share - share.detach())
        raw = self.low + share * (self.high - self.low)
        if self.name == "log":
            return torch.pow(10.0, raw / 20)
        return raw if self.exponent == 1.0 else raw ** (1 / self.exponent)

    def _raw(self, magnitude: Tensor) -> Tensor:
        if self.name == "log":
            return 20 * torch.log10(magnitude)
        return magnitude if self.exponent == 1.0 else magnitude**self.exponent


class Target(nn.Module):
    """Meaning of the network's output: from outputs to clean magnitudes, and the ideal output.

    "mask": the share of the noisy magnitude that is speech. "direct": the feature of the clean magnitude. "noise": the
    feature of the noisy magnitude less that of the clean one, 1 for the whole scale. With output tanh a mask or feature
    of [0, 1] is mapped to [-1, 1].
    """

    def __init__(self, name: str, output: str, representation: Representation) -> None:
        super().__init__()
        self.name = name
        self.spread = output == "tanh" and name != "noise"
        self.representation = representation

    def forward(self, output: Tensor, noisy: Tensor, features: Tensor) -> Tensor:
        """Clean magnitude from the network's output, the noisy magnitude and its features, (B, F, N) each."""
        if self.name == "mask":
            return self._share(output).clamp_min(0.0) * noisy
        return self.representation.inverse(self._feature(output, features))

    def feature(self, output: Tensor, noisy: Tensor, features: Tensor) -> Tensor:
        """Feature of the clean magnitude, not clamped to the scale. Arguments and shapes as in `forward`."""
        if self.name == "mask":
            masked: Tensor = self.representation((self._share(output) * noisy).clamp_min(FLOOR))
            return masked
        return self._feature(output, features)

    def _feature(self, output: Tensor, features: Tensor) -> Tensor:
        bottom = self.representation.bottom
        if self.name == "direct":
            return bottom + (1 - bottom) * self._share(output)
        return features - (1 - bottom) * output

    def _share(self, output: Tensor) -> Tensor:
        return (output + 1) / 2 if self.spread else output

    def ideal(self, noisy: Tensor, clean: Tensor) -> Tensor:
        """The output for which `forward` gives the clean magnitude; a mask at most 1, also where the clean magnitude is
        above the noisy one. Shapes as in `forward`."""
        bottom = self.representation.bottom
        if self.name == "mask":
            share = (clean / noisy).clamp_max(1.0)
        elif self.name == "direct":
            share = (self.representation(clean) - bottom) / (1 - bottom)
        else:
            share = (self.representation(noisy) - self.representation(clean)) / (1 - bottom)
        return 2 * share - 1 if self.spread else share
