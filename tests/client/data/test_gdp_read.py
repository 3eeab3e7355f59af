"""GDP-HMM reader: a phantom in the challenge's layout comes back; what a pickle could do besides is refused."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.data.gdp import read_gdp
from client.data.kinds import find_kind
from client.data.load import load_case
from client.data.site_file import find_site, site_text
from client.names.rules import NameRules
from client.setup.check_patients import Source, look
from client.setup.forget import is_of
from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from simulations.phantom.hospitals import STYLES, phantom_case
from tests.builders.gdp_plans import OWN, PLAN, content_of, write_plan


def gdp_case(path: Path, case_id: str, rules: NameRules | None = None) -> Case:
    """The case alone, without the review table of its structures' names."""
    return read_gdp(path, case_id, rules)[0]


@pytest.fixture(scope="module")
def phantom() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (20, 24, 28))


def test_a_phantom_in_the_challenges_layout_comes_back(tmp_path: Path, phantom: Case) -> None:
    case = gdp_case(write_plan(tmp_path, phantom), "a")
    assert case.grid.shape == phantom.grid.shape
    assert case.grid.spacing_mm == pytest.approx(phantom.grid.spacing_mm)
    assert case.grid.origin_mm == pytest.approx(phantom.grid.origin_mm)
    assert case.prescriptions_gy == phantom.prescriptions_gy
    # The structures of the file and no other: neither another clinic's target nor an organ with a margin.
    assert set(case.structures) == set(phantom.targets) | set(OWN)
    for name, mask in case.structures.items():
        np.testing.assert_array_equal(mask, phantom.structures[name])
    np.testing.assert_array_equal(case.body, phantom.body)
    assert case.ct_hu is not None
    assert phantom.ct_hu is not None
    np.testing.assert_array_equal(case.ct_hu, phantom.ct_hu)
    assert case.beam_plate is not None
    assert phantom.beam_plate is not None
    np.testing.assert_array_equal(case.beam_plate, phantom.beam_plate)
    assert case.dose_gy is not None
    assert phantom.dose_gy is not None
    highest = phantom.targets[0]
    d97_gy = np.percentile(phantom.dose_gy[phantom.structures[highest]], 3)
    expected = np.where(phantom.body, phantom.dose_gy * phantom.prescriptions_gy[highest] / d97_gy, 0)
    np.testing.assert_allclose(case.dose_gy, expected, atol=1e-3)


def test_the_angle_plate_stands_in_ten_slices_about_the_isocentre(tmp_path: Path, phantom: Case) -> None:
    flat = np.random.default_rng(0).integers(0, 2, phantom.grid.shape[1:]).astype(np.float32)
    near_end = np.array([3.9, 1, 1], dtype=np.float32)
    for isocentre, slices in (([10.9, 1, 1], range(5, 15)), (near_end, range(8))):
        case = gdp_case(write_plan(tmp_path, phantom, angle_plate=flat, isocenter=list(isocentre)), "a")
        assert case.angle_plate is not None
        for z in range(phantom.grid.shape[0]):
            np.testing.assert_array_equal(case.angle_plate[z], flat if z in slices else 0)


def test_axes_that_run_the_other_way_are_turned(tmp_path: Path, phantom: Case) -> None:
    upright = gdp_case(write_plan(tmp_path, phantom), "a")
    content = content_of(phantom)
    turned: dict[str, Any] = {
        key: value[..., ::-1, ::-1]
        for key, value in content.items()
        if isinstance(value, np.ndarray) and value.ndim > 1
    }
    _, ny, nx = phantom.grid.shape
    _, y_mm, x_mm = phantom.grid.spacing_mm
    z0, y0, x0 = phantom.grid.origin_mm
    case = gdp_case(
        write_plan(
            tmp_path,
            phantom,
            **turned,
            direction=(-1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0),
            origin=(x0 + (nx - 1) * x_mm, y0 + (ny - 1) * y_mm, z0),
        ),
        "a",
    )
    assert case.grid.origin_mm == pytest.approx(upright.grid.origin_mm)
    for name in ("ct_hu", "dose_gy", "beam_plate", "angle_plate", "body"):
        np.testing.assert_array_equal(getattr(case, name), getattr(upright, name))


def test_without_dose_plates_and_spacing(tmp_path: Path, phantom: Case) -> None:
    changes: dict[str, Any] = dict.fromkeys(("dose", "beam_plate", "angle_plate", "spacing", "isocenter"))
    case = gdp_case(write_plan(tmp_path, phantom, **changes), "a")
    assert case.dose_gy is None
    assert case.beam_plate is None
    assert case.angle_plate is None
    assert case.grid.spacing_mm == (2.0, 2.5, 2.5)


def test_targets_are_read_without_what_a_higher_one_covers(tmp_path: Path, phantom: Case) -> None:
    high, low = phantom.targets[0], phantom.targets[1]
    union = phantom.structures[high] | phantom.structures[low]
    case = gdp_case(write_plan(tmp_path, phantom, PTV63=union.astype(np.uint8)), "a")
    np.testing.assert_array_equal(case.structures[low], union & ~phantom.structures[high])


def test_the_sites_rules_name_organs(tmp_path: Path, phantom: Case) -> None:
    rules = tmp_path / "structures.yaml"
    rules.write_text('names: {Larynx: ["brainstem_03"]}\n')
    case = gdp_case(write_plan(tmp_path, phantom), "a", NameRules.load(rules))
    np.testing.assert_array_equal(case.structures["Larynx"], phantom.body)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"img": None}, "'img'"),
        ({"Body": None}, "'Body'"),
        ({"PTV70OPT": None}, "'PTV70OPT'"),
        ({"dose_scale": None}, "'dose_scale'"),
        ({"dose_scale": float("nan")}, "'dose_scale'"),
        ({"isocenter": None}, "'isocenter'"),
        ({"spacing": (1.0, 2.0)}, "'spacing'"),
        ({"spacing": (0.0, 2.0, 2.0)}, "spacing"),
        ({"direction": (0.6, 0.8, 0, -0.8, 0.6, 0, 0, 0, 1.0)}, "'direction'"),
        ({"dose": np.zeros((20, 24, 27), dtype=np.uint16)}, "'dose' has shape"),
        ({"dose": np.zeros((20, 24, 28), dtype=np.uint16)}, "'dose'"),
        ({"Brainstem": np.zeros((2, 3, 4), dtype=np.uint8)}, "'Brainstem' has shape"),
        ({"beam_plate": np.zeros((24, 28))}, "'beam_plate'"),
        ({"angle_plate": np.zeros(24)}, "'angle_plate'"),
        ({"img": "text"}, "'img' is a str"),
        ({"img": np.full((20, 24, 28), np.nan)}, "ct_hu"),
        ({"angle_list": np.array(["a"])}, "type 'U1'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, phantom: Case, changes: dict[str, Any], says: str) -> None:
    path = write_plan(tmp_path, phantom, **changes)
    with pytest.raises(InputError) as caught:
        gdp_case(path, "a")
    assert says in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "table", [None, "{", "[]", "{}", '{"0522c0009": {"PTV_High": {"OPTName": "PTV70OPT"}}}',
              '{"0522c0009": {"PTV_High": {"OPTName": "PTV70OPT", "PDose": 7000}}}']
)  # fmt: skip
def test_without_prescriptions_nothing_is_guessed(tmp_path: Path, phantom: Case, table: str | None) -> None:
    path = write_plan(tmp_path, phantom)
    (tmp_path / "PTV_DICT.json").unlink()
    if table is not None:
        (tmp_path / "PTV_DICT.json").write_text(table)
    with pytest.raises(InputError, match="PTV_DICT"):
        gdp_case(path, "a")


class _Runs:
    """Unpickled, it would call ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_a_pickle_that_runs_a_command_is_refused_and_not_run(tmp_path: Path, phantom: Case, protocol: int) -> None:
    path = write_plan(tmp_path, phantom)
    mark = tmp_path / "ran"
    _pickled(path, pickle.dumps({"img": _Runs(os.system, f"touch {mark}")}, protocol=protocol))
    with pytest.raises(InputError, match=r"system.*not run"):
        gdp_case(path, "a")
    assert not mark.exists()
    with contextlib.suppress(Exception):
        np.load(path, allow_pickle=True)["arr_0"]  # the trap is real: numpy itself springs it
    assert mark.exists()


def _pickled(path: Path, content: bytes) -> None:
    """An npz whose ``arr_0`` is an object array with this pickle."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "|O", "fortran_order": False, "shape": ()})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("arr_0.npy", member.getvalue() + content)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
        (b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
        (b"cnumpy\ndtype.type\n.", "numpy.dtype.type"),
        (b"]" + b"0]" * 60_000 + b".", "steps"),
        (b"r\xff\xff\xff\x7f.", "npz"),  # a memo of 2 billion entries
        (b"B\xff\xff\xff\x7f.", "npz"),  # 2 GB of bytes that are not there
        (pickle.dumps([1, 2]), "a list"),
        (b"\x80\x04P1\n.", "npz"),
        (b"cnumpy\nndarray\n(S'a'\ndb.", "npz"),  # sets an attribute of the class itself
    ],
)
def test_other_hostile_pickles(tmp_path: Path, phantom: Case, content: bytes, says: str) -> None:
    path = write_plan(tmp_path, phantom)
    _pickled(path, content)
    with pytest.raises(InputError) as caught:
        gdp_case(path, "a")
    assert says in str(caught.value)


def test_no_flipped_bit_escapes_as_another_error(tmp_path: Path) -> None:
    tiny = phantom_case(3, STYLES["openkbp_like"], (12, 12, 12))
    path = write_plan(tmp_path, tiny)
    with zipfile.ZipFile(path) as archive:
        whole = archive.read("arr_0.npy")
    rng = np.random.default_rng(0)
    marks = [at for at in range(len(whole)) if whole[at]]
    for _ in range(40):
        content = bytearray(whole)
        for at in rng.choice(marks, size=5):
            content[at] ^= 1 << int(rng.integers(8))
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("arr_0.npy", bytes(content))
        with contextlib.suppress(InputError):
            gdp_case(path, "a")


def test_a_folder_becomes_a_site_with_plans_of_a_patient_together(tmp_path: Path, phantom: Case) -> None:
    for plan in ("7+9Ag+A", "7+A4Ac+B", PLAN):
        write_plan(tmp_path, phantom, plan)
    assert find_kind(tmp_path) == "gdp"
    found = find_site("south", "gdp", tmp_path)
    assert (found.train, found.validation) == (("7_9Ag_A", "7_A4Ac_B"), ("0522c0009_9Ag_MOS_29166",))
    write_plan(tmp_path, phantom, "8+9Ag+A")
    (tmp_path / f"{PLAN}.npz").unlink()
    found = find_site("south", "gdp", tmp_path)
    assert found.plans == (("7_9Ag_A", "7_A4Ac_B"),)
    (tmp_path / "site.yaml").write_text(site_text(found))
    assert SiteConfig.load(tmp_path / "site.yaml").plans == found.plans
    assert load_case(found, "7_A4Ac_B").case_id == "7_A4Ac_B"
    assert is_of("7_A4Ac_B", "7", "gdp")
    assert not is_of("77_A", "7", "gdp")
    write_plan(tmp_path, phantom, "7+9Ag_A")
    with pytest.raises(InputError, match="2 files"):
        load_case(found, "7_9Ag_A")
    (tmp_path / "PTV_DICT.json").unlink()
    with pytest.raises(InputError, match="PTV_DICT"):
        find_site("clinic", "gdp", tmp_path)


def test_check_shows_good_and_bad_plans(tmp_path: Path, phantom: Case) -> None:
    write_plan(tmp_path, phantom)
    write_plan(tmp_path, phantom, "7+9Ag+B", Body=None)
    rows = {row.patient: row for row in look(Source(kind="gdp", root=tmp_path), None).patients}
    assert set(rows) == {"0522c0009_9Ag_MOS_29166", "7_9Ag_B"}
    assert rows["0522c0009_9Ag_MOS_29166"].usable
    assert not rows["7_9Ag_B"].usable
