from itertools import pairwise

import pytest
import torch

from shared_model.diffusion import alpha_sigma, noised, recover, sample_ddim, shift_time


def test_shift_keeps_the_ends_and_spends_more_time_at_high_noise() -> None:
    u = torch.tensor([0.0, 0.5, 1.0])
    assert shift_time(u).tolist() == pytest.approx([0.0, 0.75, 1.0])


def test_variance_preserving() -> None:
    alpha, sigma = alpha_sigma(torch.linspace(0, 1, 11, dtype=torch.float64), 1)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(11, dtype=torch.float64))
    assert float(alpha[0]) == 1.0
    assert float(sigma[-1]) == 1.0


def test_recover_inverts_noised() -> None:
    x0, eps = torch.randn(5, 2, 3, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    again = recover(*noised(x0, eps, t), t)
    torch.testing.assert_close(again[0], x0)
    torch.testing.assert_close(again[1], eps)


def test_flow_and_velocity_forms_agree() -> None:
    """MODEL.md's identity: v_vp = ((alpha - sigma) x_vp + v_fm(x_rf)) / (alpha + sigma), with v_fm = eps - x_0."""
    x0, eps = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    t = torch.rand(7, dtype=torch.float64)
    x_vp, v = noised(x0, eps, t)
    alpha, sigma = alpha_sigma(t, 2)
    torch.testing.assert_close(x_vp / (alpha + sigma), (1 - t[:, None]) * x0 + t[:, None] * eps)
    torch.testing.assert_close(v, ((alpha - sigma) * x_vp + (eps - x0)) / (alpha + sigma))


@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_sampler_reaches_a_known_point(steps: int) -> None:
    """With the exact velocity of a single data point every number of steps ends at that point."""
    x0 = torch.randn(3, 6, dtype=torch.float64)
    noise = torch.randn(3, 6, dtype=torch.float64)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = alpha_sigma(t.double(), 2)
        return alpha * (x - alpha * x0) / sigma - sigma * x0

    torch.testing.assert_close(sample_ddim(velocity, noise, steps), x0, atol=1e-6, rtol=0)


def test_ddim_is_euler_on_the_flow_for_a_gaussian() -> None:
    """For x_0 ~ N(0, s^2) the flow's velocity is linear, so ten DDIM steps must equal ten Euler steps of it."""
    s2, steps = 0.3, 10
    noise = torch.randn(8, 1, dtype=torch.float64)

    def flow(x_rf: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x_rf * (t - (1 - t) * s2) / ((1 - t) ** 2 * s2 + t**2)

    def velocity(x: torch.Tensor, t_b: torch.Tensor) -> torch.Tensor:
        t = t_b.double()[:, None]
        alpha, sigma = alpha_sigma(t_b.double(), 2)
        return ((alpha - sigma) * x + flow(x / (alpha + sigma), t)) / (alpha + sigma)

    times = shift_time(torch.linspace(1.0, 0.0, steps + 1)).double()
    x = noise.clone()
    for now, then in pairwise(times):
        x = x + (then - now) * flow(x, now)
    torch.testing.assert_close(sample_ddim(velocity, noise, steps), x, atol=1e-5, rtol=0)
