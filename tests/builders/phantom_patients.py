"""Small analytic patients and a small model that knows them, for tests of scorecard training: seconds, no data."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from client.data.case_files import save_case
from client.site.config import SiteConfig
from shared_model.adapter.manifest import pack
from shared_model.adapter.shared import adapted_model
from shared_model.core.vector import Vector
from shared_model.diffusion.modalities import example
from shared_model.diffusion.objective import velocity_loss
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), precision="fp32")
TRAIN, HELD = 4, 3
# Coverage of the target against the mean dose of the larynx.
CARD = """\
schema: rt-scorecard/2
name: sparing
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 40, points: [[30, 0], [70, 40]]}
  - {id: larynx, structure: Larynx, metric: Mean, unit: Gy, direction: lower, weight: 60, points: [[0, 60], [60, 0]]}
"""


def patient(number: int) -> Case:
    """A target and a larynx in a cylinder, 16^3 voxels of 8 mm; the dose falls off from the target, planners vary."""
    random = np.random.RandomState(number)
    grid = Grid((16, 16, 16), (8.0, 8.0, 8.0))
    z, y, x = np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij")
    body = y**2 + x**2 <= 7.4**2
    centre = random.uniform(-2, 2, 3)
    from_target = np.sqrt((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2)
    target = (from_target <= 2.8) & body
    larynx = (np.sqrt((z - centre[0]) ** 2 + (y + 4.5) ** 2 + x**2) <= 2.0) & body & ~target
    width = random.uniform(2.0, 3.5)
    dose = random.uniform(0.96, 1.04) * 70 * np.exp(-((from_target - 2.8).clip(0) ** 2) / (2 * width**2)) * body
    return Case(
        case_id=f"case{number}",
        grid=grid,
        body=body,
        structures={"PTV_7000": target, "Larynx": larynx},
        prescriptions_gy={"PTV_7000": 70.0},
        ct_hu=np.where(body, 0.0, -1000.0).astype(np.float32),
        dose_gy=dose.astype(np.float32),
    )


@lru_cache(maxsize=1)
def trained_vector() -> Vector:
    """A shared adapter of SPEC that predicts these patients roughly, after some seconds of supervised steps."""
    torch.manual_seed(0)
    model = adapted_model(SPEC)
    examples = [example(patient(n), SPEC.shape) for n in range(100, 116)]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        chosen = [examples[i] for i in torch.randint(16, (4,), generator=generator).tolist()]
        loss = velocity_loss(model.network, chosen, "dose", generator, "fp32")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return pack(model)


def write_site(folder: Path) -> SiteConfig:
    """A site of TRAIN training and HELD held-back patients, as case files."""
    for number in range(TRAIN + HELD):
        save_case(folder / f"case{number}.npz", patient(number))
    ids = [f"case{number}" for number in range(TRAIN + HELD)]
    return SiteConfig(site="clinic", data="cases", root=folder, train=tuple(ids[:TRAIN]), validation=tuple(ids[TRAIN:]))
