from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shared_model.core.errors import InputError
from shared_model.patient.anatomy import OAR_CODES
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid

SHAPE = (4, 5, 6)


def box(*slices: slice) -> np.ndarray:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[slices] = True
    return mask


def make_case(**changes: Any) -> Case:
    fields: dict[str, Any] = {
        "case_id": "p1",
        "grid": Grid(SHAPE, (3.0, 2.0, 2.0)),
        "body": np.ones(SHAPE, dtype=bool),
        "structures": {"PTV_7000": box(slice(0, 2)), "PTV_5600": box(slice(1, 3)), "SpinalCord": box(slice(2, 4))},
        "prescriptions_gy": {"PTV_7000": 70.0, "PTV_5600": 56.0},
        "dose_gy": np.full(SHAPE, 30.0, dtype=np.float32),
    }
    return Case(**{**fields, **changes})


def test_ptv_takes_the_highest_prescription() -> None:
    ptv = make_case().ptv_gy()
    assert [float(ptv[z, 0, 0]) for z in range(4)] == [70.0, 70.0, 56.0, 0.0]


def test_oar_leaves_targets_out() -> None:
    oar = make_case().oar_code()
    assert [float(oar[z, 0, 0]) for z in range(4)] == [0.0, 0.0, 0.0, OAR_CODES["SpinalCord"]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dose_gy": np.full(SHAPE, -1.0, dtype=np.float32)}, "negative"),
        ({"dose_gy": np.full(SHAPE, 7000.0, dtype=np.float32)}, "cGy"),
        ({"dose_gy": np.full(SHAPE, np.nan, dtype=np.float32)}, "not finite"),
        ({"ct_hu": np.zeros((4, 5, 5), dtype=np.float32)}, "ct_hu has shape"),
        ({"body": np.zeros(SHAPE, dtype=bool)}, "body mask is empty"),
        ({"body": np.ones(SHAPE, dtype=np.uint8)}, "boolean"),
        ({"structures": {"Lips": np.ones(SHAPE, dtype=bool)}, "prescriptions_gy": {}}, "unknown structure 'Lips'"),
        ({"structures": {"Larynx": np.ones((9, 5, 6), dtype=bool)}, "prescriptions_gy": {}}, "outside the grid"),
        ({"structures": {"PTV_7000": box(slice(0, 1))}, "prescriptions_gy": {}}, "no prescription"),
        ({"prescriptions_gy": {"PTV_7000": 70.0, "PTV_5600": 56.0, "PTV_6300": 63.0}}, "no mask"),
        ({"prescriptions_gy": {"PTV_7000": 7000.0, "PTV_5600": 56.0}}, "prescription of PTV_7000"),
    ],
)
def test_bad_input_is_one_clear_line(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_case(**changes)
    assert "p1" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_modality_may_be_absent() -> None:
    case = replace(make_case(), dose_gy=None, structures={}, prescriptions_gy={})
    assert case.targets == ()
    assert case.ptv_gy().max() == 0
