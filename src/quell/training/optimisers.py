"""Optimisers of a training by name: AdamW for all weights, or Muon for matrices and AdamW for the others.

Why not torch.optim.Muon (torch 2.13): it refuses all but 2-D weights, hence convolution kernels, and takes the three
gates of a recurrence, which torch stacks in one weight, for a single matrix.
"""

from typing import TypedDict

import torch
from torch import Tensor, nn

from quell.config import TrainingConfig, check_choice
from quell.network.denoiser import Denoiser

# Coefficients of the iteration that brings singular values near 1, and how often it is done (Jordan et al. 2024).
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Root mean square of a step over the learning rate: about AdamW's, so that both use the same rates (Liu et al. 2025).
STEP_RMS = 0.2
SMALLEST = 4  # rows and columns of a matrix; smaller ones have too few directions


class Group(TypedDict):
    """Weights for `Muon`, each of them `gates` matrices stacked along the first axis."""

    params: list[Tensor]
    gates: int


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum: every step has about the same length in all directions of a matrix (Jordan et al. 2024,
    "Muon: an optimizer for hidden layers in neural networks"; Liu et al. 2025, arXiv:2502.16982), with Nesterov
    momentum and decoupled weight decay.

    Args:
        groups: from `muon_groups`. A convolution kernel is a matrix with one row for each index of its first axis, and
            each gate of a recurrence is a matrix.
    """

    def __init__(self, groups: list[Group], lr: float, weight_decay: float = 1e-2, momentum: float = 0.95) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "gates": 1}
        super().__init__([dict(group) for group in groups], defaults)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step for every weight that has a gradient."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                velocity = state["momentum"].mul_(momentum).add_(weight.grad)
                nesterov = weight.grad.add(velocity, alpha=momentum).flatten(1).unflatten(0, (group["gates"], -1))
                direction = orthogonal(nesterov).reshape(weight.shape)
                length = rate * STEP_RMS * max(nesterov.shape[1:]) ** 0.5
                weight.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-length)


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors and singular values near 1 (0.7 to 1.2); shape (..., R, C), kept.

    Newton-Schulz iteration with the coefficients of Jordan et al. 2024. Zeros stay zeros.
    """
    wide = matrices.shape[-2] <= matrices.shape[-1]
    x: Tensor = matrices if wide else matrices.mT
    x = x.reshape(-1, *x.shape[-2:])
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    first, third, fifth = QUINTIC
    for _ in range(ITERATIONS):
        square = x @ x.mT
        factor = torch.baddbmm(square, square, square, beta=third, alpha=fifth)
        x = torch.baddbmm(x, factor, x, beta=first)
    return (x if wide else x.mT).reshape(matrices.shape)


def muon_groups(module: nn.Module) -> list[Group]:
    """The weights of a module that are matrices, as groups for `Muon`; all others need another optimiser."""
    plain: list[Tensor] = []
    gated: list[Tensor] = []
    for part in module.modules():
        if isinstance(part, nn.GRU):
            gated += [weight for name, weight in part.named_parameters() if name.startswith("weight")]
        elif isinstance(part, nn.Linear) or (isinstance(part, nn.Conv2d | nn.ConvTranspose2d) and part.groups == 1):
            plain.append(part.weight)
    plain = [weight for weight in plain if min(weight.flatten(1).shape) >= SMALLEST]
    return [Group(params=weights, gates=gates) for gates, weights in ((1, plain), (3, gated)) if weights]


def optimisers(denoiser: Denoiser, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Optimisers for a denoiser's weights; each weight has exactly one. Raises ValueError for an unknown name."""
    check_choice("optimiser", config.optimiser)
    groups = muon_groups(denoiser) if config.optimiser == "muon" else []
    matrices = {weight for group in groups for weight in group["params"]}
    others = [weight for weight in denoiser.parameters() if weight not in matrices]
    adamw = torch.optim.AdamW(others, lr=config.learning_rate, weight_decay=1e-2)
    return [adamw, Muon(groups, lr=config.learning_rate)] if groups else [adamw]
