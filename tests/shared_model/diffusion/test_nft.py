"""Rewards and the loss of DiffusionNFT: what pulls, what pushes, what stays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from shared_model.diffusion.nft import nft_loss, reward_variance, reward_weights
from shared_model.network.schedule import add_noise


@given(st.lists(st.lists(st.floats(-100, 100), min_size=4, max_size=4), min_size=1, max_size=5), st.floats(-50, 50))
def test_weights_are_of_the_patient_and_ignore_its_level(raw: list[list[float]], level: float) -> None:
    rewards = torch.tensor(raw, dtype=torch.float64)
    variance = reward_variance(rewards)
    weights = reward_weights(rewards, variance)
    assert ((weights >= 0) & (weights <= 1)).all()
    moved = rewards + level * torch.arange(1, len(raw) + 1).double()[:, None]
    torch.testing.assert_close(reward_weights(moved, variance), weights, atol=1e-6, rtol=1e-6)
    for row, of in zip(rewards, weights, strict=True):
        order = row.argsort()
        assert (of[order].diff() >= -1e-12).all()


def test_equal_rewards_say_nothing() -> None:
    alike = torch.full((3, 8), 70.0)
    assert reward_variance(alike) == 0
    torch.testing.assert_close(reward_weights(alike, 0.0), torch.full((3, 8), 0.5))


def test_a_patient_whose_candidates_hardly_differ_says_little() -> None:
    """By the variance of all patients; by their own alone they would speak as loud as the others."""
    rewards = torch.tensor([[69.9, 70.1], [40.0, 60.0]])
    r = reward_weights(rewards, reward_variance(rewards))
    assert float(r[0, 1]) == pytest.approx(0.5, abs=0.01)
    assert float(r[1, 1]) > 0.8


def step(form: str, r: float, t: float, beta: float = 0.1) -> tuple[float, float]:
    """(loss, descent direction of v_theta towards the candidate's own velocity) at v_theta = v_old, one candidate."""
    torch.manual_seed(0)
    x0, eps, v_old = (torch.randn(1, 4, 2, 2, 2, dtype=torch.float64) for _ in range(3))
    t_b = torch.tensor([t], dtype=torch.float64)
    x_t, v = add_noise(x0, eps, t_b)
    theta = v_old.clone().requires_grad_(True)
    loss = nft_loss(form, x0, x_t, v, t_b, v_old, theta, torch.tensor([r], dtype=torch.float64), beta)
    (gradient,) = torch.autograd.grad(loss, theta)
    return float(loss.detach()), float((-gradient * (v - v_old)).sum())


@pytest.mark.parametrize("form", ["x0", "velocity"])
@pytest.mark.parametrize("t", [1.0, 0.75, 0.3])
def test_good_candidates_pull_and_bad_ones_push(form: str, t: float) -> None:
    _, good = step(form, 1.0, t)
    _, bad = step(form, 0.0, t)
    _, neutral = step(form, 0.5, t)
    assert good > 0 > bad
    assert abs(neutral) < 1e-3 * abs(good)


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Of the velocity form; the x0 form detaches its scales, which finite differences would see."""
    torch.manual_seed(1)
    x0, eps, v_old, theta = (torch.randn(2, 3, 2, 2, 2, dtype=torch.float64) for _ in range(4))
    t_b, r = torch.tensor([0.75, 0.75]).double(), torch.tensor([0.9, 0.2]).double()
    x_t, v = add_noise(x0, eps, t_b)
    theta.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda u: nft_loss("velocity", x0, x_t, v, t_b, v_old, u, r, 0.3), (theta,))


def test_in_expectation_the_policy_moves_to_the_better_half() -> None:
    """One free velocity per noise time: descent moves the mean of x_0 towards candidates of higher reward."""
    torch.manual_seed(0)
    x0 = torch.randn(64, 1, 1, 1, 1, dtype=torch.float64)
    r = reward_weights(x0.flatten()[None], reward_variance(x0.flatten()[None]))[0]
    t_b = torch.ones(64, dtype=torch.float64)
    x_t, v = add_noise(x0, torch.randn_like(x0), t_b)
    old = torch.zeros(1, dtype=torch.float64)
    theta = old.clone().requires_grad_(True)
    loss = nft_loss("x0", x0, x_t, v, t_b, old.expand_as(x0), theta.expand_as(x0), r, 0.1)
    (gradient,) = torch.autograd.grad(loss, theta)
    # At t = 1 the clean sample is -v: a higher mean of x_0 is a lower v.
    assert gradient.item() > 0
