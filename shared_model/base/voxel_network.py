"""Network of the voxel base: it estimates the dose of one voxel from its features.

Ridge regression (shared_model.base.linear.py) has a closed form. This network has none, but follows dose better. Its
weights are part of the adapter's vector. Rounds of stage ``base`` train only these weights, like any others
(shared_model/base/voxel_training.py), and every later round learns dose minus this base. It works at any resolution,
since it looks at one voxel at a time.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from shared_model.base.linear import BASIS, HOTTEST
from shared_model.channels import light, surroundings
from shared_model.channels.features import NAMES, highest_gy, levels, physics_features, relative_prescription
from shared_model.network.seeding import seeded
from shared_model.patient.case import Case, Volume

Features = NDArray[np.float16]

WIDTH, LAYERS = 128, 3
# Standardised features are cut off here.
CUT = 6.0
# Light is about 0 to 1.
LIGHT_CENTRE = LIGHT_SCALE = 0.35
# The targets' volumes are left out. They are the same in all voxels of a patient, so the network would use them to
# recognise the patient. Without them the base is better by 0.1 Gy on patients that it has not seen.
_PHYSICS = [i for i, name in enumerate(NAMES) if not name.endswith("_lcc")]
COLUMNS: tuple[str, ...] = (*(NAMES[i] for i in _PHYSICS), *light.NAMES, *surroundings.NAMES)
FEATURES = len(COLUMNS)
_BLOCK = 65_536


class VoxelNetwork(nn.Module):
    """Features (n, FEATURES) in natural units -> dose divided by the highest prescription (n,)."""

    centre: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        sizes = [FEATURES] + [WIDTH] * LAYERS
        layers: list[nn.Module] = []
        for size, following in zip(sizes, [*sizes[1:], 1], strict=True):
            layers += [nn.Linear(size, following), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        ranges = [BASIS[NAMES[i]][:2] for i in _PHYSICS]
        ranges += [(LIGHT_CENTRE, LIGHT_SCALE)] * len(light.NAMES) + list(surroundings.PLACE.values())
        for name, column in (("centre", 0), ("scale", 1)):
            self.register_buffer(name, torch.tensor([pair[column] for pair in ranges]), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Dose divided by the highest prescription. The axes before the features may be any."""
        z = ((features - self.centre) / self.scale).clamp(-CUT, CUT)
        out: Tensor = self.layers(z)[..., 0]
        return out


def voxel_features(case: Case) -> Features:
    """Features (n, FEATURES) of the body's n voxels in C order. The Case's dose is not used."""
    lit = light.light_features(case, relative_prescription(case), levels(case)[0])
    return np.concatenate([physics_features(case)[:, _PHYSICS], lit, surroundings.surroundings(case)], axis=1).astype(
        np.float16
    )


@torch.no_grad()
def predict(case: Case, features: Features, network: VoxelNetwork) -> Volume:
    """The base dose of a case, (z, y, x) Gy on its own grid. 0 outside the body, and 0 everywhere without targets."""
    out = np.zeros(case.grid.shape, dtype=np.float32)
    unit_gy = highest_gy(case)
    if unit_gy > 0:
        blocks = [features[i : i + _BLOCK].astype(np.float32) for i in range(0, len(features), _BLOCK)]
        ratio = torch.cat([network(torch.from_numpy(block)) for block in blocks]).numpy()
        out[case.body] = np.clip(ratio, 0.0, HOTTEST) * np.float32(unit_gy)
    return out


def weights(network: VoxelNetwork) -> bytes:
    """All weights as float32 bytes. They also serve as the cache key of whatever was made with them."""
    return b"".join(p.detach().float().numpy().tobytes() for p in network.parameters())


def from_weights(content: bytes) -> VoxelNetwork:
    """Inverse of ``weights``."""
    with seeded(0):
        network = VoxelNetwork()
    values = torch.frombuffer(bytearray(content), dtype=torch.float32)
    with torch.no_grad():
        for parameter, part in zip(
            network.parameters(), values.split([p.numel() for p in network.parameters()]), strict=True
        ):
            parameter.copy_(part.view_as(parameter))
    return network
