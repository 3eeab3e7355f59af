"""From an RTPLAN's beams to the beam plate and the angle plate, in whatever position the patient lies.

``fast`` draws them in millimetres (shared_model/patient/plates.py), ``exact`` voxel by voxel as the GDP-HMM challenge
did (client/dicom/gdp_plates.py). Both treat every beam as coplanar and leave out collimator, jaws, leaves and couch
angle, as the challenge did.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.dicom import gdp_plates
from client.dicom.plan import Beam, Plan
from shared_model.core.errors import InputError
from shared_model.patient.case import Mask, Volume
from shared_model.patient.geometry import Grid, Triple
from shared_model.patient.plates import angle_plate, beam_plate

PLATES = ("fast", "exact")

# Where a gantry at 0 (source above the couch) stands about the patient, and the sense in which its angle grows: as for
# a patient who lies head first and supine, +1, or seen from the other end of the couch, -1 (PS3.3 section C.7.3.1.1.2).
_POSITIONS: dict[str, tuple[float, int]] = {
    "HFS": (0.0, 1),
    "HFP": (180.0, 1),
    "HFDR": (90.0, 1),
    "HFDL": (270.0, 1),
    "FFS": (0.0, -1),
    "FFP": (180.0, -1),
    "FFDR": (90.0, -1),
    "FFDL": (270.0, -1),
}
# The farthest part of a target from its beams' isocentre, and directions of all beams, an arc's every second control
# point: beyond these a plan is damaged, and its shadows would take any memory and time.
MAX_REACH_MM, MAX_DIRECTIONS = 600.0, 720
# A beam more than this from the first one's isocentre belongs to another field.
_SAME_ISOCENTRE_MM = 1.0


def about_patient(gantry_deg: float, position: str) -> float:
    """Return the gantry angle that gives the same direction through a patient who lies head first and supine (HFS).

    Raises InputError for a position that is not one of the standard's eight on a couch.
    """
    if position not in _POSITIONS:
        found = "is another one" if position else "is absent"
        raise InputError(f"plan: PatientPosition {found}; expected {', '.join(_POSITIONS)}")
    offset, sense = _POSITIONS[position]
    return (offset + sense * gantry_deg) % 360.0


def beam_angles(beams: Sequence[Beam], position: str) -> tuple[float, ...]:
    """Return the directions of all beams about an HFS patient, in degrees; of an arc, every second control point's."""
    return tuple(about_patient(angle, position) for beam in beams for angle in beam.gantry_deg[::2])


def plan_angles(plan: Plan, position: str) -> tuple[float, ...]:
    """Directions of the plan's beams about an HFS patient; ``position``: the CT's, if the plan names none."""
    return beam_angles(plate_beams(plan)[0], plan.position or position)


def plate_beams(plan: Plan) -> tuple[tuple[Beam, ...], tuple[str, ...]]:
    """Return the beams that plates are drawn for, and notes on what plates leave out. Raises InputError for a beam
    whose isocentre or angle the plan does not say."""
    lacking = sum(beam.isocentre_mm is None or not beam.gantry_deg for beam in plan.beams)
    if lacking:
        raise InputError(f"plan: IsocenterPosition or GantryAngle is empty in {lacking} of {len(plan.beams)} beams")
    if any(min(beam.couch_deg, 360 - beam.couch_deg) > 0.5 for beam in plan.beams):
        return plan.beams, ("plan: couch angles are not in the plates, which treat all beams as coplanar",)
    return plan.beams, ()


def plan_plates(
    plan: Plan | None, position: str, targets: Sequence[tuple[Mask, float]], grid: Grid, kind: str
) -> tuple[Volume | None, Volume | None, tuple[str, ...]]:
    """Draw beam plate and angle plate (z, y, x), with notes. If a plan gives no plates, a note says why.

    ``position`` is the CT's PatientPosition, for a plan that names none. ``targets``: masks and prescriptions in Gy.
    """
    if plan is None:
        return None, None, ()
    highest = max(level for _, level in targets)
    weights = np.max([mask * np.float32(level / highest) for mask, level in targets], axis=0)
    try:
        drawn = draw_plates(plan, plan.position or position, weights, grid, kind)
    except InputError as error:
        return None, None, (f"no plates: {error}",)
    return drawn or (None, None, ("no plates: the plan has no treatment beams",))


def draw_plates(
    plan: Plan, position: str, weights_zyx: NDArray[np.float32], grid: Grid, kind: str = "fast"
) -> tuple[Volume, Volume, tuple[str, ...]] | None:
    """Draw beam plate and angle plate (z, y, x), with notes; None for a plan without treatment beams.

    ``weights_zyx`` is prescription / highest prescription in the targets, 0 elsewhere. Each beam is drawn
    about its own isocentre. Raises InputError for an isocentre far from the targets, or for too many beams.
    """
    beams, notes = plate_beams(plan)
    if not beams:
        return None
    draw = _exact if kind == "exact" else _fast
    groups = _by_isocentre(beams)
    _check_reach([at for at, _ in groups], weights_zyx, grid)
    if (directions := len(beam_angles(beams, position))) > MAX_DIRECTIONS:
        raise InputError(f"plan: beams from {directions} directions; expected at most {MAX_DIRECTIONS}")
    drawn = [draw(weights_zyx, grid, at, beam_angles(g, position)) for at, g in groups]
    counts = np.array([len(beam_angles(g, position)) for _, g in groups], dtype=np.float32)
    share = counts / counts.sum() if kind == "fast" else np.ones_like(counts)
    beam = np.zeros(grid.shape, dtype=np.float32)
    angle = np.zeros(grid.shape, dtype=np.float32)
    for (beams_of, angles_of), part in zip(drawn, share, strict=True):
        beam += beams_of * part
        np.maximum(angle, angles_of, out=angle)
    return beam, angle, notes


def _fast(
    weights: NDArray[np.float32], grid: Grid, isocentre: Triple, angles: Sequence[float]
) -> tuple[Volume, Volume]:
    return beam_plate(weights, grid, isocentre, angles), angle_plate(grid, isocentre, angles)


def _exact(
    weights: NDArray[np.float32], grid: Grid, isocentre: Triple, angles: Sequence[float]
) -> tuple[Volume, Volume]:
    highest = weights >= weights.max() if weights.any() else weights > 0
    return gdp_plates.beam_plate(highest, grid, isocentre, angles), gdp_plates.angle_plate(grid, isocentre, angles)


def _check_reach(isocentres_zyx: Sequence[Triple], weights_zyx: NDArray[np.float32], grid: Grid) -> None:
    """Raise InputError where a corner of the targets' box lies too far from an isocentre."""
    where = np.argwhere(weights_zyx > 0)
    if not len(where):
        return
    corners = np.array([grid.position_mm(where.min(axis=0)), grid.position_mm(where.max(axis=0))])
    reach = max(float(np.linalg.norm(np.abs(corners - at).max(axis=0))) for at in isocentres_zyx)
    if reach > MAX_REACH_MM:
        raise InputError(f"plan: an isocentre lies {reach:.0f} mm from a part of the targets: is it another plan's?")


def _by_isocentre(beams: Sequence[Beam]) -> list[tuple[Triple, list[Beam]]]:
    """The beams of each isocentre (z, y, x)."""
    groups: list[tuple[Triple, list[Beam]]] = []
    for beam in beams:
        assert beam.isocentre_mm is not None  # plate_beams has looked
        x, y, z = beam.isocentre_mm
        for at, group in groups:
            if np.linalg.norm(np.subtract((z, y, x), at)) < _SAME_ISOCENTRE_MM:
                group.append(beam)
                break
        else:
            groups.append(((z, y, x), [beam]))
    return groups
