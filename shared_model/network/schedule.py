"""Schedule, training targets and DDIM sampler (docs/method.md, "The model", item 7).

The noise time t in [0, 1] is that of rectified flow after the shift: x_rf = (1 - t) x_0 + t eps. Divided by its norm
this is the state that the network sees, the variance-preserving x_t = alpha x_0 + sigma eps, alpha^2 + sigma^2 = 1.

The network's output is read as v, eps or x_0. For 0 < t < 1 each gives the other two. At the ends it does not:

- eps at t = 1: alpha is 0, and the noise says nothing about x_0. Samplers start an eps network at EPS_START, where
  alpha is that of the last timestep of DDPM's linear schedule (0.00635), and use the noise as the state there, as DDPM
  does. In that first step an error of the network still reaches x_0 157 times larger, so x_0 is clamped to +-X0_LIMIT.
  One step from pure noise gives a v network its least mean error, but an eps network its greatest.
- x_0 at t = 0: sigma is 0, and the state says nothing about eps. There sigma is taken as at least SIGMA_LEAST, a value
  that no sampler of up to 1000 steps reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

FLOW_SHIFT = 3.0
DDPM_LAST_ALPHA = 0.00635
EPS_START = 1.0 / (1.0 + DDPM_LAST_ALPHA / (1.0 - DDPM_LAST_ALPHA**2) ** 0.5)
# Above any latent of a volume that NORMALISATION covers. Organ codes reach 98; a dose of 84 Gy reaches 24.
X0_LIMIT = 100.0
SIGMA_LEAST = 1e-3


def shift_time(u: Tensor, shift: float = FLOW_SHIFT) -> Tensor:
    """Uniform u in [0, 1] -> t = s u / (1 + (s - 1) u). More times get high noise (Esser et al. 2024, eq. 23)."""
    return shift * u / (1 + (shift - 1) * u)


def alpha_sigma(t_b: Tensor, ndim: int) -> tuple[Tensor, Tensor]:
    """(alpha, sigma) of noise times (B,), shaped to broadcast over ``ndim`` dimensions."""
    norm = ((1 - t_b) ** 2 + t_b**2).sqrt()
    shape = (-1,) + (1,) * (ndim - 1)
    return ((1 - t_b) / norm).view(shape), (t_b / norm).view(shape)


def add_noise(x0: Tensor, eps: Tensor, t_b: Tensor) -> tuple[Tensor, Tensor]:
    """(x_t, v): the noisy state alpha x_0 + sigma eps and its velocity alpha eps - sigma x_0."""
    alpha, sigma = alpha_sigma(t_b, x0.ndim)
    return alpha * x0 + sigma * eps, alpha * eps - sigma * x0


def training_target(predicts: str, x0: Tensor, eps: Tensor, v: Tensor) -> Tensor:
    """The output that a network is trained to give if it ``predicts`` v, eps or x0."""
    return {"v": v, "eps": eps, "x0": x0}[predicts]


def velocity_of_clean(x_t: Tensor, x0: Tensor, t_b: Tensor) -> Tensor:
    """The velocity at x_t that gives back the clean sample ``x0``: v = alpha eps - sigma x_0."""
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return alpha * recover(x_t, x0, t_b, "x0")[1] - sigma * x0


def recover(x_t: Tensor, output: Tensor, t_b: Tensor, predicts: str = "v") -> tuple[Tensor, Tensor]:
    """(x_0, eps) from a state and the network's output. For v: x_0 = alpha x_t - sigma v, eps = sigma x_t + alpha v."""
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    if predicts == "eps":
        x0 = (x_t - sigma * output) / alpha.clamp_min(torch.finfo(alpha.dtype).tiny)
        return x0.clamp(-X0_LIMIT, X0_LIMIT), output
    if predicts == "x0":
        return output, (x_t - alpha * output) / sigma.clamp_min(SIGMA_LEAST)
    return alpha * x_t - sigma * output, sigma * x_t + alpha * output


def flow_state(x_t: Tensor, t_b: Tensor) -> Tensor:
    """The rectified-flow state (1 - t) x_0 + t eps of the variance-preserving state x_t: x_t / (alpha + sigma)."""
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return x_t / (alpha + sigma)


def velocity_of_flow(x_t: Tensor, flow: Tensor, t_b: Tensor) -> Tensor:
    """The velocity v at x_t from the flow velocity (an estimate of eps - x_0) at ``flow_state(x_t, t_b)``.

    v = ((alpha - sigma) x_t + flow) / (alpha + sigma). Both forms then give the same x_0 and the same eps.
    """
    alpha, sigma = alpha_sigma(t_b, x_t.ndim)
    return ((alpha - sigma) * x_t + flow) / (alpha + sigma)


def sampling_times(steps: int, predicts: str = "v", shift: float = FLOW_SHIFT) -> Tensor:
    """The shifted grid of ``steps`` + 1 noise times from 1 (EPS_START for eps) down to 0."""
    times = shift_time(torch.linspace(1.0, 0.0, steps + 1), shift)
    return times.clamp_max(EPS_START) if predicts == "eps" else times


def sample_ddim(
    network: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    steps: int,
    predicts: str = "v",
    shift: float = FLOW_SHIFT,
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021) from ``noise`` (B, ...) to x_0 in ``steps`` steps on the shifted grid.

    The output of ``network(x_t, t_b)`` is read as ``predicts``. One step from pure noise
    gives a v network's mean of x_0.
    """
    x = noise
    for now, then in pairwise(sampling_times(steps, predicts, shift)):
        t_b = now.expand(noise.shape[0]).to(noise.device)
        x0, eps = recover(x, network(x, t_b), t_b, predicts)
        x, _ = add_noise(x0, eps, then.expand_as(t_b).to(noise.device))
    return x
