"""Names of any script, and names of what is not quite the target: unmapped or asked about, never guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.data.dicom_cohort import trainable
from client.names.records import Prescription, Roi
from client.names.rows import NameRow
from client.names.rules import NameRules
from client.names.table import name_table
from client.names.tg263 import suggestions, tg263_name
from client.setup.check_patients import Source, look
from client.site.config import DICOM
from tests.builders.neck_reading import PSEUDONYMS, cc, found, read
from tests.builders.neck_study import NeckStudy, prescription, volume_cc

# PTV70 in full-width characters.
FULL_WIDTH = "\uff30\uff34\uff36\uff17\uff10"


def rows(names: list[str], *prescribed: Prescription) -> list[NameRow]:
    """The review table of targets of these names."""
    rois = [
        Roi(number=k, name=name, kind="PTV", points_mm=np.zeros((3, 3)), counts=np.array([3]))
        for k, name in enumerate(names, 1)
    ]
    return list(name_table(rois, prescribed, NameRules()))


@pytest.mark.parametrize(
    "name",
    [
        *("SpinalCord外扩", "Parotid_L?", "Brainstem拡大", "左 Parotid", "Parotid_L*", "Larynx!", "Oesophagus±3"),
        *("", "计划靶区", "Слюнная", FULL_WIDTH, "\u0660\u0661", "---"),
    ],
)
def test_other_characters_make_a_name_unmapped(name: str) -> None:
    assert tg263_name(name) is None
    assert isinstance(suggestions(name), tuple)


@pytest.mark.parametrize("name", ["计划靶区", "ПТВ", "", FULL_WIDTH, "PTV70外扩", "???"])
def test_a_target_of_another_script_is_the_plans_or_asked_about(name: str) -> None:
    assert rows([name])[0].status == "ambiguous"
    row = rows([name], Prescription(dose_gy=70.0, roi=1))[0]
    assert row.prescription_gy == 70.0
    assert row.used


@pytest.mark.parametrize(
    "name",
    [
        *("zPTV70", "z_PTV70", "PTV70_old", "PTV70 cropped", "PTV_70-3mm", "PTV_70 3 mm", "PTV70_ohne_Haut"),
        *("xPTV_7000", "PTV70 without skin", "PTV2024", "PTV_2019", "PTV 1.8x39", "PTV 1,8 x 39", "PTV70_copy"),
    ],
)
def test_what_is_not_quite_the_target_is_the_plans_or_none(name: str) -> None:
    site = Prescription(dose_gy=70.0, roi=None)
    assert not rows([name])[0].used
    found = rows([name, "PTV_7000"], site)
    assert [row.used for row in found] == [False, True]
    assert rows([name], Prescription(dose_gy=70.0, roi=1))[0].prescription_gy == 70.0


@pytest.mark.parametrize("name", ["PTV_2000", "PTV70_35fx", "PTV_70Gy", "PTV_70_R", "PTVneck_70", "PTV20"])
def test_what_is_the_target_stays_it(name: str) -> None:
    assert rows([name])[0].used


def low(*prescribed: Prescription) -> float | None:
    """The level that a target called Low gets beside one called High."""
    return rows(["PTV High", "PTV Low"], *prescribed)[1].prescription_gy


def test_low_is_a_level_only_where_levels_and_targets_are_as_many() -> None:
    site, point = Prescription(dose_gy=70.0, roi=None), Prescription(dose_gy=20.0, roi=None, point=True)
    beams = [Prescription(dose_gy=14.0, roi=None)] * 5
    assert low(site, Prescription(dose_gy=56.0, roi=None)) == 56.0
    assert low(site, Prescription(dose_gy=56.0, roi=None), point) == 56.0
    assert low(site, *beams) is None  # 14 Gy of each beam is no target's
    assert low(site, Prescription(dose_gy=63.0, roi=None), Prescription(dose_gy=56.0, roi=None)) is None


def test_low_was_not_prescribed_a_beams_dose(tmp_path: Path) -> None:
    study = NeckStudy("beams' doses")
    assert study.plan is not None
    study.plan.DoseReferenceSequence = [prescription(1, 70)] + [prescription(k, 14) for k in range(2, 7)]
    study.listed("PTV_7000").ROIName, study.listed("PTV_5600").ROIName = "PTV High", "PTV Low"
    study.write(tmp_path)
    (row,) = look(Source(kind=DICOM, root=tmp_path, pseudonyms=PSEUDONYMS), None).patients
    assert not row.usable
    assert "PTV_1400" not in row.numbers.get("prescriptions_gy", {})


def test_an_expanded_organ_of_another_script_is_not_the_organ(tmp_path: Path) -> None:
    study = NeckStudy("expanded")
    study.listed("SpinalCord").ROIName = "SpinalCord外扩"
    study.listed("Parotid_L").ROIName = "Parotid_L?"
    reading = read(study, tmp_path)
    assert not {"SpinalCord", "Parotid_L"} & set(reading.case.structures)
    assert cc(reading, "Parotid_R") == pytest.approx(volume_cc("Parotid_R"), rel=0.04)


def test_a_name_without_a_latin_letter_stops_no_cohort(tmp_path: Path) -> None:
    odd = NeckStudy("cyrillic")
    odd.listed("PTV_7000").ROIName, odd.plan = "ПТВ", None
    odd.write(tmp_path / "odd")
    NeckStudy("good").write(tmp_path / "good")
    assert len(trainable(found(tmp_path), NameRules())) == 1
    usable = [row.usable for row in look(Source(kind=DICOM, root=tmp_path, pseudonyms=PSEUDONYMS), None).patients]
    assert sorted(usable) == [False, True]
