from dataclasses import replace

import numpy as np
import pytest
import torch

from shared_model.adapter.manifest import initial_vector, load_adapter, manifest_hash, pack, save_adapter, unpack
from shared_model.adapter.shared import adapted_model, trainable
from shared_model.channels.layout import TARGET_CHANNELS
from shared_model.core.errors import InputError
from shared_model.forms import volumes
from shared_model.forms.interface import Drawing, Lesson, form_of
from shared_model.forms.volume_sampling import in_box
from shared_model.network.spec import ADAPTERS_OF, ModelSpec
from shared_model.patient.case import MODALITIES
from shared_model.prediction.predictor import predict_dose
from shared_model.training.recipe import Recipe
from shared_model.training.step import Taught
from tests.builders.small_case import small_case

SPEC = ModelSpec(network="pyramid", prior="none", precision="fp32")
CASE = small_case()
FORM = form_of(SPEC)
PATIENT = FORM.encode(CASE)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return FORM.network().eval()


@pytest.mark.parametrize("adapter", ADAPTERS_OF["pyramid"])
def test_each_adapter_packs_to_the_bit_and_starts_as_the_prior(adapter: str, network: torch.nn.Module) -> None:
    spec = replace(SPEC, adapter=adapter, rank=2)
    model = adapted_model(spec).eval()
    how = Drawing(steps=2)
    expected = FORM.draw(network, PATIENT, how, candidates=1, seed=0)
    torch.testing.assert_close(FORM.draw(model.network, PATIENT, how, candidates=1, seed=0), expected)
    values = np.random.default_rng(0).standard_normal(pack(model).size).astype(np.float32)
    unpack(model, values)
    assert pack(model).tobytes() == values.tobytes()


def test_the_last_layer_of_dose_learns_from_every_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other adapters ask for another modality now and then; a draw that this one gets nothing from would be lost."""
    asked = []

    def noted(_network: object, _patient: object, recipe: Recipe, *_: object) -> Taught:
        asked.append(recipe.any_share)
        return Taught(loss=torch.zeros(()), error=None)

    monkeypatch.setattr(volumes, "teach", noted)
    for adapter in ("head", "bias"):
        form = form_of(replace(SPEC, adapter=adapter))
        for stage in ("dose", "any2any"):
            list(form.losses(FORM.network(), [PATIENT], Lesson(stage=stage), torch.Generator()))
    assert asked == [0.0, 1.0, Recipe().any_share, 1.0]


def test_adapters_differ_in_size_and_identity() -> None:
    sizes = [initial_vector(replace(SPEC, adapter=a)).size for a in ("head", "bias", "film", "lora+embeddings", "full")]
    assert sizes == sorted(sizes)
    assert len({manifest_hash(replace(SPEC, adapter=a)) for a in ADAPTERS_OF["pyramid"]}) == len(ADAPTERS_OF["pyramid"])


def test_low_rank_updates_reach_blocks_and_convolutions_and_leave_the_rest_frozen() -> None:
    names = set(trainable(adapted_model(replace(SPEC, adapter="lora", rank=2))))
    assert all(".lora_" in name for name in names)
    assert any("core.blocks" in name for name in names)
    assert any("leave0.0.conv1" in name for name in names)


def test_the_mean_of_second_factors_is_the_mean_of_what_the_sites_do() -> None:
    """FFA-LoRA: with the first factors frozen and equal, averaging vectors averages the products; LoRA's does not."""

    def products(adapter: str, vectors: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        model = adapted_model(replace(SPEC, adapter=adapter, rank=2))

        def of(vector: np.ndarray) -> np.ndarray:
            unpack(model, vector)
            stored = {name: p.detach().double().numpy() for name, p in model.stored_parameters() if ".lora_" in name}
            pairs = [(p, stored[n.replace(".lora_A.", ".lora_B.")]) for n, p in stored.items() if ".lora_A." in n]
            return np.concatenate([(b.reshape(len(b), 2) @ a.reshape(2, -1)).ravel() for a, b in pairs])

        return of(np.mean(vectors, axis=0).astype(np.float32)), np.mean([of(v) for v in vectors], axis=0)

    for adapter, equal in (("ffa-lora", True), ("lora", False)):
        size = initial_vector(replace(SPEC, adapter=adapter, rank=2)).size
        random = np.random.default_rng(0)
        drawn = [random.normal(0, 0.1, size).astype(np.float32) for _ in range(3)]
        of_mean, mean_of = products(adapter, drawn)
        assert np.allclose(of_mean, mean_of, atol=1e-6) is equal


def test_a_file_gives_back_the_adapter(tmp_path) -> None:  # type: ignore[no-untyped-def]
    spec = replace(SPEC, adapter="bias")
    vector = initial_vector(spec) + 1
    save_adapter(tmp_path / "a.safetensors", spec, vector)
    found, again, _ = load_adapter(tmp_path / "a.safetensors")
    assert found == spec
    assert again.tobytes() == vector.tobytes()
    assert ModelSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("changes", "told"),
    [({"base": "phantom"}, "model.base"), ({"shape": (16, 16, 16)}, "model.shape"), ({"prior": "wan"}, "model.prior"),
     ({"adapter": "blocks"}, "model.adapter"), ({"network": "unet"}, "model.network")],
)  # fmt: skip
def test_what_the_pyramid_has_not_is_refused(changes: dict[str, object], told: str) -> None:
    with pytest.raises(InputError, match=told):
        replace(SPEC, **changes)


@pytest.mark.parametrize("target", MODALITIES)
def test_any_modality_is_drawn_in_its_own_channels(network: torch.nn.Module, target: str) -> None:
    drawn = FORM.draw(network, PATIENT, Drawing(steps=2, flips=True), candidates=3, seed=0, target=target)
    assert drawn.shape[:2] == (3, len(TARGET_CHANNELS[target]))
    assert FORM.clean(PATIENT, target).shape == drawn.shape[1:]
    assert not torch.equal(drawn[0], drawn[1])


def test_candidates_are_a_series_and_batches_change_nothing(network: torch.nn.Module) -> None:
    four = FORM.draw(network, PATIENT, Drawing(steps=2), candidates=4, seed=3)
    one = FORM.draw(network, PATIENT, Drawing(steps=2), candidates=1, seed=3)
    torch.testing.assert_close(four[:1], one, atol=1e-4, rtol=0)
    parts = FORM.draw(network, PATIENT, Drawing(steps=2, batch=3), candidates=4, seed=3)
    torch.testing.assert_close(parts, four, atol=1e-4, rtol=0)
    assert not torch.equal(FORM.draw(network, PATIENT, Drawing(steps=2), candidates=1, seed=4), one)


def test_the_clean_dose_comes_back_in_gy() -> None:
    """At the case's own grid nothing is lost but the half precision of channels."""
    volumes = FORM.decode(FORM.clean(PATIENT)[None])
    dose = FORM.in_gy(volumes, PATIENT, CASE, None)[0]
    assert CASE.dose_gy is not None
    np.testing.assert_allclose(dose.numpy(), CASE.dose_gy, atol=0.05)


def test_with_flips_a_mirrored_noise_lies_on_the_mirrored_body(network: torch.nn.Module) -> None:
    """The body box has an odd rest to its frame, so flipping the frame alone would be one voxel off."""
    assert (24 - PATIENT.stack.shape[2]) % 2 == 1
    drawn = FORM.draw(network, PATIENT, Drawing(steps=2, flips=True), candidates=1, seed=0)
    plain = FORM.draw(network, PATIENT, Drawing(steps=2), candidates=1, seed=0)
    outside = in_box(drawn[0, 0], PATIENT)[PATIENT.stack[..., PATIENT.layout.index("body")] == 0]
    assert torch.equal(outside, torch.zeros_like(outside))
    assert not torch.equal(drawn, plain)


def test_predicted_dose_is_of_the_body_and_the_same_again() -> None:
    model = adapted_model(SPEC).eval()
    found = predict_dose(model, CASE, SPEC, steps=2, candidates=3, seed=1, flips=True)
    assert found.shape == CASE.grid.shape
    assert not found[~torch.from_numpy(CASE.body)].any()
    again = predict_dose(model, CASE, SPEC, steps=2, candidates=3, seed=1, flips=True)
    torch.testing.assert_close(found, again)


def test_the_loss_of_a_batch_is_the_mean_over_patients_and_each_stage_asks_its_own() -> None:
    network = FORM.network()
    other = FORM.encode(small_case("b", dose_gy=np.full(CASE.grid.shape, 1.0, np.float32)))
    parts = list(FORM.losses(network, [PATIENT, other], Lesson(), torch.Generator().manual_seed(0)))
    assert len(parts) == 2
    generator = torch.Generator().manual_seed(0)
    alone = [next(FORM.losses(network, [p], Lesson(), generator)) for p in (PATIENT, other)]
    torch.testing.assert_close(torch.stack(parts), torch.stack(alone) / 2)
    dose, any2any = (
        float(next(FORM.losses(network, [PATIENT], Lesson(stage=s), torch.Generator().manual_seed(5))))
        for s in ("dose", "any2any")
    )
    assert dose != any2any
