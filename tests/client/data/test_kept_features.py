"""A site's side of the base: what it keeps of its patients goes by what is in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from client.data.case_files import load_case, save_case
from client.site.config import SiteConfig
from client.training.base import base_doses
from shared_model.adapter.shared import adapted_model
from shared_model.base.model import base_weights
from shared_model.network.spec import ModelSpec
from simulations.phantom.hospitals import STYLES, write_hospital


def test_a_corrected_contour_is_seen_although_its_patient_was_before(tmp_path: Path) -> None:
    site: SiteConfig = write_hospital(tmp_path, next(iter(STYLES.values())), 2, 0)
    spec = ModelSpec(prior="none", shape=(16, 16, 16), base="phantom")
    weights = base_weights(adapted_model(spec))
    (before,) = base_doses(site, spec, weights, "validation")
    (path,) = [p for p in tmp_path.rglob("*.npz") if p.stem == site.validation[0]]
    case = load_case(path)
    name = max(case.prescriptions_gy, key=lambda target: case.prescriptions_gy[target])
    moved = {**case.structures, name: np.roll(case.structures[name], 2, axis=0) & case.body}
    save_case(path, replace(case, structures=moved))
    (after,) = base_doses(site, spec, weights, "validation")
    assert before is not None
    assert after is not None
    assert np.abs(after - before).max() > 0.01
