"""The public phantoms are those of their card and of the generator; a vector's error on them says when it is worse."""

import json

import numpy as np
import pytest

from shared_model import phantom_check
from shared_model.dosimetry import score_case
from shared_model.errors import InputError
from shared_model.manifest import initial_vector, stage_mask
from shared_model.phantom_check import PHANTOMS, WORST_GY, PhantomCheck, pack_phantom, public_phantoms, unpack_phantom
from shared_model.predictor import predict_dose
from shared_model.spec import ModelSpec
from simulations.phantom import STYLES, phantom_case
from simulations.phantom_set import FIRST_SEED, write_phantom_set

BASE = ModelSpec(base="phantom", adapter="base")


@pytest.fixture
def fresh():
    """No phantoms kept from another test, before or after."""
    public_phantoms.cache_clear()
    yield
    public_phantoms.cache_clear()


def test_the_bundled_phantoms_are_the_generators_to_rounding():
    found = public_phantoms()
    card = json.loads((PHANTOMS.parent / "card.json").read_text())
    assert len(found) == card["phantoms"] == 2 * len(STYLES)
    for index in (0, 8):
        made = phantom_case(FIRST_SEED + index, STYLES[sorted(STYLES)[index % len(STYLES)]])
        case = found[index]
        assert case.grid == made.grid
        assert np.abs(case.dose_gy - made.dose_gy).max() < 0.006
        assert np.abs(case.ct_hu - made.ct_hu).max() <= 0.5
        assert np.abs(case.beam_plate - made.beam_plate).max() < 1e-3
        assert np.abs(case.angle_plate - made.angle_plate).max() < 1e-3
        assert case.prescriptions_gy == made.prescriptions_gy
        assert all((case.structures[name] == made.structures[name]).all() for name in made.structures)
        assert (case.body == made.body).all()


def test_packing_again_changes_nothing():
    case = public_phantoms()[3]
    again = unpack_phantom(pack_phantom(case))
    assert (again.dose_gy == case.dose_gy).all()
    assert (again.ct_hu == case.ct_hu).all()
    assert list(again.structures) == list(case.structures)


def test_a_set_is_the_same_bytes_each_time(tmp_path):
    for name in ("one", "two"):
        write_phantom_set(tmp_path / name, 1)
    assert (tmp_path / "one" / "cases.npz").read_bytes() == (tmp_path / "two" / "cases.npz").read_bytes()


def test_a_phantom_without_dose_is_refused():
    case = public_phantoms()[0]
    object.__setattr__(lacking := unpack_phantom(pack_phantom(case)), "dose_gy", None)
    with pytest.raises(InputError, match="lacks a modality"):
        pack_phantom(lacking)


@pytest.mark.parametrize("damage", ["byte", "card", "missing"])
def test_a_damaged_set_says_so(tmp_path, monkeypatch, fresh, damage):
    content = bytearray(PHANTOMS.read_bytes())
    content[len(content) // 2] ^= 1 if damage == "byte" else 0
    if damage != "missing":
        (tmp_path / "cases.npz").write_bytes(content)
    card = (PHANTOMS.parent / "card.json").read_text()
    (tmp_path / "card.json").write_text(card[:-5] if damage == "card" else card)
    monkeypatch.setattr(phantom_check, "PHANTOMS", tmp_path / "cases.npz")
    with pytest.raises(InputError, match="reinstall fedkt3d"):
        public_phantoms()


def test_the_error_is_the_mean_dose_score_and_the_same_each_time():
    spec = ModelSpec(prior="none", adapter="lora", rank=1, shape=(16, 16, 16))
    check, vector = PhantomCheck(spec), initial_vector(spec)
    scores = [
        score_case(case, predict_dose(check._model, case, spec)).dose_score_gy for case in public_phantoms()
    ]  # fmt: skip
    found = check(vector, "dose")
    assert found == pytest.approx(np.mean(scores), rel=1e-6)
    assert check(vector, "dose") == PhantomCheck(spec)(vector, "dose") == found


def test_public_numbers_are_good_on_phantoms_and_a_wrong_turn_is_not():
    check, start = PhantomCheck(BASE), initial_vector(BASE)
    best = check(start, "base")
    assert 2.0 < best < 3.5
    assert check(start, "dose") == best  # the base alone predicts
    random = np.random.default_rng(0).standard_normal(start.size).astype(np.float32)
    errors = [check(start + step * random / np.linalg.norm(random), "base") for step in (0.02, 0.1, 0.3)]
    assert best < errors[0] < errors[1] < errors[2]
    assert errors[1] > 1.2 * best


def test_the_base_stage_looks_at_the_base_alone():
    spec = ModelSpec(prior="none", base="voxel", shape=(16, 16, 16))
    check, vector = PhantomCheck(spec), initial_vector(spec)
    changed = vector.copy()
    changed[~stage_mask(spec, "base")] *= 3
    assert check(changed, "base") == check(vector, "base")
    assert check(changed, "dose") != check(vector, "dose")


def test_a_vector_that_predicts_nonsense_has_the_worst_error():
    check, vector = PhantomCheck(BASE), initial_vector(BASE)
    assert check(np.full_like(vector, np.nan), "base") == WORST_GY
