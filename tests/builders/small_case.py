"""A body of a few voxels with everything in it, and a network that trains on it in a blink."""

from dataclasses import replace
from typing import Any

import numpy as np

from shared_model.network.pyramid import PyramidSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.patient.plates import angle_plate, beam_plate

SPACING_MM = (6.0, 5.0, 5.0)
GANTRY_DEG = tuple(40.0 * k for k in range(9))
TINY = PyramidSpec(
    widths=(16, 16), stem_widths=(8, 8), full=8, dim=32, heads=2, ffn_dim=32, layers=2,
    blocks=(1, 1), target_blocks=(1, 1), decoder_blocks=(1, 1),
)  # fmt: skip


def small_case(case_id: str = "a", **changes: Any) -> Case:
    """An elliptic body, not symmetric, with two targets, three organs, nine beams, CT and dose, on 12 x 18 x 22."""
    shape = (12, 18, 22)
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")

    def ball(cz: float, cy: float, cx: float, r: float) -> Any:
        return (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 <= r * r

    body = ((y - 9) / 7.0) ** 2 + ((x - 10) / 9.0) ** 2 <= 1
    body &= (z >= 1) & (z < 11)
    grid = Grid(shape, SPACING_MM)
    high, low = ball(6, 8, 8, 2.5), ball(5, 9, 13, 2.2)
    structures = {
        "PTV_7000": high, "PTV_5600": low,
        "SpinalCord": (abs(y - 13) <= 1) & (abs(x - 10) <= 1) & body, "Parotid_L": ball(7, 8, 16, 1.8) & body,
        "Brainstem": ball(9, 11, 10, 1.5) & body,
    }  # fmt: skip
    isocentre = (36.0, 40.0, 40.0)
    weights = np.maximum(high.astype(np.float32), 0.8 * low.astype(np.float32))
    dose = (70 * np.exp(-((z - 6) ** 2 + (y - 8) ** 2 + (x - 9) ** 2) / 60.0) * body).astype(np.float32)
    case = Case(
        case_id=case_id,
        grid=grid,
        body=body,
        structures=structures,
        prescriptions_gy={"PTV_7000": 70.0, "PTV_5600": 56.0},
        ct_hu=np.where(body, 30.0 + 5 * z, -1000.0).astype(np.float32),
        beam_plate=beam_plate(weights, grid, isocentre, GANTRY_DEG),
        angle_plate=angle_plate(grid, isocentre, GANTRY_DEG),
        dose_gy=dose,
    )
    return replace(case, **changes)
