"""One gradient a patient: equal to Opacus' hooks, plans averaged first, and what NaN, no dose and no targets do."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from opacus.grad_sample import GradSampleModule, register_grad_sampler

from client.site.config import SiteConfig
from client.training.patient_gradients import Patients, patients_of
from client.training.private_train import local_round, private_release
from privacy.dp.encoding import FINE, from_ring
from privacy.dp.noise import NoiseStream
from privacy.dp.terms import PrivacyTerms
from privacy.secagg.exact_sums import MaskTerms
from privacy.wire.messages import TrainTask
from shared_model.adapter.manifest import initial_vector, stage_mask
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.network.dit import Table
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), adapter="lora", rank=1, precision="fp32")
BASE = ModelSpec(prior="none", shape=(16, 16, 16), adapter="base", base="phantom")
# So many numbers that the noise of one release shows its size.
MANY = replace(SPEC, rank=8)
TERMS = PrivacyTerms(
    mode="shared", z=1.0, q=1.0, steps=4, clip=1e6, delta=1e-5, cohort=5, sites=3, survivors=3, colluders=1, views=4
)  # fmt: skip


def task(stage: str = "dose", terms: PrivacyTerms = TERMS, **changes: object) -> TrainTask:
    values = {"round": 1, "rounds": 4, "local_steps": 1, "batch_size": 1, "lr": 1e-3, "seed": 0, "stage": stage}
    return TrainTask(**{**values, "privacy": terms.to_json(), **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> SiteConfig:
    folder = tmp_path_factory.mktemp("hospital") / "a"
    return write_hospital(folder, STYLES["balanced_7f"], 5, 1, shape=(16, 16, 16))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def patients(site: SiteConfig, spec: ModelSpec, stage: str, terms: PrivacyTerms = TERMS) -> Patients:
    asked = task(stage, terms, local_steps=terms.local_steps)
    return patients_of(site, spec, initial_vector(spec), asked, terms)


def test_opacus_hooks_give_the_loops_gradients() -> None:
    """The whole transformer with low-rank adapters, five patients in one batch against one after the other."""

    @register_grad_sampler(Table)
    def _table(layer, activations, backprops):  # type: ignore[no-untyped-def]
        kept = [1 + i for i, n in enumerate(layer.weight.shape[1:]) if n > 1]
        summed = backprops.sum([i for i in range(1, backprops.dim()) if i not in kept], keepdim=True)
        return {layer.weight: summed.unsqueeze(1)}

    spec = replace(SPEC, adapter="lora+embeddings")
    model = adapted_model(spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    names = ("ct", "ptv", "oar", "body")
    volumes = {m: torch.randn(5, 32, 8, 4, 4, generator=generator) for m in (*names, "dose", "noisy")}
    t_b = torch.rand(5, generator=generator)
    wanted = {n: p for n, p in trainable(model).items() if not n.startswith(("patch.angle", "patch.beam", "head."))}
    wanted |= {n: p for n, p in trainable(model).items() if n.startswith("head.dose")}
    for name, parameter in trainable(model).items():
        parameter.requires_grad_(name in wanted and not name.startswith(("patch.angle", "patch.beam")))

    def losses(m: torch.nn.Module, rows: slice) -> torch.Tensor:
        seen = {n: volumes[n][rows] for n in names}
        out = m(seen, "dose", volumes["noisy"][rows], t_b[rows])
        return (out - volumes["dose"][rows]).square().flatten(1).mean(1)

    loop = [
        torch.autograd.grad(losses(model.network, slice(i, i + 1)).sum(), list(wanted.values()), allow_unused=True)
        for i in range(5)
    ]
    hooked = GradSampleModule(model.network, strict=False, loss_reduction="sum")
    losses(hooked, slice(0, 5)).sum().backward()
    for number, (name, parameter) in enumerate(wanted.items()):
        per_patient = getattr(parameter, "grad_sample", None)
        if loop[0][number] is None:
            assert per_patient is None, name
            continue
        expected = torch.stack([of[number] for of in loop])
        scale = expected.abs().max().clamp_min(1e-12)
        found = per_patient.reshape(expected.shape)
        assert ((found - expected).abs().max() / scale).item() < 2e-5, name
        assert (found - expected).abs().max().item() < 1e-6, name
    hooked.remove_hooks()


def test_the_sum_is_the_sum_of_the_patients(site: SiteConfig) -> None:
    terms = replace(TERMS, clip=0.05)
    found = patients(site, SPEC, "dose", terms)
    assert found.count == len(site.train) == 4
    gradients = [found.gradient(i) for i in range(found.count)]
    assert all(torch.linalg.vector_norm(g) <= 0.05 * (1 + 1e-6) for g in gradients)
    total = -found.descent_sum(NoiseStream()) * (0.05 / FINE)
    np.testing.assert_allclose(total, sum(gradients).double().numpy(), atol=5 * 0.05 / FINE * 4)
    assert torch.equal(found.gradient(1), found.gradient(1))
    assert not torch.equal(found.gradient(1), found.gradient(1, step=1))


@pytest.mark.parametrize(("spec", "stage"), [(SPEC, "dose"), (BASE, "base")])
def test_plans_of_one_patient_are_one_gradient(site: SiteConfig, spec: ModelSpec, stage: str) -> None:
    one, two = site.train[:2]
    grouped = replace(site, plans=((two, one),))
    assert grouped.patients() == ((0, 1), (2,), (3,))
    terms = replace(TERMS, clip=1e-3)
    found = patients(grouped, spec, stage, terms)
    assert found.count == 3
    assert torch.linalg.vector_norm(found.gradient(0)).item() == pytest.approx(1e-3, rel=1e-4)


def test_steps_on_one_patient_give_the_mean_gradient_along_their_path(site: SiteConfig) -> None:
    """K = 3 by hand: the model moves on this patient alone and is put back before the next one."""
    terms = replace(TERMS, local_steps=3, local_lr=0.05)
    before = patients(site, BASE, "base")
    found = patients(site, BASE, "base", terms)
    start = [p.detach().clone() for p in found.parameters]
    path, flat = [], torch.cat([p.reshape(-1) for p in start])
    for number in range(3):
        at = flat - 0.05 * sum(path) if path else flat
        with torch.no_grad():
            for p, part in zip(before.parameters, at.split([p.numel() for p in start]), strict=True):
                p.copy_(part.view_as(p))
        path.append(before.gradient(1, number))
    with torch.no_grad():
        for p, value in zip(before.parameters, start, strict=True):
            p.copy_(value)
    first = found.gradient(1)
    torch.testing.assert_close(first, sum(path) / 3, rtol=1e-4, atol=1e-7)
    assert not torch.allclose(first, path[0], rtol=1e-2)
    for p, value in zip(found.parameters, start, strict=True):
        assert torch.equal(p, value)
    # No patient's vector depends on which others were drawn before.
    found.gradient(0)
    assert torch.equal(found.gradient(1), first)
    assert torch.linalg.vector_norm(replace(found, terms=replace(terms, clip=1e-3)).gradient(1)) <= 1e-3 * (1 + 1e-6)


def test_a_path_that_breaks_counts_as_zero_and_leaves_the_model_whole(site: SiteConfig) -> None:
    found = patients(site, BASE, "base", replace(TERMS, local_steps=3, local_lr=0.05))
    start = [p.detach().clone() for p in found.parameters]
    broken = replace(found, loss=lambda i, g: found.loss(i, g) * float("inf"))
    assert not broken.gradient(1).any()
    for p, value in zip(found.parameters, start, strict=True):
        assert torch.equal(p, value)


def test_a_broken_patient_counts_as_zero(site: SiteConfig) -> None:
    found = patients(site, BASE, "base")
    broken = replace(found, loss=lambda i, g: found.loss(i, g) * (float("nan") if i == 1 else 1.0))
    nothing = replace(found, loss=lambda i, g: None if i == 1 else found.loss(i, g))
    assert not broken.gradient(1).any()
    assert np.abs(broken.descent_sum(NoiseStream()) - nothing.descent_sum(NoiseStream())).max() <= 8


def test_a_release_is_noise_around_the_descent_direction(site: SiteConfig) -> None:
    terms = replace(TERMS, clip=0.01, z=2.0)
    ring = private_release(site, MANY, initial_vector(MANY), task("dose", terms), terms)
    how = terms.encoding()
    assert ring.size == stage_mask(MANY, "dose").sum()
    decoded = how.decode(ring)
    clean = -sum(patients(site, MANY, "dose", terms).gradient(i) for i in range(4)).double().numpy()
    error = decoded - clean
    assert error.std() == pytest.approx(terms.z_alone * terms.clip, rel=0.02)
    assert from_ring(ring).std() > 4
    assert (decoded @ clean) / (clean @ clean) == pytest.approx(1.0, abs=5 * error.std() / np.linalg.norm(clean))
    assert not np.array_equal(ring, private_release(site, MANY, initial_vector(MANY), task("dose", terms), terms))


def test_stages_train_what_is_theirs() -> None:
    spec = replace(BASE, adapter="lora", rank=1)
    base, dose = stage_mask(spec, "base"), stage_mask(spec, "dose")
    assert (base ^ dose).all()
    assert base.sum() == stage_mask(BASE, "base").sum() == initial_vector(BASE).size
    assert not stage_mask(BASE, "dose").any()


def test_hospital_level_release_is_the_clipped_update(site: SiteConfig) -> None:
    terms = replace(TERMS, mode="site", clip=0.02, cohort=3)
    ring = private_release(site, MANY, initial_vector(MANY), task("dose", terms, local_steps=2, batch_size=2), terms)
    assert terms.encoding().decode(ring).std() == pytest.approx(terms.z_alone * terms.clip, rel=0.03)


def test_local_steps_move_by_noise_and_gradient(site: SiteConfig) -> None:
    terms = replace(TERMS, mode="local", clip=0.01, q=0.5)
    exact = MaskTerms(sites=3, survivors=3, colluders=1, cohort=5, weighting="patients", bound=1.0)
    asked = task("base", terms, local_steps=3, lr=1e-3, masks=exact.to_json())
    update = local_round(site, BASE, initial_vector(BASE), asked, terms)
    assert 0 < np.abs(update).max() <= 3.1e-3
    assert not np.array_equal(update, local_round(site, BASE, initial_vector(BASE), asked, terms))
