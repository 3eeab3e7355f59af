"""Light features and the voxel base: no side, no dose, no missing modality stops them; weights travel whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.adapter.manifest import initial_vector, load_adapter, manifest_hash, save_adapter
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.base.model import base_gy, base_weights
from shared_model.base.voxel_network import FEATURES, VoxelNetwork, from_weights, predict, voxel_features, weights
from shared_model.channels import light
from shared_model.channels.features import levels, relative_prescription
from shared_model.diffusion.modalities import mirror
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.prediction.predictor import predict_dose
from simulations.phantom.hospitals import STYLES, phantom_case

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), base="voxel", precision="fp32")


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


def test_features_do_without_dose_and_without_any_modality(case: Case) -> None:
    np.testing.assert_array_equal(voxel_features(replace(case, dose_gy=None)), voxel_features(case))
    bare = replace(case, structures={}, prescriptions_gy={}, ct_hu=None, beam_plate=None, angle_plate=None)
    features = voxel_features(bare)
    assert features.shape == (case.body.sum(), FEATURES)
    assert np.isfinite(features).all()
    assert predict(bare, features, VoxelNetwork()).max() == 0


def test_weights_make_the_same_network(case: Case) -> None:
    network, features = VoxelNetwork(), voxel_features(case)
    again = from_weights(weights(network))
    assert weights(again) == weights(network)
    np.testing.assert_array_equal(predict(case, features, again), predict(case, features, network))


@pytest.mark.parametrize("adapter", ["full", "lora", "lora+embeddings", "blocks"])
def test_its_weights_are_part_of_every_adapter(adapter: str) -> None:
    names = trainable(adapted_model(replace(SPEC, adapter=adapter)))
    assert sum(p.numel() for name, p in names.items() if name.startswith("voxel.")) == 37_505
    assert "estimate.weight" in names


def test_prediction_from_a_saved_adapter_starts_from_its_base(case: Case, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "adapter.safetensors"
    save_adapter(path, SPEC, initial_vector(SPEC))
    spec, vector, _ = load_adapter(path)
    assert (spec, vector.tobytes()) == (SPEC, initial_vector(SPEC).tobytes())
    model = adapted_model(spec)
    base = base_gy(case, spec, model)
    assert base is not None
    dose = predict_dose(model.eval(), case, spec)
    given = predict_dose(model, case, spec, base=base)
    assert torch.equal(dose, given)
    assert base_weights(model)
    assert manifest_hash(SPEC) != manifest_hash(replace(SPEC, base="none"))
