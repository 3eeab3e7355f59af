import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from shared_model.adapter.manifest import initial_vector, load_adapter, manifest_hash, pack, save_adapter
from shared_model.adapter.shared import adapted_model
from shared_model.backbone.checkpoint import WEIGHTS
from shared_model.backbone.prior import load_latents, load_prior, pin_prior, prior_hash
from shared_model.backbone.wan import WanDiT
from shared_model.base.interface import base_of
from shared_model.base.model import DoseModel
from shared_model.channels.features import physics_features
from shared_model.core.errors import InputError
from shared_model.diffusion.modalities import HAAR, dose_gy, example, volumes
from shared_model.diffusion.sampler import Sampling, sample_latents
from shared_model.network.spec import ModelSpec
from shared_model.network.switches import Switches
from shared_model.patient.case import Case
from shared_model.prediction.predictor import predict_dose
from simulations.phantom.hospitals import STYLES, phantom_case
from tests.builders.wan_files import write_checkpoint

SPEC = ModelSpec(prior="wan", adapter="lora", rank=2, shape=(9, 16, 32), precision="fp32")


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (16, 24, 24))


def test_hash_is_of_the_numbers_not_of_the_files(wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prior_hash(SPEC)
    monkeypatch.setenv("FEDKT3D_WAN", str(write_checkpoint(tmp_path / "shards", shards="200KB")))
    assert len(list((tmp_path / "shards" / "transformer").glob("*.safetensors"))) > 1
    assert prior_hash(SPEC) == whole


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("transformer", "blocks.1.ffn.net.2.bias"),
        ("transformer", "blocks.0.attn2.to_v.bias"),
        ("vae", "quant_conv.bias"),
    ],
)
def test_a_changed_weight_changes_the_hash_and_is_refused(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    known = pin_prior(SPEC)
    assert known.prior_sha256 == prior_hash(SPEC)
    assert prior_hash(known) == known.prior_sha256
    other = Path(shutil.copytree(wan, tmp_path / "other"))
    path = other / part / WEIGHTS
    content = load_file(path)
    save_file({**content, name: content[name] + 1e-3}, path)
    monkeypatch.setenv("FEDKT3D_WAN", str(other))
    assert prior_hash(SPEC) != known.prior_sha256
    for refused in (prior_hash, load_prior, load_latents, manifest_hash):
        with pytest.raises(InputError, match=f"names checkpoint {known.prior_sha256[:12]}, FEDKT3D_WAN holds"):
            refused(known)


def test_weights_that_no_part_of_the_prior_uses_do_not_matter(
    wan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which text would be attended to cannot be seen in the prior."""
    before = prior_hash(SPEC)
    path = Path(shutil.copytree(wan, tmp_path / "other")) / "transformer" / WEIGHTS
    save_file({k: v + 1 if ".attn2.to_q." in k else v for k, v in load_file(path).items()}, path)
    monkeypatch.setenv("FEDKT3D_WAN", str(tmp_path / "other"))
    assert prior_hash(SPEC) == before


def test_the_path_never_enters_the_specification(wan: Path) -> None:
    text = pin_prior(SPEC).to_json()
    assert str(wan) not in text
    assert wan.name not in text
    assert ModelSpec.from_json(text) == pin_prior(SPEC)


def test_where_the_checkpoint_is_must_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDKT3D_WAN", raising=False)
    with pytest.raises(InputError, match="FEDKT3D_WAN is not set"):
        load_prior(SPEC)
    monkeypatch.setenv("FEDKT3D_WAN", "models/wan")
    with pytest.raises(InputError, match="expected an absolute path"):
        load_prior(SPEC)
    monkeypatch.setenv("FEDKT3D_WAN", "/nowhere/wan")
    with pytest.raises(InputError, match="/nowhere/wan: no such folder"):
        load_prior(SPEC)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": (3, 32, 32)}, "best 4k"),
        ({"shape": (9, 24, 32)}, "multiples of 16"),
        ({"prior_sha256": "abc"}, "64 hex digits"),
        (
            {"prior": "video-small", "prior_sha256": "a" * 64, "shape": (32, 32, 32)},
            "model.prior=file or wan, else nothing",
        ),
    ],
)
def test_specifications_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        replace(SPEC, **changes)  # type: ignore[arg-type]


def test_only_wan_has_other_latents(wan: Path) -> None:
    assert load_latents(ModelSpec()) is HAAR
    latents = load_latents(SPEC)
    assert latents is load_latents(SPEC)
    assert latents.identity != HAAR.identity
    assert latents.costly


@pytest.mark.usefixtures("wan")
def test_a_case_through_the_autoencoders_scale_keeps_its_units(case: Case) -> None:
    """With an autoencoder that lost nothing the dose would come back: scaled into [-1, 1] and out again."""
    latents = load_latents(SPEC)
    patient = example(case, SPEC.shape, latents)
    assert patient.latents["dose"].shape == (16, 3, 2, 4)
    dose = volumes(case, patient.grid)["dose"]
    offset, unit = latents.scale["dose"]
    scaled = (dose - offset) / unit
    assert scaled.abs().max() <= 1
    expected = dose_gy((dose - HAAR.scale["dose"][0]) / HAAR.scale["dose"][1], case, patient.grid)
    torch.testing.assert_close(dose_gy(scaled, case, patient.grid, latents), expected, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("wan")
def test_prediction_runs_from_case_to_gray(case: Case) -> None:
    model = DoseModel(load_prior(SPEC)).eval()
    assert isinstance(model.network, WanDiT)
    dose = predict_dose(model, case, SPEC, steps=2, candidates=2, seed=1)
    assert dose.shape == case.grid.shape
    assert torch.isfinite(dose).all()
    assert float(dose.max()) > 0
    patient = example(case, SPEC.shape, load_latents(SPEC))
    assert torch.equal(dose, predict_dose(model, case, SPEC, steps=2, candidates=2, seed=1, patient=patient))


@pytest.mark.usefixtures("wan")
def test_the_residual_form_in_wans_latents(case: Case) -> None:
    spec = replace(SPEC, base="phantom")
    found = base_of(spec).dose(case, physics_features(case), bytes(4 * 64))
    assert found is not None
    patient = example(case, spec.shape, load_latents(spec), found)
    nothing = dose_gy(torch.zeros(spec.shape), case, patient.grid, load_latents(spec), found)
    torch.testing.assert_close(nothing, torch.from_numpy(found))
    model = DoseModel(load_prior(spec), base_of(spec).network()).eval()
    dose = predict_dose(model, case, spec, seed=1)
    again = predict_dose(model, case, spec, seed=1, patient=patient, base=found)
    assert torch.equal(dose, again)
    assert (dose - nothing).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.usefixtures("wan")
def test_switches_leave_the_pretrained_weights_as_they_are() -> None:
    """One patch embedding for all is Wan's own, and its new role embedding starts at zero: neither changes anything."""
    x, t = torch.randn(2, 16, 3, 2, 4), torch.tensor([0.3, 0.8])
    expected = load_prior(SPEC)({"ct": x.flip(0)}, "dose", x, t)
    switched = load_prior(replace(SPEC, switches=Switches(patch_embedding="shared", role_embedding=False)))
    assert [name for name in switched.state_dict() if name.startswith(("patch.", "role."))] == [
        "patch.shared.weight",
        "patch.shared.bias",
    ]
    torch.testing.assert_close(switched({"ct": x.flip(0)}, "dose", x, t), expected, atol=1e-6, rtol=0)
    checkpointed = load_prior(replace(SPEC, switches=Switches(checkpointing=True))).train()
    assert torch.equal(checkpointed({"ct": x.flip(0)}, "dose", x, t), expected)


@pytest.mark.usefixtures("wan")
def test_kept_conditions_sample_the_same() -> None:
    model = load_prior(replace(SPEC, switches=Switches(attention="condition-causal"))).eval()
    given, start = {"ct": torch.randn(16, 3, 2, 4), "ptv": torch.randn(16, 3, 2, 4)}, torch.randn(3, 16, 3, 2, 4)
    how = Sampling(steps=3, precision="fp32")
    again = sample_latents(model, given, "dose", start, replace(how, keep=False))
    torch.testing.assert_close(sample_latents(model, given, "dose", start, how), again, atol=1e-5, rtol=0)


@pytest.mark.usefixtures("wan")
def test_a_grid_above_the_training_roi_is_predicted_in_tiles(case: Case) -> None:
    model, tokens = DoseModel(load_prior(SPEC)).eval(), list[int]()
    model.network.blocks[0].register_forward_hook(lambda module, args, out: tokens.append(out.shape[1]))
    predict_dose(model, case, SPEC)
    one, tokens[:] = set(tokens), []
    dose = predict_dose(model, case, SPEC, shape=(9, 32, 32))
    assert len(tokens) > 1
    assert set(tokens) == one
    assert dose.shape == case.grid.shape


@pytest.mark.parametrize("adapter", ["lora", "lora+embeddings", "blocks", "full"])
def test_adapters_of_wan_travel_and_are_published(wan: Path, tmp_path: Path, adapter: str) -> None:
    spec = pin_prior(replace(SPEC, adapter=adapter))
    vector = initial_vector(spec)
    assert pack(adapted_model(spec)).tobytes() == vector.tobytes()
    save_adapter(tmp_path / "a.safetensors", spec, vector)
    assert load_adapter(tmp_path / "a.safetensors")[0] == spec
    assert str(wan).encode() not in (tmp_path / "a.safetensors").read_bytes()
