"""The second stage: a dose predicted on voxels twice as large is brought to the patient's own, and made sharp there.

Back-projection alone keeps the coarse means and smooths within them. A small network (network/fine.py) sees that dose
beside what the fine grid knows (edges of targets and organs, CT, light of the beams) and adds what is missing. It is
public, was trained on OpenKBP's training patients (`simulate fine`), is the same for every adapter, and is left out,
with a note, where a case's voxels are not like those.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from shared_model.bundled import FINE_STAGE
from shared_model.channels.layout import LIGHTS, NAMES
from shared_model.channels.volumes import PatientChannels, patient_channels
from shared_model.core.errors import InputError
from shared_model.network.device import autocast
from shared_model.network.fine import FINE_STRIDE, FineNet
from shared_model.patient.anatomy import OAR_NAMES
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid, back_project

# What the network sees of a patient's channels, in this order, after the dose.
SEEN: tuple[str, ...] = (
    *NAMES["ct"],
    "prescription", "is_high", "is_middle", "is_low", "near_high", "near_middle", "near_low", "near_any_target",
    "slice_near", "beyond", "blur6", "blur15", "slice_blur",
    *(f"is_{name}" for name in OAR_NAMES),
    "body", "depth",
    "plate", *LIGHTS,
)  # fmt: skip
FINE_CHANNELS = len(SEEN) + 1
# Beyond the training patients' voxels by this factor the stage is not used.
MARGIN = 1.15


class FineStage:
    """The network and the voxels that it was trained for: (low, high) mm of the slice distance and of the pixels."""

    def __init__(self, network: FineNet, spacing_mm: tuple[tuple[float, float], tuple[float, float]]) -> None:
        self.network, self.spacing_mm = network.eval(), spacing_mm

    def fits(self, coarse: Grid, fine: Case) -> bool:
        """Whether each coarse voxel is two fine ones a side, of a size like the training patients', with targets."""
        z, y, x = fine.grid.spacing_mm
        twice = all(abs(c / f - 2.0) < 1e-3 for c, f in zip(coarse.spacing_mm, (z, y, x), strict=True))
        (low_z, high_z), (low, high) = self.spacing_mm
        usual = low_z / MARGIN <= z <= high_z * MARGIN and all(low / MARGIN <= s <= high * MARGIN for s in (y, x))
        return twice and usual and bool(fine.targets)

    @torch.no_grad()
    def sharpen(self, dose_gy: Tensor, fine: Case, precision: str = "bf16") -> Tensor:
        """The dose (z, y, x) Gy on the grid of ``fine``, back-projected from coarser voxels, as the stage mends it."""
        patient = patient_channels(fine)
        z, y, x = patient.slices
        inputs = fine_inputs(patient, np.asarray(dose_gy[z, y, x], dtype=np.float32))
        device = next(self.network.parameters()).device
        with autocast(device, precision):
            added = self.network(_framed(torch.from_numpy(inputs)).to(device)).float().cpu()[0, 0]
        inside = torch.from_numpy(np.asarray(patient.stack[..., patient.layout.index("body")] > 0.5))
        added = added[tuple(slice(n) for n in inside.shape)] * inside
        out = dose_gy.clone()
        out[z, y, x] = (out[z, y, x] + added * patient.unit_gy).clamp_min(0.0)
        return out


def fine_inputs(patient: PatientChannels, dose_gy: NDArray[np.float32]) -> NDArray[np.float16]:
    """(z, y, x, FINE_CHANNELS) on the patient's box: the dose in units of the prescription, then SEEN."""
    seen = patient.stack[..., [patient.layout.index(name) for name in SEEN]]
    ratio = (dose_gy / np.float32(patient.unit_gy)).astype(np.float16)
    out: NDArray[np.float16] = np.concatenate([ratio[..., None], seen], axis=-1)
    return out


def lifted(dose_gy: Tensor, coarse: Grid, fine: Case, stage: FineStage | None) -> Tensor:
    """A dose on the grid ``coarse`` brought to that of ``fine``: back-projected, then sharpened where that fits."""
    if coarse == fine.grid:
        return dose_gy
    back = back_project(dose_gy, torch.from_numpy(fine.body), fine.grid, coarse)
    return stage.sharpen(back, fine) if stage is not None and stage.fits(coarse, fine) else back


def _framed(inputs_zyxc: Tensor) -> Tensor:
    """(1, C, z, y, x), filled with zeros at the far ends to multiples of FINE_STRIDE."""
    z, y, x = (-n % FINE_STRIDE for n in inputs_zyxc.shape[:3])
    return F.pad(inputs_zyxc.float(), (0, 0, 0, x, 0, y, 0, z)).permute(3, 0, 1, 2)[None]


def load_fine_stage(folder: Path) -> FineStage:
    """The stage in ``folder`` (weights.safetensors, card.json). InputError where they are not one."""
    weights, card_path = folder / "weights.safetensors", folder / "card.json"
    try:
        card = json.loads(card_path.read_text())
        network = FineNet(FINE_CHANNELS)
        network.load_state_dict({name: value.float() for name, value in load_file(weights).items()})
        slices, pixels = (tuple(float(mm) for mm in card["spacing_mm"][key]) for key in ("slices", "pixels"))
        return FineStage(network, ((slices[0], slices[1]), (pixels[0], pixels[1])))
    except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise InputError(
            f"{folder}: expected weights.safetensors and card.json as `simulate fine` writes them"
        ) from error


@lru_cache(maxsize=1)
def bundled_fine_stage() -> FineStage | None:
    """The stage that ships with the package."""
    return load_fine_stage(FINE_STAGE) if FINE_STAGE.is_dir() else None
