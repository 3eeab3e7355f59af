"""Phantom patients as complete DICOM studies: CT, RTSTRUCT, RTPLAN and RTDOSE, in any position on the couch.

The Case's volumes are looked up at the places of the scan's pixels (simulations/phantom/planes.py), so what a reader
makes of the files can be compared with the Case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.plates import target_centroid_mm
from simulations.phantom.dicom_files import Identity, write_ct, write_dose, write_plan, write_structures
from simulations.phantom.hospitals import Style, phantom_case
from simulations.phantom.outlines import outlines
from simulations.phantom.planes import ORIENTATIONS, Scan, dose_planes, look_up, room_gantry, scan_planes

# What `simulate phantom --dicom` makes in turn: every position, and what scanners and planners do besides.
SCANS: tuple[Scan, ...] = (
    Scan(),
    Scan(position="HFP"),
    Scan(position="FFS", dose_mm=(4.0, 5.0, 6.0)),
    Scan(position="FFP"),
    Scan(pixel_mm=(2.0, 3.1)),
    Scan(position="HFDR", beams=True),
    Scan(position="HFDL"),
    Scan(position="FFDR"),
    Scan(position="FFDL"),
    Scan(tilt_deg=12.0, pixel_mm=(3.0, 3.0)),
    Scan(uneven=1.4),
    Scan(missing=(10, 20)),
    Scan(names={"Parotid_L": "Parotis li", "SpinalCord": "Spinal Cord", "Brainstem": "BRAINSTEM"}),
)


# Pixels of scans that say nothing of it: near a scanner's, so that a Case has voxels as fine as a hospital's.
PIXEL_MM = (3.0, 3.0)


def write_study(folder: Path, case: Case, scan: Scan, identity: Identity, gantry_deg: Sequence[float]) -> None:
    """Write ``case`` to ``folder`` as scanned by ``scan``: CT/ct_NNN.dcm, rs.dcm, rp.dcm and rd.dcm (or one a beam)."""
    if case.ct_hu is None or case.dose_gy is None:
        raise InputError(f"case {case.case_id}: expected CT and dose")
    if scan.position not in ORIENTATIONS:
        raise InputError(f"scan position {scan.position!r}: expected one of {', '.join(ORIENTATIONS)}")
    (folder / "CT").mkdir(parents=True, exist_ok=True)
    planes = scan_planes(case.grid, scan)
    frames = range(len(planes.positions))
    hu = np.stack([look_up(case.ct_hu, case.grid, planes.points(k), 1, -1000.0) for k in frames])
    write_ct(folder / "CT", hu, planes, scan.position, identity)
    masks = {"BODY": case.body, **case.structures}
    drawn = {
        scan.names.get(name, name): [outlines(mask, case.grid, planes, k) for k in frames]
        for name, mask in masks.items()
    }
    write_structures(folder / "rs.dcm", drawn, case.targets, len(planes.positions), identity)
    if scan.plan:
        isocentre = target_centroid_mm(case.structures[case.targets[0]], case.grid)[::-1]
        angles = [room_gantry(angle, scan.position) for angle in gantry_deg]
        levels = {list(drawn).index(scan.names.get(n, n)) + 1: case.prescriptions_gy[n] for n in case.targets}
        write_plan(folder / "rp.dcm", angles, isocentre, levels, scan.position, identity)
    grid = dose_planes(case.grid, scan)
    dose = np.stack([look_up(case.dose_gy, case.grid, grid.points(k), 1, 0.0) for k in range(len(grid.positions))])
    if not scan.beams:
        write_dose(folder / "rd.dcm", dose, grid, identity, beam=None)
        return
    for beam in range(1, len(gantry_deg) + 1):
        share = 2 * beam / (len(gantry_deg) * (len(gantry_deg) + 1))
        write_dose(folder / f"rd_{beam}.dcm", dose * share, grid, identity, beam=beam)


def write_dicom_hospital(
    folder: Path, style: Style, patients: int, seed: int, shape: tuple[int, int, int] = (32, 32, 32)
) -> None:
    """Write ``patients`` studies below ``folder``, scanned in turn as SCANS says; InputError if it is not empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is not an empty folder; choose a new one")
    for index in range(patients):
        patient_seed = int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint32)[0])
        case = phantom_case(patient_seed, style, shape, f"ph_{seed}_{index}")
        identity = Identity.of_phantom(seed, index)
        scan = SCANS[index % len(SCANS)]
        scan = scan if scan.pixel_mm else replace(scan, pixel_mm=PIXEL_MM)
        write_study(folder / f"patient_{index:04d}", case, scan, identity, style.plan.gantry_deg)
