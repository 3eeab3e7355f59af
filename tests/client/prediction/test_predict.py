"""`client predict`: the dose does not see the case's own, its files agree with it, and far cases are refused."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch

from client.commands.data import check_folder
from client.data.case_files import save_case
from client.prediction.files import write_answer
from client.prediction.predict import PredictedDose, Predictor, Sampled, build_shared
from client.prediction.subject import load_subject
from shared_model.adapter.manifest import initial_vector, save_adapter
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid
from simulations.phantom.planes import Scan
from tests.builders.small_study import ellipsoid_case, write_small_study


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor()


@pytest.fixture(scope="module")
def case() -> Case:
    return ellipsoid_case()


@pytest.fixture(scope="module")
def answer(predictor: Predictor, case: Case) -> PredictedDose:
    return predictor.predict(case, Sampled(samples=3, steps=2))


def test_the_answer_is_a_dose(answer: PredictedDose, case: Case) -> None:
    assert answer.dose_gy.shape == case.grid.shape
    assert (answer.dose_gy[~case.body] == 0).all()
    inside = answer.dose_gy[case.structures["PTV_7000"]]
    assert 55.0 < inside.mean() < 80.0
    assert answer.seconds > 0
    assert answer.peak_mb > 10


def test_the_cases_own_dose_has_no_part_in_it(predictor: Predictor, case: Case, answer: PredictedDose) -> None:
    blind = predictor.predict(replace(case, dose_gy=None), Sampled(samples=3, steps=2))
    np.testing.assert_array_equal(blind.dose_gy, answer.dose_gy)


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (ellipsoid_case(level_gy=30.0), "prescription, Gy: 30"),
        (replace(ellipsoid_case(), structures={}, prescriptions_gy={}), "no target"),
        (replace(ellipsoid_case(), structures={"PTV_7000": ellipsoid_case().structures["PTV_7000"]}), "organs: none"),
    ],
)
def test_far_outside_of_training_is_refused_with_the_reason(predictor: Predictor, other: Case, reason: str) -> None:
    with pytest.raises(InputError, match="far outside") as raised:
        predictor.predict(other, Sampled())
    assert reason in str(raised.value)


def test_finer_voxels_are_predicted_at_the_training_patients_size(predictor: Predictor) -> None:
    coarse = ellipsoid_case()

    def doubled(volume: np.ndarray) -> np.ndarray:
        return volume.repeat(2, 0).repeat(2, 1).repeat(2, 2)

    origin = tuple(o - 0.25 * s for o, s in zip(coarse.grid.origin_mm, coarse.grid.spacing_mm, strict=True))
    spacing = tuple(s / 2 for s in coarse.grid.spacing_mm)
    shape = tuple(2 * n for n in coarse.grid.shape)
    assert coarse.ct_hu is not None
    fine = Case(
        case_id="a", grid=Grid(shape, spacing, origin), body=doubled(coarse.body), ct_hu=doubled(coarse.ct_hu),
        structures={name: doubled(mask) for name, mask in coarse.structures.items()},
        prescriptions_gy=coarse.prescriptions_gy,
    )  # fmt: skip
    found = predictor.predict(fine, Sampled(twice=False))
    assert found.factors == (2, 2, 2)
    assert any("resampled back" in note for note in found.notes)
    assert found.dose_gy.shape == shape
    same = predictor.predict(replace(coarse, dose_gy=None), Sampled(twice=False))
    blocks = found.dose_gy.reshape(24, 2, 26, 2, 28, 2).mean(axis=(1, 3, 5))
    np.testing.assert_allclose(blocks[coarse.body], same.dose_gy[coarse.body], atol=2.0)
    # The average over two grids sees the same patient: other voxels, the same dose in broad strokes.
    twice = predictor.predict(fine, Sampled())
    inside = doubled(coarse.body)
    assert not np.array_equal(twice.dose_gy, found.dose_gy)
    assert np.abs(twice.dose_gy - found.dose_gy)[inside].mean() < 0.05 * found.dose_gy[inside].mean()


def test_a_private_adapter_is_laid_over_the_model(case: Case, answer: PredictedDose) -> None:
    seen: list[ModelSpec] = []

    def build(spec: ModelSpec, vector: np.ndarray):  # type: ignore[no-untyped-def]
        model, spec = build_shared(spec, vector)
        seen.append(spec)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
        return model, spec

    changed = Predictor(build=build).predict(case, Sampled(samples=3, steps=2))
    assert len(seen) == 1
    assert not np.array_equal(changed.dose_gy, answer.dose_gy)


def test_an_adapter_without_ranges_is_held_against_the_bundled_ones(tmp_path: Path) -> None:
    spec = ModelSpec(prior="none", shape=(16, 16, 16))
    save_adapter(tmp_path / "a.safetensors", spec, initial_vector(spec))
    fresh = Predictor(tmp_path / "a.safetensors")
    assert fresh.envelope == Predictor(DEFAULT_ADAPTER).envelope
    assert any("names no training ranges" in note for note in fresh.predict(ellipsoid_case(), Sampled()).notes)
    with pytest.raises(InputError, match="no such file"):
        Predictor(tmp_path / "b.safetensors")


def test_the_files_agree_with_the_answer(
    predictor: Predictor, case: Case, answer: PredictedDose, tmp_path: Path
) -> None:
    record = write_answer(tmp_path / "out", answer, predictor, None)
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == record
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*record["files"], "report.json"}
    with np.load(tmp_path / "out" / "dose.npz") as kept:
        np.testing.assert_array_equal(kept["dose_gy"], answer.dose_gy)
        # How far samples lie apart is no uncertainty, so no file may look as if it had one.
        assert set(kept) == {"dose_gy", "spacing_mm", "origin_mm"}
    assert "spread" not in json.dumps(record)
    rows = list(csv.DictReader((tmp_path / "out" / "dvh.csv").open()))
    inside = answer.dose_gy[case.structures["SpinalCord"]]
    for row in rows:
        if row["structure"] == "SpinalCord":
            share = 100 * float((inside >= np.float32(row["dose_gy"])).mean())
            assert float(row["volume_percent"]) == pytest.approx(share, abs=100 / inside.size + 1e-3)
    assert record["metrics_gy"]["SpinalCord/mean"] == pytest.approx(float(inside.mean()), abs=1e-2)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Not for clinical use" in page
    assert "data:image/png;base64," in page
    assert "SpinalCord" in page
    with pytest.raises(InputError, match="not empty"):
        check_folder(tmp_path / "out")


def test_a_dicom_study_gets_its_dose_as_rtdose(predictor: Predictor, tmp_path: Path) -> None:
    write_small_study(tmp_path / "study")
    subject = load_subject(tmp_path / "study")
    assert subject.origin is not None
    found = predictor.predict(subject.case, Sampled(samples=2, steps=2), subject.notes)
    record = write_answer(tmp_path / "out", found, predictor, subject.origin)
    assert "dose.dcm" in record["files"]
    assert "spread" not in (tmp_path / "out" / "report.html").read_text()
    written = pydicom.dcmread(tmp_path / "out" / "dose.dcm")
    plan = pydicom.dcmread(tmp_path / "study" / "rp.dcm")
    assert written.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID == plan.SOPInstanceUID
    assert written.PatientID == plan.PatientID
    for name in ("report.html", "report.json", "dvh.csv"):
        assert str(plan.PatientID) not in (tmp_path / "out" / name).read_text()


def test_without_a_plan_the_dose_refers_to_none(predictor: Predictor, tmp_path: Path) -> None:
    write_small_study(tmp_path / "study", scan=Scan())
    (tmp_path / "study" / "rp.dcm").unlink()
    subject = load_subject(tmp_path / "study")
    assert subject.origin is not None
    assert subject.origin.plan is None
    assert subject.case.beam_plate is None
    found = predictor.predict(subject.case, Sampled(samples=1), subject.notes)
    assert any("RTPLAN" in note for note in found.notes)


def test_what_cannot_be_asked_about_is_one_clear_line(tmp_path: Path, case: Case) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_subject(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no plan that can be read"):
        load_subject(tmp_path / "empty")
    for index in range(2):
        write_small_study(tmp_path / "two" / str(index), index)
    with pytest.raises(InputError, match="holds 2 plans"):
        load_subject(tmp_path / "two")
    save_case(tmp_path / "a.npz", case)
    assert load_subject(tmp_path / "a.npz").origin is None
    for wrong in ({"samples": 0}, {"samples": 65}, {"steps": 0}):
        with pytest.raises(InputError):
            Sampled(**wrong)
