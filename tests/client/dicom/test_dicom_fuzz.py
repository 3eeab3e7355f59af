"""Damaged files in a study: one clear line each, and the study beside it stays. ``dicom_damage`` runs thousands."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian

import client.dicom.open as opened
from client.dicom.contours import contour_images, read_structures
from client.dicom.headers import read_header
from client.dicom.open import content_digest, open_source
from client.dicom.parts import read_ct_slice, read_dose_grid
from client.dicom.plan import read_plan
from shared_model.core.errors import InputError
from simulations.benchmarks.dicom_damage import damaged_cohort
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
from simulations.phantom.dicom_fuzz import DAMAGES, many_items, meta_bytes, nest, zip_bomb
from simulations.phantom.hospitals import STYLES, phantom_case
from simulations.phantom.planes import Scan

READS = (
    *(read_header, read_ct_slice, read_dose_grid, read_structures, read_plan),
    *(contour_images, content_digest, open_source),
)
QUICK = [damage for damage in DAMAGES if damage not in (nest, many_items, zip_bomb)]


def test_a_damaged_cohort(tmp_path: Path) -> None:
    report = damaged_cohort(tmp_path / "cohort", files=25, seed=5, check_every=8)
    assert report.faults == []
    assert report.files == 25


@pytest.fixture(scope="module")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    case = phantom_case(1, STYLES["openkbp_like"], (12, 12, 12))
    write_study(folder, case, Scan(), Identity.of_phantom(1, 1), STYLES["openkbp_like"].plan.gantry_deg)
    return {path.name: path.read_bytes() for path in folder.rglob("*.dcm") if path.name[0] == "r" or "000" in path.name}


@pytest.mark.parametrize("damage", QUICK, ids=lambda damage: damage.__name__)
def test_no_damage_escapes_as_another_error(damage: object, tmp_path: Path, contents: dict[str, bytes]) -> None:
    """In this process, so that what the reading process would catch is seen."""
    assert callable(damage)
    rng = np.random.default_rng(11)
    path = tmp_path / "bad.dcm"
    for name, content in contents.items():
        for _ in range(12):
            path.write_bytes(damage(content, rng))
            for read in READS:
                try:
                    read(path)
                except InputError as error:
                    assert "\n" not in str(error), name  # noqa: PT017


@pytest.mark.parametrize("deflated", [False, True])
def test_more_items_than_any_plan_has_are_refused_before_they_are_parsed(
    deflated: bool, tmp_path: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    sequence = b"\x06\x30\x39\x00SQ\0\0\xff\xff\xff\xff"
    items = sequence + b"\xfe\xff\x00\xe0\0\0\0\0" * 200_001 + b"\xfe\xff\xdd\xe0\0\0\0\0"
    path = tmp_path / "many.dcm"
    if deflated:
        dataset = pydicom.dcmread(io.BytesIO(contents["rs.dcm"]))
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        squeeze = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
        path.write_bytes(meta_bytes(dataset) + squeeze.compress(items) + squeeze.flush())
    else:
        path.write_bytes(contents["rs.dcm"] + items)
    monkeypatch.setattr(opened.pydicom, "dcmread", None)
    with pytest.raises(InputError, match="more than 200000 items"):
        read_structures(path)
