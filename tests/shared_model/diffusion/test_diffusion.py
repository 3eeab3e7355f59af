from itertools import pairwise

import pytest
import torch

from shared_model.network.schedule import (
    DDPM_LAST_ALPHA,
    EPS_START,
    X0_LIMIT,
    add_noise,
    alpha_sigma,
    flow_state,
    recover,
    sample_ddim,
    sampling_times,
    shift_time,
    training_target,
    velocity_of_flow,
)
from shared_model.network.switches import PREDICTIONS


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
    again = recover(*add_noise(x0, eps, t), t)
    torch.testing.assert_close(again[0], x0)
    torch.testing.assert_close(again[1], eps)


def test_flow_and_velocity_forms_agree() -> None:
    """Identity of docs/model.md: v_vp = ((alpha - sigma) x_vp + v_fm(x_rf)) / (alpha + sigma); v_fm = eps - x_0."""
    x0, eps = torch.randn(7, 4, dtype=torch.float64), torch.randn(7, 4, dtype=torch.float64)
    t = torch.rand(7, dtype=torch.float64)
    x_vp, v = add_noise(x0, eps, t)
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


def any_flow(x_rf: torch.Tensor, t_b: torch.Tensor) -> torch.Tensor:
    """A flow network of no particular kind."""
    return torch.sin(3 * x_rf) + x_rf.flip(-1) * t_b[:, None] - 0.2


def test_a_wrapped_flow_has_the_flows_own_clean_data_and_noise() -> None:
    """Of any network, in float64: x_0 = x_rf - t flow and eps = x_rf + (1 - t) flow, at the ends of time too."""
    t = torch.cat([torch.tensor([0.0, 1.0]), torch.rand(30)]).double()
    x_t = torch.randn(32, 6, dtype=torch.float64)
    x_rf = flow_state(x_t, t)
    flow = any_flow(x_rf, t)
    x0, eps = recover(x_t, velocity_of_flow(x_t, flow, t), t)
    torch.testing.assert_close(x0, x_rf - t[:, None] * flow, atol=2e-14, rtol=0)
    torch.testing.assert_close(eps, x_rf + (1 - t[:, None]) * flow, atol=2e-14, rtol=0)


def test_ddim_on_a_wrapped_flow_is_euler_on_the_flow() -> None:
    """Ten steps on the same grid, in float64; the states differ by the factor alpha + sigma all the way."""
    times = shift_time(torch.linspace(1.0, 0.0, 11, dtype=torch.float64))
    x_t = torch.randn(4, 6, dtype=torch.float64)
    x_rf = x_t.clone()
    for now, then in pairwise(times):
        now_b, then_b = now.expand(4), then.expand(4)
        x0, eps = recover(x_t, velocity_of_flow(x_t, any_flow(flow_state(x_t, now_b), now_b), now_b), now_b)
        x_t, _ = add_noise(x0, eps, then_b)
        x_rf = x_rf + (then - now) * any_flow(x_rf, now_b)
        torch.testing.assert_close(flow_state(x_t, then_b), x_rf, atol=1e-13, rtol=0)


def test_v_eps_and_x0_are_one_prediction() -> None:
    """An exact network says the same x_0 and eps in all three forms, at every time that a sampler visits."""
    x0, eps = torch.randn(9, 2, 3, dtype=torch.float64), torch.randn(9, 2, 3, dtype=torch.float64)
    t = torch.cat((torch.linspace(0.02, 0.98, 8, dtype=torch.float64), torch.tensor([EPS_START], dtype=torch.float64)))
    x_t, v = add_noise(x0, eps, t)
    for predicts in PREDICTIONS:
        found = recover(x_t, training_target(predicts, x0, eps, v), t, predicts)
        torch.testing.assert_close(found[0], x0, atol=1e-12, rtol=0)
        torch.testing.assert_close(found[1], eps, atol=1e-12, rtol=0)


@pytest.mark.parametrize("predicts", PREDICTIONS)
@pytest.mark.parametrize("steps", [1, 2, 4, 10])
def test_every_form_samples_a_known_point(predicts: str, steps: int) -> None:
    x0, noise = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        alpha, sigma = alpha_sigma(t, 2)
        eps = (x - alpha * x0) / sigma
        return training_target(predicts, x0, eps, alpha * eps - sigma * x0)

    torch.testing.assert_close(sample_ddim(network, noise, steps, predicts), x0, atol=1e-5, rtol=0)


def test_eps_starts_where_ddpm_does_and_its_clamp_holds() -> None:
    alpha, _ = alpha_sigma(sampling_times(4, "eps")[:1].double(), 1)
    assert float(alpha) == pytest.approx(DDPM_LAST_ALPHA, rel=1e-4)
    assert sampling_times(4, "eps")[1:].tolist() == sampling_times(4)[1:].tolist()
    assert float(sampling_times(4)[0]) == 1.0
    for t in (1.0, EPS_START):
        x0, _ = recover(torch.full((1, 3), 2.0), torch.tensor([[2.0, 500.0, -500.0]]), torch.tensor([t]), "eps")
        assert x0.isfinite().all()
        assert x0[0, 1:].tolist() == [-X0_LIMIT, X0_LIMIT]


def test_x0_form_stays_finite_without_noise() -> None:
    _, eps = recover(torch.ones(1, 2), torch.ones(1, 2) * 1.5, torch.tensor([0.0]), "x0")
    assert eps.isfinite().all()
