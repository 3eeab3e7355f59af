"""Far outside training is refused with the reason, near it is told, inside nothing is said."""

import json
from dataclasses import replace

import numpy as np
import pytest

from shared_model.adapter.envelope import Envelope
from shared_model.adapter.manifest import load_adapter
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.patient.case import Case
from shared_model.patient.geometry import Grid


def case(scale: float = 1.0, level: float = 70.0, organs: tuple[str, ...] = ("SpinalCord", "Parotid_L")) -> Case:
    grid = Grid((20, 30, 30), (5.0 * scale, 8.0 * scale, 8.0 * scale))
    body = np.ones(grid.shape, dtype=bool)
    target = np.zeros(grid.shape, dtype=bool)
    target[5:15, 10:20, 10:20] = True
    name = f"PTV_{round(level * 100):04d}"
    organ = np.zeros(grid.shape, dtype=bool)
    organ[5:15, 2:4, 2:4] = True
    volume = np.zeros(grid.shape, dtype=np.float32)
    return Case(
        case_id="a", grid=grid, body=body, structures={name: target, **dict.fromkeys(organs, organ)},
        prescriptions_gy={name: level}, ct_hu=volume, beam_plate=volume, angle_plate=volume,
    )  # fmt: skip


@pytest.fixture
def envelope() -> Envelope:
    return Envelope.measure(case(scale, level) for scale in (0.95, 1.0, 1.05) for level in (66.0, 70.0))


def test_a_training_patient_is_inside(envelope: Envelope) -> None:
    verdict = envelope.judge(case())
    assert verdict.refusals == ()
    assert verdict.notes == ()


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (case(level=30.0), "highest prescription, Gy: 30"),
        (case(scale=2.0), "size of pixels, mm: 16"),
        (case(organs=()), "another body site"),
        (replace(case(), structures={}, prescriptions_gy={}), "no target"),
    ],
)
def test_far_outside_is_refused_with_the_reason(envelope: Envelope, other: Case, text: str) -> None:
    assert any(text in reason for reason in envelope.judge(other).refusals)


def test_near_the_edge_is_told_and_not_refused(envelope: Envelope) -> None:
    verdict = envelope.judge(case(level=74.0))
    assert verdict.refusals == ()
    assert any("highest prescription, Gy: 74, in training 66 to 70" in note for note in verdict.notes)
    missing = envelope.judge(replace(case(), beam_plate=None, angle_plate=None))
    assert missing.refusals == ()
    assert sum("RTPLAN" in note for note in missing.notes) == 2


def test_ranges_come_back_from_a_card_and_damage_is_refused(envelope: Envelope) -> None:
    card = json.loads(json.dumps({"trained_on": envelope.record()}))
    assert Envelope.from_card(card) == envelope
    assert Envelope.from_card({}) is None
    with pytest.raises(InputError, match="trained_on"):
        Envelope.from_card({"trained_on": {"ranges": {"a": [1]}}})
    with pytest.raises(InputError, match="no patient"):
        Envelope.measure([replace(case(), structures={}, prescriptions_gy={})])


def test_an_extreme_patient_is_not_told() -> None:
    """Ranges are percentiles: of many patients the one furthest out does not show."""
    usual = [case(level=70.0)] * 299
    told = Envelope.measure([*usual, case(level=21.0)])
    assert told.ranges["prescription_gy"][0] == 70.0


def test_another_site_of_the_body_is_refused_by_name_though_all_else_fits(envelope: Envelope) -> None:
    lung = case(organs=("SpinalCord", "Esophagus", "Heart", "Lungs-GTV"))
    (reason,) = [text for text in envelope.judge(lung).refusals if text.startswith("site of the body")]
    assert "thorax" in reason
    assert "Heart" in reason
    assert "head_neck" in reason
    both = envelope.judge(case(organs=("SpinalCord", "Parotid_L", "Lung_L")))  # a neck whose lungs are drawn too
    assert both.refusals == ()
    assert any(note.endswith("Lung_L") for note in both.notes)


def test_the_bundled_adapter_refuses_lungs_and_pelves_by_name() -> None:
    bundled = Envelope.of_bundled()
    assert bundled == Envelope.from_card(load_adapter(DEFAULT_ADAPTER)[2])  # the card that belongs to the parameters
    for site, organs in (("thorax", ("SpinalCord", "Esophagus", "Heart")), ("pelvis", ("Rectum", "Bladder"))):
        assert any(site in text for text in bundled.judge(case(organs=organs)).refusals)
