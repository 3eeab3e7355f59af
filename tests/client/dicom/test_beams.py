"""Beams of a plan about the patient, and the plates of GDP-HMM voxel by voxel."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from client.dicom import gdp_plates
from client.dicom.beams import about_patient, beam_angles, draw_plates
from client.dicom.plan import Beam, Plan
from shared_model.core.errors import InputError
from shared_model.patient.geometry import Grid
from simulations.phantom.planes import ORIENTATIONS, room_gantry

GRID = Grid((20, 24, 28), (3.0, 2.5, 2.5), (-28.5, -28.75, -33.75))


def _beam(number: int = 1, *gantry: float, iso: tuple[float, float, float] = (0.0, 0.0, 0.0), **more: object) -> Beam:
    values = {"radiation": "PHOTON", "couch_deg": 0.0, **more}
    return Beam(number=number, isocentre_mm=iso, gantry_deg=gantry or (0.0,), **values)  # type: ignore[arg-type]


def _plan(*beams: Beam) -> Plan:
    return Plan(
        beams=beams,
        beam_numbers=tuple(b.number for b in beams),
        prescriptions=(),
        position="HFS",
        fractions=35,
        brachytherapy=False,
        fraction_groups=1,
    )


def _target() -> NDArray[np.float32]:
    z, y, x = np.meshgrid(*(GRID.centres_mm(a) for a in range(3)), indexing="ij")
    return ((z / 9) ** 2 + (y / 8) ** 2 + (x / 8) ** 2 <= 1).astype(np.float32)


@pytest.mark.parametrize("position", ORIENTATIONS)
@pytest.mark.parametrize("gantry", [0.0, 50.0, 90.0, 200.0])
def test_a_gantry_s_direction_through_a_patient_in_any_position(position: str, gantry: float) -> None:
    """The source stands right and up in the room; rows and columns of an image do too."""
    row, column = (np.array(d) for d in ORIENTATIONS[position])
    source = np.sin(np.deg2rad(gantry)) * row - np.cos(np.deg2rad(gantry)) * column
    angle = np.deg2rad(about_patient(gantry, position))
    assert source == pytest.approx([np.sin(angle), -np.cos(angle), 0.0], abs=1e-9)
    turn = (room_gantry(about_patient(gantry, position), position) - gantry) % 360
    assert min(turn, 360 - turn) == pytest.approx(0.0, abs=1e-9)


def test_an_unknown_position_is_an_error_of_the_plan() -> None:
    with pytest.raises(InputError, match="PatientPosition is another one"):
        about_patient(0.0, "SITTING")
    with pytest.raises(InputError, match="absent"):
        about_patient(0.0, "")


def test_arcs_are_every_second_control_point() -> None:
    arc = _beam(1, *range(0, 100, 10))
    assert len(arc.gantry_deg) > 1
    assert beam_angles([arc, _beam(2, 180.0)], "HFS") == (0, 20, 40, 60, 80, 180)


def test_notes_on_what_plates_leave_out() -> None:
    drawn = draw_plates(_plan(_beam(1, 0.0, couch_deg=10.0), _beam(2, 90.0)), "HFS", _target(), GRID)
    assert drawn is not None
    assert [note.split(":")[1].split()[0] for note in drawn[2]] == ["couch"]
    assert draw_plates(_plan(), "HFS", _target(), GRID) is None


def test_two_isocentres_are_drawn_about_each_their_own() -> None:
    beams = _beam(1, 0.0, iso=(-20.0, 0.0, 0.0)), _beam(2, 0.0, iso=(20.0, 0.0, 0.0))
    both = draw_plates(_plan(*beams), "HFS", _target(), GRID)
    assert both is not None
    column = both[1][10].max(axis=0) > 0
    x = GRID.centres_mm(2)
    assert column[np.abs(x + 20).argmin()]
    assert column[np.abs(x - 20).argmin()]
    assert not column[np.abs(x).argmin()]


def _slow_plate(target: NDArray[np.bool_], isocentre: NDArray[np.float64], gantry: float) -> NDArray[np.float64]:
    """One beam, ray by ray and voxel by voxel."""
    angle = np.deg2rad(gantry - 90)
    _, sy, sx = GRID.spacing_mm
    source = [
        isocentre[0],
        int(isocentre[1] + 1000 * np.sin(angle) / sy),
        int(isocentre[2] + 1000 * np.cos(angle) / sx),
    ]
    shadow = np.zeros(GRID.shape, dtype=bool)
    for point in np.argwhere(target & ~ndimage.binary_erosion(target)):
        row = 0 if source[1] > point[1] else GRID.shape[1] - 1
        share = (row - source[1]) / ((point[1] - source[1]) or 1)
        end = [int(source[0] + share * (point[0] - source[0])), row, int(source[2] + share * (point[2] - source[2]))]
        length = int(max(abs(int(e - s)) for e, s in zip(end, source, strict=True)))
        for step in range(length + 1):
            voxel = [round(s + (e - s) * step / length) for s, e in zip(source, end, strict=True)]
            if all(0 <= v < n for v, n in zip(voxel, GRID.shape, strict=True)):
                shadow[tuple(voxel)] = True
    shadow = ndimage.binary_erosion(ndimage.binary_dilation(shadow, np.ones((4, 4, 4))), np.ones((3, 3, 3)))
    index = np.indices(GRID.shape)
    distance = sum((index[a] - source[a]) ** 2 for a in range(3))
    return np.asarray(shadow * (sum((source[a] - isocentre[a]) ** 2 for a in range(3)) / distance))


@pytest.mark.parametrize("gantry", [0.0, 90.0, 130.0, 270.0])
def test_the_exact_beam_plate_is_the_definition_s(gantry: float) -> None:
    target = np.zeros(GRID.shape, dtype=bool)
    target[8:11, 10:13, 12:15] = True
    voxel = np.array([9.0, 11.0, 13.0])
    slow = _slow_plate(target, voxel, gantry)
    fast = gdp_plates.beam_plate(target, GRID, tuple(GRID.position_mm(voxel)), [gantry])
    assert np.array_equal(fast > 0, slow > 0)
    assert fast == pytest.approx(slow, rel=1e-5)


def test_the_exact_angle_plate_counts_voxels() -> None:
    plate = gdp_plates.angle_plate(GRID, (0.0, 0.0, 0.0), [0.0])
    z, y, x = (int(v) for v in -np.array(GRID.origin_mm) / GRID.spacing_mm)
    assert plate[:, y - 3, x].nonzero()[0].tolist() == list(range(z - 5, z + 5))
    assert plate[z, : y + 1, x].all()  # to the front, beyond the border of this grid
    assert not plate[z, y + 3 :, x].any()
    assert plate[z, y - 5].sum() == 5  # four wide, with its middle


def test_an_empty_target_has_no_exact_plate() -> None:
    assert not gdp_plates.beam_plate(np.zeros(GRID.shape, dtype=bool), GRID, (0.0, 0.0, 0.0), [0.0]).any()
