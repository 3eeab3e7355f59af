import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

from client.data.latent_cache import encode_case
from client.training.train import evaluate_round, train_round
from privacy.wire.messages import EvaluateTask, TrainTask
from shared_model.adapter.manifest import initial_vector
from shared_model.backbone.prior import load_latents
from shared_model.diffusion.modalities import Example, example
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, content_hash
from shared_model.patient.geometry import Grid
from simulations.phantom.hospitals import STYLES, phantom_case, write_hospital
from tests.builders.wan_files import tiny_vae

SPEC = ModelSpec(prior="wan", adapter="lora", rank=2, shape=(5, 16, 16))


@pytest.fixture(scope="module")
def case() -> Case:
    return phantom_case(3, STYLES["openkbp_like"], (16, 16, 16))


class Counter:
    """Counts the autoencoder's encodings, which it still does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        original = AutoencoderKLWan.encode

        def counting(vae: AutoencoderKLWan, x: torch.Tensor) -> object:
            self.count += 1
            return original(vae, x)

        monkeypatch.setattr(AutoencoderKLWan, "encode", counting)


@pytest.fixture
def encodings(wan: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    return Counter(monkeypatch)


def same(a: Example, b: Example) -> bool:
    return (
        (a.case_id, a.grid, list(a.latents)) == (b.case_id, b.grid, list(b.latents))
        and all(torch.equal(a.latents[m], b.latents[m]) for m in a.latents)
    )  # fmt: skip


def test_the_autoencoder_runs_once_and_what_is_kept_is_exact(case: Case, encodings: Counter, tmp_path: Path) -> None:
    plain = example(case, SPEC.shape, load_latents(SPEC))
    encodings.count = 0
    first = encode_case(case, SPEC, tmp_path)
    assert encodings.count == len(plain.latents) == 7
    again = encode_case(case, SPEC, tmp_path)
    assert encodings.count == 7
    assert same(first, plain)
    assert same(again, plain)


def test_a_change_of_case_grid_or_weights_is_encoded_anew(
    case: Case, encodings: Counter, tmp_path: Path, wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode_case(case, SPEC, tmp_path / "cache")
    assert case.dose_gy is not None
    hotter = case.dose_gy.copy()
    hotter[8, 8, 8] += 0.5
    for changed, spec in ((replace(case, dose_gy=hotter), SPEC), (case, replace(SPEC, shape=(9, 16, 16)))):
        before = encodings.count
        assert same(encode_case(changed, spec, tmp_path / "cache"), example(changed, spec.shape, load_latents(spec)))
        assert encodings.count == before + 14
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "transformer").symlink_to(wan / "transformer")
    tiny_vae(seed=1).save_pretrained(tmp_path / "other" / "vae")
    monkeypatch.setenv("FEDKT3D_WAN", str(tmp_path / "other"))
    before = encodings.count
    encode_case(case, SPEC, tmp_path / "cache")
    assert encodings.count == before + 7


def test_every_part_of_a_case_is_in_its_hash_but_its_pseudonym(case: Case) -> None:
    assert case.ct_hu is not None
    target = case.targets[0]
    organ = next(name for name in case.structures if name not in case.targets)
    volume = np.zeros(case.grid.shape, dtype=np.float32)
    others = [
        replace(case, ct_hu=case.ct_hu + np.float32(1)),
        replace(case, ct_hu=None),
        replace(case, beam_plate=volume),
        replace(case, angle_plate=volume),
        replace(case, dose_gy=None),
        replace(case, body=np.ones(case.grid.shape, dtype=np.bool_)),
        replace(case, structures={**case.structures, organ: ~case.structures[organ]}),
        replace(case, structures={n: m for n, m in case.structures.items() if n != organ}),
        replace(case, prescriptions_gy={**case.prescriptions_gy, target: 51.0}),
        replace(case, grid=Grid(case.grid.shape, (3.0, 3.0, 3.5))),
    ]
    hashes = {content_hash(case), *(content_hash(other) for other in others)}
    assert len(hashes) == 1 + len(others)
    assert content_hash(replace(case, case_id="renamed")) == content_hash(case)


def test_a_damaged_file_is_replaced(case: Case, encodings: Counter, tmp_path: Path) -> None:
    good = encode_case(case, SPEC, tmp_path)
    (path,) = (tmp_path / "latents").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    before = encodings.count
    assert same(encode_case(case, SPEC, tmp_path), good)
    assert encodings.count == before + 7
    assert path.read_bytes() == whole


def test_the_files_are_their_owners_alone_and_name_no_patient(case: Case, encodings: Counter, tmp_path: Path) -> None:
    encode_case(replace(case, case_id="patient-77"), SPEC, tmp_path)
    (path,) = (tmp_path / "latents").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert "patient-77" not in path.name
    assert b"patient-77" not in path.read_bytes()


def test_haar_latents_are_not_kept(case: Case, tmp_path: Path) -> None:
    spec = ModelSpec(prior="none", shape=(16, 16, 16))
    assert same(encode_case(case, spec, tmp_path), example(case, spec.shape))
    assert not list(tmp_path.iterdir())


def test_rounds_train_and_score_on_kept_latents(encodings: Counter, tmp_path: Path) -> None:
    site = write_hospital(tmp_path / "a", STYLES["balanced_7f"], 4, 1, shape=(16, 16, 16))
    site = replace(site, cache=tmp_path / "cache")
    task = TrainTask(
        round=1, rounds=2, local_steps=2, batch_size=2, lr=1e-3, seed=0, stage="dose", grad_clip=1.0, weight_decay=0.0
    )
    vector = initial_vector(SPEC)
    update, metrics = train_round(site, SPEC, vector, task)
    assert np.abs(update).max() > 0
    assert np.isfinite(metrics["loss"])
    # Each patient as it is and in the mirror.
    assert encodings.count == 14 * len(site.train)
    evaluate = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)
    scores = evaluate_round(site, SPEC, vector, evaluate)
    assert encodings.count == 14 * len(site.train) + 7 * len(site.validation)
    moved = replace(site, threads=1)  # as after a restart: nothing in memory
    assert evaluate_round(moved, SPEC, vector, evaluate) == scores
    assert train_round(moved, SPEC, vector, task)[0].tobytes() == update.tobytes()
    assert encodings.count == 14 * len(site.train) + 7 * len(site.validation)


@pytest.mark.usefixtures("wan")
def test_latents_of_a_residual_are_kept_apart_from_those_of_the_dose(case: Case, tmp_path: Path) -> None:
    assert case.dose_gy is not None
    bases = [None, np.zeros_like(case.dose_gy), 0.5 * case.dose_gy]
    latents = load_latents(SPEC)
    for _ in range(2):
        for base in bases:
            assert same(encode_case(case, SPEC, tmp_path, base), example(case, SPEC.shape, latents, base))
    assert len(list((tmp_path / "latents").iterdir())) == len(bases)
