"""Train the voxel base on the dose of voxels and on the dose-volume histograms (DVHs) of structures.

A loss of only the mean absolute error learns medians. On OpenKBP it put the coldest hundredth of the targets 2 Gy too
hot, and the hottest hundredth and the cord 2 Gy too cold. So each step also compares, for each structure, the sorted
doses of some of its voxels: the area between two DVHs. The ends of the DVHs count more, because D99, D95, D1 and D0.1cc
are read there. Losses on DVHs are known from Nguyen et al. (Medical Physics 47(3), 2020, doi:10.1002/mp.13955);
arXiv:2603.29670 compares some.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared_model.base.interface import TrainingRows, dose_ratio
from shared_model.base.voxel_network import COLUMNS
from shared_model.channels.features import Features
from shared_model.patient.case import Case

# Signed distances, negative inside. They tell which structure a voxel is in, left and right alike.
_DISTANCES = (
    "high_mm", "middle_mm", "low_mm",
    "cord_mm", "parotid_mm", "brainstem_mm", "mandible_mm", "larynx_mm", "esophagus_mm",
)  # fmt: skip
_STRUCTURES = [COLUMNS.index(name) for name in _DISTANCES]
# Training uses this many voxels of a patient's body and of each structure (all, if there are fewer).
VOXELS_OF_BODY, VOXELS_OF_STRUCTURE = 8000, 1000
# One step uses this many of them. A structure with fewer than LEAST_VOXELS has no histogram.
BODY_STEP, STRUCTURE_STEP, LEAST_VOXELS = 512, 96, 8
# The histograms' weight beside the voxels' mean absolute error. The weight of each end, and its share of the voxels:
# one twentieth.
DVH_WEIGHT, END_WEIGHT, END_SHARE = 0.15, 1.0, 20


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step's voxels of several patients: features (n, f) and ratio (n,), as consecutive runs of voxels.

    ``lengths``: voxels of each run. ``of_structure``: whether the run is of a structure, not of the whole body.
    """

    features: Tensor
    ratio: Tensor
    lengths: list[int]
    of_structure: tuple[bool, ...]


def training_rows(case: Case, features: Features) -> TrainingRows | None:
    """Some of a case's voxels, always the same ones. None for a case without targets, which has no unit of dose.

    Raises InputError if the case has no dose.
    """
    ratio = dose_ratio(case)
    if ratio is None:
        return None
    random = np.random.RandomState(len(features))

    def choose(rows: NDArray[np.intp], most: int) -> NDArray[np.intp]:
        return np.sort(random.permutation(rows)[:most])

    parts = [choose(np.arange(len(features)), VOXELS_OF_BODY)]
    inside = (np.flatnonzero(features[:, column] < 0) for column in _STRUCTURES)
    parts += [choose(rows, VOXELS_OF_STRUCTURE) for rows in inside if len(rows) >= LEAST_VOXELS]
    chosen = np.unique(np.concatenate(parts))
    return TrainingRows(
        features=features[chosen],
        ratio=ratio[chosen],
        parts=tuple(np.searchsorted(chosen, part) for part in parts),
    )


def draw(patients: Sequence[TrainingRows], generator: torch.Generator) -> Batch:
    """Draw BODY_STEP voxels of each body with replacement, and up to STRUCTURE_STEP distinct ones of each structure."""
    features, ratio, lengths, of_structure = [], [], [], []
    for patient in patients:
        for number, part in enumerate(patient.parts):
            if number == 0:
                rows = part[torch.randint(len(part), (BODY_STEP,), generator=generator).numpy()]
            else:
                rows = part[torch.randperm(len(part), generator=generator)[:STRUCTURE_STEP].numpy()]
            features.append(patient.features[rows])
            ratio.append(patient.ratio[rows])
            lengths.append(len(rows))
            of_structure.append(number > 0)
    return Batch(
        features=torch.from_numpy(np.concatenate(features).astype(np.float32)),
        ratio=torch.from_numpy(np.concatenate(ratio)),
        lengths=lengths,
        of_structure=tuple(of_structure),
    )


def voxel_loss(network: nn.Module, batch: Batch) -> Tensor:
    """Mean absolute error of the body's voxels plus DVH_WEIGHT times the mean distance of the structures' DVHs."""
    predicted = network(batch.features).split(batch.lengths)
    measured = batch.ratio.split(batch.lengths)
    voxels, histograms = [], []
    for p, y, of_structure in zip(predicted, measured, batch.of_structure, strict=True):
        if of_structure:
            histograms.append(dvh_distance(p, y))
        else:
            voxels.append((p - y).abs().mean())
    loss = torch.stack(voxels).mean()
    return loss + DVH_WEIGHT * torch.stack(histograms).mean() if histograms else loss


def dvh_distance(predicted_n: Tensor, measured_n: Tensor) -> Tensor:
    """Area between two DVHs plus END_WEIGHT times the area at each end, () in units of the doses."""
    apart = (predicted_n.sort().values - measured_n.sort().values).abs()
    end = max(1, len(apart) // END_SHARE)
    return apart.mean() + END_WEIGHT * (apart[:end].mean() + apart[-end:].mean())
