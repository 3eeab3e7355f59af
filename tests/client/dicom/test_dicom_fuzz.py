"""Damaged files in a study: one clear line each, and the study beside it stays. ``dicom_damage`` runs thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.dicom.contours import contour_images, read_structures
from client.dicom.headers import read_header
from client.dicom.open import content_digest, open_source
from client.dicom.parts import read_ct_slice, read_dose_grid
from client.dicom.plan import read_plan
from shared_model.core.errors import InputError
from simulations.benchmarks.dicom_damage import damaged_cohort
from simulations.benchmarks.dicom_fuzz import DAMAGES, many_items, nest, zip_bomb
from simulations.phantom.dicom import write_study
from simulations.phantom.dicom_files import Identity
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
    return {
        path.name: path.read_bytes() for path in folder.rglob("*.dcm") if path.name[:2] == "r" or "000" in path.name
    }


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
