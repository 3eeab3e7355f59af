"""The voxel baseline: a small network gives a voxel's dose from its features, and looks at no other voxel.

Its features: 21 physics features (shared_model/channels/features.py), six of light (light.py) and six of its
surroundings. The targets' volumes are left out: they are the same in all voxels of a patient, so the network would use
them to recognise the patient. It learns the dose of voxels and the dose-volume histograms of structures, since the mean
absolute error of voxels teaches medians. docs/decisions/0007-voxel-base.md says what was tried.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared_model.base.interface import dose_ratio
from shared_model.base.linear import BASIS, CUT, HOTTEST
from shared_model.channels import light
from shared_model.channels.features import (
    NAMES,
    highest_gy,
    levels,
    physics_features,
    relative_prescription,
    signed_distance_mm,
)
from shared_model.core.errors import InputError
from shared_model.network.seeding import seeded
from shared_model.patient.case import Case, Volume
from shared_model.scoring.dvh_distance import dvh_distance

PATIENTS_A_STEP = 4
LEARNING_RATE, LAST_RATE = 8e-3, 0.05  # the last one as a share of the first; a half cosine leads from one to the other
WIDTH, LAYERS = 128, 3
# Training keeps this many voxels of a patient's body and of each structure (all, if there are fewer).
VOXELS_OF_BODY, VOXELS_OF_STRUCTURE = 8000, 1000
# One step draws this many of them. A structure with fewer than LEAST_VOXELS has no histogram.
BODY_STEP, STRUCTURE_STEP, LEAST_VOXELS = 512, 96, 8
# The histograms' weight beside the voxels' mean absolute error.
DVH_WEIGHT = 0.15
# An organ farther away than this, or absent, counts as this far.
FAR_MM = 60.0
_BLOCK = 65_536

# Organs that planners spare and the physics features do not cover: without them a prediction gives them 2 to 3 Gy too
# much. For each feature centre and scale in mm; public round figures, not fitted to patients.
_ORGANS = ("Bone_Mandible", "Larynx", "Esophagus")
SURROUNDINGS: dict[str, tuple[float, float]] = {
    "mandible_mm": (52.0, 15.0),
    "larynx_mm": (58.0, 7.0),
    "esophagus_mm": (58.0, 7.0),
    "from_middle_mm": (0.0, 50.0),
    "aside_mm": (60.0, 50.0),
    "width_mm": (260.0, 140.0),
}
_PHYSICS = [i for i, name in enumerate(NAMES) if not name.endswith("_lcc")]
COLUMNS: tuple[str, ...] = (*(NAMES[i] for i in _PHYSICS), *light.NAMES, *SURROUNDINGS)
_RANGES = [BASIS[NAMES[i]][:2] for i in _PHYSICS] + [(0.35, 0.35)] * len(light.NAMES) + [*SURROUNDINGS.values()]
# Signed distances, negative inside. They tell which structure a voxel is in, left and right alike.
_DISTANCES = (
    "high_mm", "middle_mm", "low_mm",
    "cord_mm", "parotid_mm", "brainstem_mm", "mandible_mm", "larynx_mm", "esophagus_mm",
)  # fmt: skip
_STRUCTURES = [COLUMNS.index(name) for name in _DISTANCES]


class VoxelNetwork(nn.Module):
    """Features (n, 33) in natural units -> dose divided by the highest prescription (n,)."""

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        sizes = [len(COLUMNS)] + [WIDTH] * LAYERS
        layers: list[nn.Module] = []
        for size, following in zip(sizes, [*sizes[1:], 1], strict=True):
            layers += [nn.Linear(size, following), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        for name, column in (("centre", 0), ("scale", 1)):
            self.register_buffer(name, torch.tensor([pair[column] for pair in _RANGES]), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Dose divided by the highest prescription, (n,)."""
        z = ((features - self.centre) / self.scale).clamp(-CUT, CUT)
        out: Tensor = self.layers(z)[..., 0]
        return out


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Voxels of one patient: features (m, 33), dose / highest prescription (m,), row numbers of body and structures."""

    features: NDArray[np.float32]
    ratio: NDArray[np.float32]
    parts: tuple[NDArray[np.intp], ...]


def surroundings(case: Case) -> NDArray[np.float32]:
    """Features (n, 6), columns SURROUNDINGS, of the body's n voxels in C order, all in mm.

    They are the signed distances to the organs, the posterior distance from the middle of the body in the slice, the
    lateral distance from it (either side), and the width of the body in the slice.
    """
    body, spacing = case.body, case.grid.spacing_mm
    empty = np.zeros(case.grid.shape, dtype=bool)
    columns = [
        np.minimum(signed_distance_mm(case.structures.get(name, empty), spacing), FAR_MM)[body] for name in _ORGANS
    ]
    z, y, x = np.nonzero(body)
    voxels = np.bincount(z, minlength=len(body)).clip(1)
    for axis, index in ((1, y), (2, x)):
        middle = np.bincount(z, index, minlength=len(body)) / voxels
        offset = (index - middle[z]) * spacing[axis]
        columns.append(offset if axis == 1 else np.abs(offset))
    widths = [np.ptp(np.flatnonzero(plane.any(axis=0))) * spacing[2] if plane.any() else 0.0 for plane in body]
    columns.append(np.array(widths)[z])
    return np.stack(columns, axis=1).astype(np.float32)


def voxel_features(case: Case) -> NDArray[np.float16]:
    """Features (n, 33) of the body's n voxels in C order. The Case's dose is not used."""
    lit = light.light_features(case, relative_prescription(case), levels(case)[0])
    return np.concatenate([physics_features(case)[:, _PHYSICS], lit, surroundings(case)], axis=1).astype(np.float16)


def training_rows(case: Case) -> Rows:
    """Some of a case's voxels, always the same ones. InputError for a case without dose or targets."""
    ratio = dose_ratio(case)
    if ratio is None:
        raise InputError(f"case {case.case_id}: a baseline trains on cases with dose and targets")
    features = voxel_features(case)
    random = np.random.RandomState(len(features))

    def choose(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
        return np.sort(random.permutation(rows)[:most])

    parts = [choose(np.arange(len(features)), VOXELS_OF_BODY)]
    inside = (np.flatnonzero(features[:, column] < 0) for column in _STRUCTURES)
    parts += [choose(rows, VOXELS_OF_STRUCTURE) for rows in inside if len(rows) >= LEAST_VOXELS]
    chosen = np.unique(np.concatenate(parts))
    return Rows(
        features=features[chosen].astype(np.float32),
        ratio=ratio[chosen],
        parts=tuple(np.searchsorted(chosen, part) for part in parts),
    )


def loss_of(network: nn.Module, patients: Sequence[Rows], generator: torch.Generator) -> Tensor:
    """Mean absolute error of drawn voxels plus DVH_WEIGHT times the mean distance of the structures' DVHs, ().

    Draws BODY_STEP voxels of each body with replacement, and up to STRUCTURE_STEP distinct ones of each structure.
    """
    features, ratios = [], []
    for patient in patients:
        body, *structures = patient.parts
        drawn = [body[torch.randint(len(body), (BODY_STEP,), generator=generator).numpy()]]
        drawn += [p[torch.randperm(len(p), generator=generator)[:STRUCTURE_STEP].numpy()] for p in structures]
        features += [torch.from_numpy(patient.features[rows]) for rows in drawn]
        ratios += [torch.from_numpy(patient.ratio[rows]) for rows in drawn]
    predicted = network(torch.cat(features)).split([len(ratio) for ratio in ratios])
    bodies = set(np.cumsum([0, *(len(patient.parts) for patient in patients[:-1])]).tolist())
    voxels, histograms = [], []
    for number, (p, y) in enumerate(zip(predicted, ratios, strict=True)):
        if number in bodies:
            voxels.append((p - y).abs().mean())
        else:
            histograms.append(dvh_distance(p, y))
    loss = torch.stack(voxels).mean()
    return loss + DVH_WEIGHT * torch.stack(histograms).mean() if histograms else loss


def train_voxel(cases: Sequence[Case], seed: int, steps: int) -> Callable[[Case], Volume]:
    """Train on ``cases``; returns case -> dose (z, y, x) Gy on its grid."""
    patients = [training_rows(case) for case in cases]
    with seeded(seed):
        network = VoxelNetwork()
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    for step in range(steps):
        fade = 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (LAST_RATE + (1 - LAST_RATE) * fade)
        chosen = torch.randint(len(patients), (PATIENTS_A_STEP,), generator=generator).tolist()
        loss = loss_of(network, [patients[i] for i in chosen], generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
    return lambda case: predict(network, case)


@torch.no_grad()
def predict(network: VoxelNetwork, case: Case) -> Volume:
    """The dose of a case, (z, y, x) Gy on its own grid. 0 outside the body, and 0 everywhere without targets."""
    out = np.zeros(case.grid.shape, dtype=np.float32)
    unit_gy = highest_gy(case)
    if unit_gy > 0:
        features = torch.from_numpy(voxel_features(case).astype(np.float32))
        ratio = torch.cat([network(block) for block in features.split(_BLOCK)]).numpy()
        out[case.body] = np.clip(ratio, 0.0, HOTTEST) * np.float32(unit_gy)
    return out
