"""Structure names: what is mapped, what is not, and that doubt is never resolved in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from client.names.records import Prescription, Roi
from client.names.rows import NameRow
from client.names.rules import NAMES_TEXT, NameRules
from client.names.table import name_table
from client.names.targets import PLAN_NOT_NAME
from client.names.tg263 import suggestions, tg263_name
from shared_model.core.errors import InputError


def _roi(number: int, name: str, kind: str = "ORGAN") -> Roi:
    return Roi(number=number, name=name, kind=kind, points_mm=np.zeros((3, 3)), counts=np.array([3]))


def _rows(names: list[tuple[str, str]], *prescribed: tuple[float, int | None], rules: str = "") -> dict[str, NameRow]:
    rois = [_roi(number, name, kind) for number, (name, kind) in enumerate(names, 1)]
    found = name_table(rois, [Prescription(dose_gy=gy, roi=roi) for gy, roi in prescribed], _rules(rules))
    return {row.name: row for row in found}


def _rules(text: str) -> NameRules:
    return NameRules.parse(text, "structures.yaml")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Parotid_L", "Parotid_L"),
        ("parotid left", "Parotid_L"),
        ("PAROTID-LT", "Parotid_L"),
        ("Lt Parotid Gland", "Parotid_L"),
        ("ParotidR", "Parotid_R"),
        ("Parotis rechts", "Parotid_R"),
        ("Brain Stem", "Brainstem"),
        ("SPINAL CORD", "SpinalCord"),
        ("Oesophagus", "Esophagus"),
        ("Mandible", "Bone_Mandible"),
        ("Opt Nrv L", "OpticNrv_L"),  # no optimisation structure
        ("Submandibular gland right", "Glnd_Submand_R"),
        ("Parotid_L^copy", None),  # TG-263: after ^ the user's own, whatever it means
        ("Parotid_L^opt", None),
        ("SpinalCord^PRV5", None),
        ("Parotid", None),  # of which side
        ("SpinalCord_PRV05", None),
        ("Cord PRV", None),
        ("SpinalCord~", None),  # a part of it
        ("Larynx-PTV", None),
        ("SpinalCanal", "SpinalCanal"),
        ("Parotids", "Parotids"),
        ("zz_help_3", None),
        ("Total Lung-GTV", "Lungs-GTV"),  # these five as in GDP-HMM's plans
        ("Heart", "Heart"),
        ("LAD", "A_LAD"),
        ("GreatVessels", "GreatVes"),
        ("BrachialPlexus", "BrachialPlexs"),
        ("Brachial Plexus L", "BrachialPlex_L"),
        ("Lung Left", "Lung_L"),
        ("Lunge re", "Lung_R"),
        ("Lung", None),  # of which side
        ("Total Lung-GTV-5mm", None),
        ("Harnblase", "Bladder"),
        ("Femoral Head Rt", "Femur_Head_R"),
        ("FemoralHead", None),
        ("Penile Bulb", "PenileBulb"),
        ("bowel bag", "Bag_Bowel"),
        ("Rectum", "Rectum"),
    ],
)
def test_spelling(name: str, found: str | None) -> None:
    assert tg263_name(name) == found


def test_what_looks_alike_is_only_suggested() -> None:
    assert suggestions("SpinalCord^PRV5")[0] == "SpinalCord"
    assert "OpticNrv_L" in suggestions("OptNerve_L")
    row = _rows([("Parotid", "ORGAN")])["Parotid"]
    assert row.status == "unmapped"
    assert not row.used
    assert {"Parotid_L", "Parotid_R"} <= set(row.candidates)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("PTV_7000", 70.0),
        ("PTV70", 70.0),
        ("PTV 70 Gy", 70.0),
        ("PTV_59.4", 59.4),
        ("ptv_59p4", 59.4),
        ("PTV_High_7000", 70.0),
        ("PTVn_5400", 54.0),
        ("PTV1_66Gy", 66.0),
    ],
)
def test_levels_in_names_of_targets(name: str, level: float) -> None:
    row = _rows([(name, "PTV")])[name]
    assert row.used
    assert row.prescription_gy == level
    assert row.tg263 == f"PTV_{round(level * 100):04d}"


@pytest.mark.parametrize(
    "name",
    [
        *("PTVHighOPT", "PTV70_eval", "PTV56-PTV70", "PTV70_Ring", "PTV_7000 minus cord", "PTV70-CTV70"),
        *("PTVring70", "PTVopt70", "PTVeval70", "ptvring70", "zPTVopt_70", "PTV_7000^opt"),
    ],
)
def test_what_is_derived_from_a_target_is_no_target(name: str) -> None:
    assert _rows([(name, "PTV")])[name].status == "ignored"


@pytest.mark.parametrize("name", ["CTV_70", "GTV 70", "iCTV_70", "GTVp_70"])
def test_a_ctv_of_type_ptv_is_the_plans_target_or_none(name: str) -> None:
    assert _rows([(name, "PTV")])[name].status == "ignored"
    assert _rows([(name, "PTV")], (70.0, None))[name].status == "ignored"
    assert _rows([(name, "PTV")], (70.0, 1))[name].prescription_gy == 70.0


@pytest.mark.parametrize(
    "name",
    ["PTV70-Parotid", "PTV_7000-SpinalCord", "PTV70 - cord 3mm", "PTV 70-Parotid_L", "PTV70-(Brainstem)", "PTV70-Skin"],
)
def test_a_target_minus_an_organ_or_in_it_is_asked_about(name: str) -> None:
    row = _rows([(name, "PTV")], (70.0, None))[name]  # not by rank either
    assert row.status == "ambiguous"
    assert "minus" in row.how
    assert _rows([(name, "PTV")], (70.0, 1))[name].prescription_gy == 70.0


@pytest.mark.parametrize(
    "name",
    [
        *("PTV-Larynx-70", "PTV-Larynx 70", "PTV1-Larynx_70", "PTV_Larynx_70", "PTV70-Boost", "PTV70-LN"),
        *("PTV-70", "PTV_70-35fx", "PTVp-70", "70-PTV"),
    ],
)
def test_a_hyphen_in_a_target_s_name_is_mostly_none_of_it(name: str) -> None:
    assert _rows([(name, "PTV")])[name].prescription_gy == 70.0


def test_ranks_that_stand_close_to_ptv() -> None:
    rows = _rows([("PTVhigh", "PTV"), ("PTVlow", "PTV")], (66.0, None), (54.0, None))
    assert [rows[name].prescription_gy for name in ("PTVhigh", "PTVlow")] == [66.0, 54.0]


def test_the_plan_knows_better_than_a_name() -> None:
    rows = _rows([("PTV70", "PTV"), ("PTV_Low", "PTV")], (69.96, 1), (54.0, 2))
    assert rows["PTV70"].tg263 == "PTV_6996"
    assert rows["PTV_Low"].prescription_gy == 54.0
    # Without structures named in the plan: by rank, and a single level for a single target.
    rows = _rows([("PTV High", "PTV"), ("PTV Low", "PTV"), ("PTV_7000x", "PTV")], (66.0, None), (54.0, None))
    assert rows["PTV High"].prescription_gy == 66.0
    assert rows["PTV Low"].prescription_gy == 54.0
    assert _rows([("PTV", "PTV")], (60.0, None))["PTV"].prescription_gy == 60.0
    assert _rows([("PTV", "PTV")])["PTV"].status == "ambiguous"
    assert _rows([("PTV_70_56", "PTV")])["PTV_70_56"].status == "ambiguous"


def test_a_name_that_says_another_of_the_plans_levels_is_asked_about() -> None:
    rows = _rows([("PTV_7000", "PTV"), ("PTV_High_56", "PTV")], (56.0, 1), (70.0, 2))
    assert {row.status for row in rows.values()} == {"ambiguous"}
    assert "56 Gy" in rows["PTV_7000"].how
    rows = _rows([("PTV_7000", "PTV")], (56.0, 1), (70.0, 2), rules="prescriptions_gy: {PTV_7000: 70}")
    assert rows["PTV_7000"].prescription_gy == 70.0


def test_a_phase_of_a_treatment_is_named_by_the_whole_of_it() -> None:
    """The first plan of two gives 50 of a target's 70 Gy: the plan is right, and it is said."""
    row = _rows([("PTV_70", "PTV")], (50.0, 1))["PTV_70"]
    assert row.prescription_gy == 50.0
    assert row.how == PLAN_NOT_NAME
    assert _rows([("PTV_50_10mm", "PTV")], (50.0, 1))["PTV_50_10mm"].how != PLAN_NOT_NAME


def test_two_of_one_name_are_ambiguous_until_the_site_says() -> None:
    names = [("Larynx", "ORGAN"), ("LARYNX", "ORGAN"), ("Brain stem", "ORGAN"), ("BRAINSTEM", "ORGAN")]
    rows = _rows(names)
    assert rows["Larynx"].used  # the one that is spelled as TG-263 does
    assert rows["LARYNX"].status == "ambiguous"
    assert {rows["Brain stem"].status, rows["BRAINSTEM"].status} == {"ambiguous"}
    rows = _rows(names, rules="ignore: [BRAINSTEM]\nnames: {Larynx: [LARYNX_x]}")
    assert rows["BRAINSTEM"].status == "ignored"
    assert rows["Brain stem"].used
    rows = _rows(names, rules="names: {Brainstem: ['Brain stem']}")
    assert rows["Brain stem"].used
    assert rows["BRAINSTEM"].status == "ambiguous"


def test_the_site_file_overrides_everything() -> None:
    rows = _rows(
        [("PTV70", "PTV"), ("Parotid_L", "ORGAN"), ("Speichel li", "ORGAN")],
        (70.0, 1),
        rules="prescriptions_gy: {PTV70: 63}\nignore: [Parotid_L]\nnames: {Parotid_L: ['speichel.*']}",
    )
    assert rows["PTV70"].tg263 == "PTV_6300"
    assert rows["Parotid_L"].status == "ignored"
    assert rows["Speichel li"].tg263 == "Parotid_L"


def test_the_body_by_type_or_name() -> None:
    assert _rows([("xyz", "EXTERNAL")])["xyz"].tg263 == "Body"
    assert _rows([("BODY", "")])["BODY"].used
    for kind in ("EXTERNAL", ""):
        assert _rows([("External", kind)])["External"].used
    for name in ("Skin", "SKIN"):  # the organ, unless the type says that it is the outline
        assert _rows([(name, "ORGAN")])[name].tg263 == "Skin"
        assert _rows([(name, "EXTERNAL")])[name].tg263 == "Body"
    rows = _rows([("BODY", "EXTERNAL"), ("Patient", "AVOIDANCE"), ("SKIN", "ORGAN")])
    assert rows["BODY"].used
    assert rows["Patient"].status == "ambiguous"
    rows = _rows([("outline", "EXTERNAL"), ("x", "")], rules="names: {Body: [x]}")
    assert rows["x"].used
    assert rows["outline"].status == "ambiguous"
    assert _rows([("Lips", "ORGAN")])["Lips"].status == "mapped"  # known to TG-263, not to us
    assert not _rows([("Lips", "ORGAN")])["Lips"].used
    assert _rows([("Lungs", "ORGAN")])["Lungs"].used


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmaes: {}", "names"),
        ("names: {Parotis: [x]}", "structures.yaml:1: names.Parotis: not a TG-263 name"),
        ("names: {Larynx: ['(']}", "not a regular expression"),
        ("names: {Larynx: 3}", "names.Larynx"),
        ("prescriptions_gy: {x: 700}", "prescriptions_gy.x"),
        ("ignore: [3]", "ignore"),
        ("[1]", "keys"),
        ("{", "YAML"),
    ],
)
def test_a_wrong_file_names_file_and_key(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "structures.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        NameRules.load(tmp_path / "structures.yaml")
    assert says in str(caught.value)
    assert "structures.yaml" in str(caught.value)


def test_the_file_that_init_writes_is_valid_and_empty(tmp_path: Path) -> None:
    (tmp_path / "structures.yaml").write_text(NAMES_TEXT)
    assert NameRules.load(tmp_path / "structures.yaml") == NameRules.load(None) == NameRules()


def test_a_row_does_not_show_the_record_s_own_name() -> None:
    assert "Doe" not in repr(_rows([("Parotid Dr Doe", "ORGAN")])["Parotid Dr Doe"])
