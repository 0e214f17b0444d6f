"""Muon's steps have one length in all directions of a matrix, at any gradient scale; every matrix is in one group."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quell.training.optimisers import STEP_RMS, Group, Muon, muon_groups, orthogonal

SHAPES = [(4, 4), (8, 40), (40, 8), (24, 45), (112, 408)]


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_after(gradient, *, gates=1, start=None, steps=1, **settings):
    """A weight after steps along the same gradient."""
    weight = nn.Parameter(torch.zeros_like(gradient) if start is None else start.clone())
    muon = Muon([Group(params=[weight], gates=gates)], lr=0.1, **settings)
    for _ in range(steps):
        weight.grad = gradient.clone()
        muon.step()
    return weight.detach()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_orthogonal_brings_singular_values_near_1_and_keeps_singular_vectors(shape, scale):
    matrix = scale * random(*shape)
    found = orthogonal(matrix)
    assert found.shape == matrix.shape
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.T @ found @ v.T
    # The smallest direction of a square matrix of noise may be too small for five iterations.
    values = inside.diagonal()
    assert values.max() < 1.3 and values.quantile(0.25) > 0.6 and values.min() > 0
    assert (inside - torch.diag(values)).abs().max() < 1e-3


def test_matrices_of_a_batch_are_independent():
    many = random(2, 3, 8, 40) * torch.logspace(-3, 3, 6).reshape(2, 3, 1, 1)
    found = orthogonal(many)
    for one, alone in zip(found.flatten(0, 1), many.flatten(0, 1), strict=True):
        assert torch.allclose(one, orthogonal(alone), atol=1e-6)


def test_zeros_and_weights_without_a_gradient_stay_unchanged():
    assert torch.equal(orthogonal(torch.zeros(4, 9)), torch.zeros(4, 9))
    weight = nn.Parameter(random(4, 9))
    before = weight.detach().clone()
    Muon([Group(params=[weight], gates=1)], lr=0.1).step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("shape", [(24, 45), (48, 24, 5, 3), (112, 408)])
def test_a_step_is_about_as_long_as_one_of_adamw(shape):
    # Orthogonal rows of a R x C matrix have a mean square of 1 / max(R, C); singular values are 0.7 to 1.2.
    step = weight_after(random(*shape)).square().mean().sqrt().item()
    assert 0.7 * 0.1 * STEP_RMS <= step <= 1.2 * 0.1 * STEP_RMS


def test_the_scale_of_the_gradient_does_not_matter():
    assert torch.allclose(weight_after(random(8, 40)), weight_after(1e4 * random(8, 40)), rtol=1e-4, atol=1e-7)


def test_gates_are_independent_matrices():
    gates = random(12, 9)
    loud = gates.clone()
    loud[4:8] *= 1e5
    one, other = weight_after(gates, gates=3), weight_after(loud, gates=3)
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(weight_after(gates), weight_after(loud), rtol=0.1)


def test_weight_decay_is_decoupled_from_the_gradient():
    start = random(8, 40, seed=1)
    moved = weight_after(random(8, 40), start=start, weight_decay=0.5) - weight_after(
        random(8, 40), start=start, weight_decay=0.0
    )
    assert torch.allclose(moved, -0.05 * start, atol=1e-6)


def test_momentum_continues_in_the_last_direction():
    weight = nn.Parameter(torch.zeros(8, 40))
    muon = Muon([Group(params=[weight], gates=1)], lr=0.1, weight_decay=0.0)
    weight.grad = random(8, 40)
    muon.step()
    after = weight.detach().clone()
    weight.grad = torch.zeros(8, 40)
    muon.step()
    assert torch.allclose(weight - after, after, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("number", range(12))
def test_every_matrix_of_a_denoiser_is_in_one_group(tiny_denoiser, drawn_settings, number):
    denoiser = tiny_denoiser(**drawn_settings(number, convolution="separable" if number % 2 else "full"))
    groups = muon_groups(denoiser)
    weights = [weight for group in groups for weight in group["params"]]
    assert len(weights) == len(set(map(id, weights)))
    assert all(weight.dim() > 1 and min(weight.flatten(1).shape) >= 4 for weight in weights)
    gated = {id(weight) for group in groups if group["gates"] == 3 for weight in group["params"]}
    names = {name for name, weight in denoiser.named_parameters() if id(weight) in gated}
    assert all("gru.weight" in name for name in names) and bool(names) == (denoiser.network.bottleneck is not None)


def test_muon_learns_a_rotation_faster_than_sgd():
    inputs = random(200, 8) * torch.logspace(0, -2, 8)  # directions of very different power
    targets = inputs @ random(8, 8, seed=1)
    losses = {}
    for name in ("muon", "sgd"):
        weight = nn.Parameter(torch.zeros(8, 8))
        optimiser = (
            Muon([Group(params=[weight], gates=1)], lr=0.05, weight_decay=0.0)
            if name == "muon"
            else torch.optim.SGD([weight], lr=0.05, momentum=0.95)
        )
        for _ in range(300):
            loss = (inputs @ weight - targets).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        losses[name] = loss.item()
    assert losses["muon"] < 0.5 * losses["sgd"]
