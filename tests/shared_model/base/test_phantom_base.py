"""The phantom base: public numbers and a short correction, the same as the ridge form and as each patient's pull."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from client.site.config import SiteConfig
from client.training.patient_gradients import patients_of
from privacy.dp.terms import PrivacyTerms
from privacy.wire.messages import TrainTask
from shared_model.adapter.manifest import initial_vector, load_adapter, manifest_hash, save_adapter, stage_mask
from shared_model.base import linear as base
from shared_model.base import phantom as phantom_base
from shared_model.base.interface import base_of
from shared_model.base.phantom import Correction, phantom_rows, public_base, squared_loss
from shared_model.base.public import pull
from shared_model.channels.features import physics_features
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, phantom_case, write_hospital

SPEC = ModelSpec(prior="none", base="phantom", adapter="base", shape=(16, 16, 16))
K = 64


@pytest.fixture(scope="module")
def case():
    return phantom_case(3, STYLES["cord_9f"])


def correction() -> np.ndarray:
    return (0.02 * np.random.default_rng(0).standard_normal(K)).astype(np.float32)


def test_the_public_numbers_are_those_of_their_card() -> None:
    public = public_base()
    assert (public.weights.shape, public.directions.shape) == ((base.columns(),), (base.columns(), K))
    card = (phantom_base.PUBLIC.parent / "card.json").read_text()
    assert phantom_base.public_hash() in card
    assert 0.03 < public.clip < 0.1


def test_it_starts_at_what_phantoms_teach_and_predicts_as_the_ridge_form_does(case) -> None:
    features, vector = physics_features(case), correction()
    start = base_of(SPEC).dose(case, features, bytes(4 * K))
    assert (start == base.predict(case, features, public_base().weights.astype(np.float32))).all()
    dose = base_of(SPEC).dose(case, features, vector.tobytes())
    rows = phantom_rows(case, features)
    assert rows is not None
    network = Correction()
    network.correction.data = torch.from_numpy(vector)
    ratio = network(torch.from_numpy(rows.features)).detach().numpy()
    chosen = np.sort(np.random.RandomState(len(features)).permutation(len(features))[: base.VOXELS_PER_PATIENT])
    expected = np.clip(ratio, 0.0, base.HOTTEST) * base.highest_gy(case)
    np.testing.assert_allclose(dose[case.body][chosen], expected, atol=0.02)


def test_its_gradient_is_minus_the_pull_of_the_patient(case) -> None:
    rows = phantom_rows(case, physics_features(case))
    assert rows is not None
    network = Correction()
    network.correction.data = torch.from_numpy(correction())
    squared_loss(network, [rows]).backward()
    reduced = (rows.features[:, :-1], rows.ratio - rows.features[:, -1])
    np.testing.assert_allclose(network.correction.grad, -pull(reduced, correction()), atol=1e-6)


def test_a_case_without_dose_or_targets(case) -> None:
    features = physics_features(case)
    with pytest.raises(InputError, match="no dose"):
        phantom_rows(replace(case, dose_gy=None), features)
    organs = {name: mask for name, mask in case.structures.items() if name not in case.targets}
    assert phantom_rows(replace(case, structures=organs, prescriptions_gy={}), features) is None


def test_only_the_correction_travels_and_the_public_numbers_are_in_the_manifest(tmp_path: Path, monkeypatch) -> None:
    assert not initial_vector(SPEC).any()
    assert initial_vector(SPEC).shape == (K,)
    assert stage_mask(SPEC, "base").all()
    save_adapter(tmp_path / "a.safetensors", SPEC, correction())
    spec, vector, _ = load_adapter(tmp_path / "a.safetensors")
    assert (spec, vector.tolist()) == (SPEC, correction().tolist())
    before = manifest_hash(SPEC)
    monkeypatch.setattr("shared_model.base.phantom.public_hash", lambda: "0" * 64)
    assert manifest_hash(SPEC) != before
    with pytest.raises(InputError, match="not those of its spec"):
        load_adapter(tmp_path / "a.safetensors")


def test_a_hospitals_patients_pull_clipped(tmp_path: Path) -> None:
    site: SiteConfig = write_hospital(tmp_path, STYLES["cord_9f"], 4, 1, shape=(16, 16, 16))
    terms = PrivacyTerms(
        mode="shared", z=1.0, q=1.0, steps=4, clip=0.05, delta=1e-5, cohort=9, sites=3, survivors=3, colluders=1
    )  # fmt: skip
    task = TrainTask(
        round=1, rounds=1, local_steps=1, batch_size=1, lr=0.2, seed=0, stage="base", privacy=terms.to_json()
    )
    patients = patients_of(site, SPEC, np.zeros(K, np.float32), task, terms)
    norms = [float(patients.gradient(i).norm()) for i in range(patients.count)]
    assert (patients.size, patients.count) == (K, len(site.train))
    assert all(0 < norm <= 0.05 + 1e-6 for norm in norms)
