import numpy as np
import pytest
import torch

from shared_model.adapter.shared import adapted_model
from shared_model.base.model import DoseModel
from shared_model.forms.interface import Drawing
from shared_model.network.dit import Any2AnyDiT
from shared_model.network.spec import Architecture, ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from shared_model.prediction.predictor import _draw, predict_dose, predict_merged
from shared_model.prediction.regrid import coarsen, refine
from tests.builders.small_case import small_case

SPEC = ModelSpec(prior="none", shape=(16, 16, 16), precision="fp32")


@pytest.fixture
def case() -> Case:
    body = np.zeros((24, 24, 24), dtype=bool)
    body[2:-2, 2:-2, 2:-2] = True
    ptv = np.zeros_like(body)
    ptv[8:14, 8:14, 8:14] = True
    return Case(
        case_id="p", grid=Grid((24, 24, 24), (3.0, 3.0, 3.0)), body=body,
        structures={"PTV_7000": ptv}, prescriptions_gy={"PTV_7000": 70.0},
    )  # fmt: skip


@pytest.fixture
def model() -> DoseModel:
    torch.manual_seed(0)
    return DoseModel(Any2AnyDiT(Architecture(dim=48, heads=2, ffn_dim=64, layers=1))).eval()


def test_a_grid_above_the_training_roi_is_predicted_in_tiles(case: Case, model: DoseModel) -> None:
    tokens: list[int] = []
    model.network.blocks[0].register_forward_hook(lambda module, args, out: tokens.append(out.shape[1]))
    predict_dose(model, case, SPEC)
    one, tokens[:] = set(tokens), []
    dose = predict_dose(model, case, SPEC, shape=(24, 24, 24))
    assert len(tokens) > 1
    assert set(tokens) == one
    assert dose.shape == case.grid.shape
    assert bool((dose[~torch.from_numpy(case.body)] == 0).all())


def test_the_dose_is_the_mean_of_its_samples(case: Case, model: DoseModel) -> None:
    drawn, in_gy = _draw(model, case, SPEC, Drawing(steps=2), candidates=4, seed=1)
    doses = torch.stack([in_gy(one) for one in drawn])
    four = predict_dose(model, case, SPEC, steps=2, candidates=4, seed=1)
    assert torch.equal(four, in_gy(drawn.mean(0)))
    one = predict_dose(model, case, SPEC, steps=2, seed=1)
    # A batch of one sums in another order than a batch of four.
    torch.testing.assert_close(one, doses[0], rtol=1e-3, atol=1e-3)
    assert not torch.allclose(one, four, atol=1e-2)


def test_two_predictions_are_on_two_grids_where_voxels_are_merged_and_else_of_the_mirrored_patient() -> None:
    spec = ModelSpec(network="pyramid", size="small", prior="none", precision="fp32")
    patient, two = small_case(), (2, 2, 2)
    model = adapted_model(spec).eval()

    def on_grid(start: tuple[int, int, int], **how: int | bool) -> torch.Tensor:
        asked = coarsen(patient, two, start)
        return refine(predict_dose(model, asked, spec, **how), asked, patient)  # type: ignore[arg-type]

    with torch.no_grad():
        found = predict_merged(model, patient, spec, two)
        torch.testing.assert_close(found, (on_grid((0, 0, 0)) + on_grid((1, 1, 1))) / 2)
        assert not torch.allclose(found, on_grid((0, 0, 0)), atol=0.01)
        assert torch.equal(predict_merged(model, patient, spec, two, twice=False), on_grid((0, 0, 0)))
        # Candidates of several steps are one dose each: two grids would blur them.
        drawn = predict_merged(model, patient, spec, two, steps=2, seed=3)
        assert torch.equal(drawn, on_grid((0, 0, 0), steps=2, seed=3, flips=True))
        whole = predict_merged(model, patient, spec, (1, 1, 1))
        assert torch.equal(whole, predict_dose(model, patient, spec, flips=True))
