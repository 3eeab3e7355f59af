from pathlib import Path

import numpy as np

from client.data.channel_cache import cached_patient, case_hash
from shared_model.channels.volumes import patient_channels
from tests.builders.small_case import small_case


def test_what_is_kept_is_what_is_made(tmp_path: Path) -> None:
    made = patient_channels(small_case())
    for _ in range(2):
        kept = cached_patient(small_case(), tmp_path)
        assert np.array_equal(kept.stack, made.stack)
        assert (kept.box, kept.present, kept.gantry_deg) == (made.box, made.present, made.gantry_deg)
        assert (kept.spacing_mm, kept.unit_gy, kept.case_id) == (made.spacing_mm, made.unit_gy, made.case_id)
    assert len(list(tmp_path.glob("*.npy"))) == 1


def test_another_case_has_another_key(tmp_path: Path) -> None:
    case = small_case()
    assert case.dose_gy is not None
    assert case.ct_hu is not None
    keys = {
        case_hash(case),
        case_hash(small_case(gantry_deg=(0.0, 90.0))),
        case_hash(small_case(dose_gy=case.dose_gy * 0.5)),
        case_hash(small_case(dose_gy=None)),
        case_hash(small_case(ct_hu=None)),
        case_hash(small_case(structures={**case.structures, "Larynx": case.body})),
    }
    assert len(keys) == 6
    assert case_hash(small_case("another name")) == case_hash(case)
