"""The default model must not drift: studies, adapters and priors of earlier commits depend on it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.data.case_files import save_case
from client.site.config import SiteConfig
from client.training.train import evaluate_round, train_round
from privacy.wire.messages import EvaluateTask, TrainTask
from shared_model.adapter.manifest import initial_vector, manifest_hash
from shared_model.backbone.prior import load_prior
from shared_model.diffusion.modalities import Example
from shared_model.diffusion.objective import velocity_loss
from shared_model.forms.interface import Drawing
from shared_model.forms.latents import LatentForm
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture, ModelSpec
from shared_model.patient.case import MODALITIES, Case
from shared_model.patient.geometry import Grid

SPEC = ModelSpec(prior="none")
LAYOUT = "6e40f2a5415acfbf9729ef22e6a6bfc6537174826d224ab2e460695f42bdef0e"
GRID = Grid((8, 16, 16), (3.0, 3.0, 3.0))


@pytest.fixture
def model() -> Any2AnyDiT:
    torch.manual_seed(0)
    model = Any2AnyDiT(Architecture()).eval()
    with torch.no_grad():
        model.role.weight[1] += 0.1
    return model


@pytest.fixture
def patients() -> list[Example]:
    g = torch.Generator().manual_seed(1)
    order = ("dose", "ct", "ptv", "oar", "body", "beam", "angle")
    assert order == MODALITIES
    draws = [{m: torch.randn(32, 4, 4, 4, generator=g) for m in order} for _ in range(2)]
    return [Example(case_id=str(i), grid=GRID, latents=latents) for i, latents in enumerate(draws)]


@torch.no_grad()
def test_forward_pass(model: Any2AnyDiT, patients: list[Example]) -> None:
    volumes = {m: torch.stack([p.latents[m] for p in patients]) for m in MODALITIES}
    noisy = volumes.pop("dose")
    out = model(volumes, "dose", noisy, torch.tensor([0.3, 0.9]))
    found = [out.mean(), out.std(), *out.flatten()[[0, 1000, 2000, 3000, 4000]]]
    golden = [-0.02443, 0.63458, -0.06393, 0.56547, -0.59569, -0.08765, 0.17393]
    assert [float(v) for v in found] == pytest.approx(golden, abs=1e-4)


@pytest.mark.parametrize(
    ("stage", "losses", "next_draw"),
    [
        ("dose", [1.46534, 1.44813, 1.45109, 1.45559], 0.4524708390235901),
        ("any2any", [1.42947, 1.43259, 1.49301, 1.43073], 0.6583990454673767),
    ],
)
@torch.no_grad()
def test_losses_and_draws(
    model: Any2AnyDiT, patients: list[Example], stage: str, losses: list[float], next_draw: float
) -> None:
    g = torch.Generator().manual_seed(3)
    found = [float(velocity_loss(model, patients, stage, g, "fp32")) for _ in range(4)]
    assert found == pytest.approx(losses, abs=1e-4)
    assert float(torch.rand((), generator=g)) == next_draw


def test_sampler(model: Any2AnyDiT, patients: list[Example]) -> None:
    form = LatentForm(replace(SPEC, precision="fp32"))
    dose = form.draw(model, patients[0], Drawing(steps=3), candidates=2, seed=5)
    found = [dose.mean(), dose.std(), *dose.flatten()[[0, 777, 2222]]]
    assert [float(v) for v in found] == pytest.approx([0.04219, 0.87272, 1.60754, -0.26495, -0.79684], abs=1e-4)


def test_names_and_shapes_of_the_parameters() -> None:
    state = load_prior(SPEC).state_dict()
    names = ";".join(f"{name}:{tuple(tensor.shape)}" for name, tensor in state.items())
    assert hashlib.sha256(names.encode()).hexdigest() == LAYOUT


def test_what_travels_and_its_identity() -> None:
    vector = initial_vector(SPEC)
    assert SPEC.to_json() == (
        '{"adapter":"full","alpha":16,"init_seed":0,"precision":"bf16","prior":"none","rank":16,"shape":[32,32,32]}'
    )
    assert vector.size == 1_206_784
    ends = [float(v) for v in (*vector[:3], *vector[-3:])]
    assert ends == pytest.approx([-0.00046793, 0.03352772, -0.05144032, 0.06579615, -0.13796984, -0.21200345], abs=1e-6)
    assert manifest_hash(SPEC) == "8442f5d7b4dcd9266604f37bfa78b70d6c12cd2898198222213580482154a765"
    assert manifest_hash(ModelSpec()) == "47f15c20d12c6d121d477c100898c5b7c04399a6ef7502339c0fa7afe6900b2e"


def ball(case_id: str, radius: float) -> Case:
    """A target amid a round body, in closed form: a phantom's planner rounds otherwise on other processors."""
    z, y, x = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    r = np.sqrt(z**2 + y**2 + x**2)
    body = r < 7.5
    dose = np.where(body, 70 / (1 + np.exp(r - radius)) * (1 + 0.02 * y), 0.0)
    return Case(
        case_id=case_id,
        grid=Grid((16, 16, 16), (8.0, 8.0, 8.0)),
        body=body,
        structures={"PTV_7000": r < radius},
        prescriptions_gy={"PTV_7000": 70.0},
        ct_hu=np.where(body, 10.0 * z, -1000.0).astype(np.float32),
        dose_gy=dose.astype(np.float32),
    )


def test_training_and_scoring_of_cases_in_closed_form(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    cases = [ball(f"ball_{i}", 2.0 + 0.5 * i) for i in range(6)]
    for case in cases:
        save_case(tmp_path / f"{case.case_id}.npz", case)
    names = tuple(case.case_id for case in cases)
    site = SiteConfig(site="a", data="cases", root=tmp_path, train=names[:5], validation=names[5:])
    spec = replace(SPEC, shape=(16, 16, 16), precision="fp32")
    task = TrainTask(
        round=1, rounds=2, local_steps=2, batch_size=2, lr=1e-3, seed=0, stage="dose", grad_clip=1.0, weight_decay=0.0
    )
    update, metrics = train_round(site, spec, initial_vector(spec), task)
    assert metrics["loss"] == pytest.approx(0.877836, rel=1e-4)
    asked = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)
    score = evaluate_round(site, spec, (initial_vector(spec) + update).astype(np.float32), asked)
    assert score["dose_score_gy"] == pytest.approx(16.579980, rel=1e-4)
