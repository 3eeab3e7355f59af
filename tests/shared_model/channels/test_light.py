"""Light features: they know no side, fall with depth and stay in the slices of the targets."""

from dataclasses import replace

import numpy as np
import pytest

from shared_model.channels import light
from shared_model.channels.features import levels, relative_prescription
from shared_model.diffusion.modalities import mirror
from shared_model.patient.case import Case
from simulations.phantom.hospitals import STYLES, phantom_case


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (24, 24, 24))


def lit(case: Case) -> np.ndarray:
    out = np.zeros((*case.grid.shape, len(light.NAMES)), np.float32)
    out[case.body] = light.light_features(case, relative_prescription(case), levels(case)[0])
    return out


def test_light_of_a_mirrored_case_is_the_mirrored_light(case: Case) -> None:
    np.testing.assert_allclose(lit(mirror(case))[:, :, ::-1], lit(case), atol=1e-4)


def test_light_falls_with_depth_and_stays_in_the_slices_of_the_targets(case: Case) -> None:
    found = dict(zip(light.NAMES, np.moveaxis(lit(case), -1, 0), strict=True))
    high = levels(case)[0]
    for name in ("light", "light_high", "light_thick"):
        assert found[name][high].mean() == pytest.approx(1.0, abs=1e-5)
    empty = ~(relative_prescription(case) > 0).any((1, 2))
    assert empty.any()
    assert found["light"][empty].max() == 0
    assert found["crossing"].min() >= 0
    assert found["crossing"].max() == pytest.approx(1.0, abs=1e-4), "every beam is open to the whole target"
    # Without tissue above it nothing is dimmed.
    thin = replace(case, body=high, structures={n: m & high for n, m in case.structures.items()}, dose_gy=None)
    dimmed = light.light_features(case, relative_prescription(case), high)[:, 4]
    assert dimmed.max() < light.light_features(thin, relative_prescription(thin), high)[:, 4].max()
