"""DiffusionNFT (arXiv:2509.16117) on one patient's candidates: weights from rewards, and the loss. No likelihoods.

New noise is added to the old policy's candidates x_0. v_old and v_theta are the two policies' predictions there. The
implicit positive and negative policies are v+ = (1 - beta) v_old + beta v_theta and v- = (1 + beta) v_old - beta
v_theta. Good candidates (weight r near 1) pull v+ towards them. Bad ones pull v-, which pushes v_theta away from them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shared_model.network.schedule import recover

FORMS = ("x0", "velocity")
# A candidate this many standard deviations above its patient's mean has the full weight of 1.
SPREADS = 2.0


def reward_variance(raw_pk: Tensor) -> float:
    """The mean square of raw rewards (patients, candidates) about their patient's mean."""
    return float((raw_pk - raw_pk.mean(1, keepdim=True)).square().mean())


def reward_weights(raw_pk: Tensor, variance: float) -> Tensor:
    """Raw rewards (patients, candidates) -> r in 0..1: 1/2 + clip((raw - mean of the patient)/Z, -1, 1) / 2.

    Z is SPREADS standard deviations about the patients' means, of ``variance``: over many patients, not the one at
    hand alone. So patients whose candidates hardly differ stay near 1/2. If no candidates differ, all weights are 1/2.
    """
    centred = raw_pk - raw_pk.mean(1, keepdim=True)
    z: float = max(SPREADS * variance**0.5, 1e-6)
    return 0.5 + 0.5 * (centred / z).clamp(-1.0, 1.0)


def nft_loss(
    form: str, x0: Tensor, x_t: Tensor, v: Tensor, t_b: Tensor, v_old: Tensor, v_theta: Tensor, r_b: Tensor, beta: float
) -> Tensor:
    """The loss over b candidates, each (C, z, y, x). ``v`` is the velocity of the noise that made ``x_t`` from ``x0``.

    ``form`` ``velocity``: r |v+ - v|^2 + (1 - r) |v- - v|^2. ``form`` ``x0``: the same for the clean samples that v+
    and v- give. Each error is divided by its own mean absolute size (detached), and the sum by beta. Then all noise
    times count alike, and the size of the step does not depend on beta.
    """
    plus = (1.0 - beta) * v_old + beta * v_theta
    minus = (1.0 + beta) * v_old - beta * v_theta
    if form == "velocity":
        losses = [(prediction - v).square().flatten(1).mean(1) for prediction in (plus, minus)]
        return (r_b * losses[0] + (1.0 - r_b) * losses[1]).mean()
    losses = []
    for prediction in (plus, minus):
        error = recover(x_t, prediction, t_b)[0] - x0
        size = error.detach().abs().flatten(1).mean(1).clamp_min(1e-5)
        losses.append(error.square().flatten(1).mean(1) / size)
    return torch.as_tensor((r_b * losses[0] + (1.0 - r_b) * losses[1]).mean() / beta)
