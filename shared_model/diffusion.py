"""Schedule, velocity loss and DDIM sampler (METHOD.md items 7; MODEL.md "Flow matching and v-prediction").

The noise time t in [0, 1] is that of rectified flow after the shift: x_rf = (1 - t) x_0 + t eps. Divided by its norm it
is the variance-preserving state x_t = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1, that the network sees.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

FLOW_SHIFT = 3.0


def shift_time(u: Tensor, shift: float = FLOW_SHIFT) -> Tensor:
    """Uniform u in [0, 1] -> t = s u / (1 + (s - 1) u): spends more time at high noise (Esser et al. 2024, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def alpha_sigma(t_b: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of noise times (B,), shaped to broadcast over ``ndim`` dimensions."""
    norm = ((1 - t_b) ** 2 + t_b**2).sqrt()
    shape = (-1,) + (1,) * (ndim - 1)
    return ((1 - t_b) / norm).view(shape), (t_b / norm).view(shape)


def noised(x0: Tensor, eps: Tensor, t_b: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, v): the noisy state alpha x_0 + sigma eps and its velocity alpha eps - sigma x_0."""
    alpha, sigma = alpha_sigma(t_b, x0.ndim)
    return alpha * x0 + sigma * eps, alpha * eps - sigma * x0


def recover(x_t: Tensor, v: Tensor, t_b: Tensor) -> tuple[Tensor, Tensor]:
    """(x_0, eps) from a state and its velocity: x_0 = alpha x_t - sigma v, eps = sigma x_t + alpha v."""
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return alpha * x_t - sigma * v, sigma * x_t + alpha * v


def flow_state(x_t: Tensor, t_b: Tensor) -> Tensor:
    """The rectified-flow state (1 - t) x_0 + t eps of the variance-preserving state x_t: x_t / (alpha + sigma)."""
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return x_t / (alpha + sigma)


def velocity_of_flow(x_t: Tensor, flow: Tensor, t_b: Tensor) -> Tensor:
    """The velocity v at x_t from the flow velocity (an estimate of eps - x_0) at ``flow_state(x_t, t_b)``.

    v = ((alpha - sigma) x_t + flow) / (alpha + sigma): both forms then have the same x_0 and the same eps.
    """
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return ((alpha - sigma) * x_t + flow) / (alpha + sigma)


def sample_ddim(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Deterministic DDIM (Song et al. 2021) from ``noise`` (B, ...) to x_0 in ``steps`` steps on the shifted grid.

    ``velocity(x_t, t_b)`` is the network. One step from pure noise is the network's mean of x_0.
    """
    times = shift_time(torch.linspace(1.0, 0.0, steps + 1))
    x = noise
    for now, then in pairwise(times):
        t_b = now.expand(noise.shape[0]).to(noise.device)
        x0, eps = recover(x, velocity(x, t_b), t_b)
        x, _ = noised(x0, eps, then.expand_as(t_b).to(noise.device))
    return x
