"""The editor's fields: every card of the package comes back as it was, and what is wrong is told by its field."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.cards.form import CRITERION, MOST_CRITERIA, CardError, CardForm
from shared_model.bundled import SCORECARDS
from shared_model.core.errors import InputError
from shared_model.scoring.scorecard_read import parse_scorecard, read_scorecard
from tests.builders.small_card import CARD

OLD = """\
schema: rt-scorecard/1
name: old
prescription_gy: {PTV70: 70}
fractions: 35
metrics:
  - {id: a, structure: RightParotid, metric: Mean, unit: Gy, direction: lower, weight: 0.3,
    points: [[1, 0.3], [2.5, 0]]}
"""


def fields(path: Path) -> dict[str, str]:
    """What a browser sends of a card that nobody has changed."""
    form = CardForm.read(path)
    criteria = {f"{n}.{key}": text for n, one in enumerate(form.criteria, 1) for key, text in one.items()}
    return {**form.top, **criteria}


@pytest.fixture
def small(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "card.yaml").write_text(CARD)
    return fields(tmp_path / "card.yaml")


@pytest.mark.parametrize("path", sorted(SCORECARDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_card_that_nobody_changed_comes_back_as_it_was(path: Path) -> None:
    before, (text, now) = read_scorecard(path), CardForm.given(fields(path)).checked()
    assert (now.criteria, now.sha256) == (before.criteria, before.sha256)
    assert (now.name, now.version, now.institution) == (before.name, before.version, before.institution)
    assert now.prescriptions_gy == before.prescriptions_gy
    for key in ("site", "description"):
        assert CardForm.read(path).top[key] in " ".join(text.split())


def test_a_card_of_the_older_version_is_opened_with_todays_names(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text(OLD)
    text, card = CardForm.given(fields(tmp_path / "old.yaml")).checked()
    assert "schema: rt-scorecard/2" in text
    assert "fractions: 35" in text
    assert card.criteria == parse_scorecard(OLD).criteria
    assert card.prescriptions_gy == {"PTV_7000": 70.0}


def test_what_was_changed_is_what_is_read_and_shown_again(small: dict[str, str], tmp_path: Path) -> None:
    given = {**small, "2.structure": "ring PTV_High 5-20 mm", "2.points": "10:1 , 30.5:0", "2.constraint": "60"}
    given |= {"4.id": "new", "4.structure": "Parotid_L, Parotid_R", "4.reduce": "max", "4.metric": "D0.1cc"}
    given |= {
        "2.prescription": "PTV_Low",
        "4.unit": "Gy",
        "4.direction": "lower",
        "4.weight": "1e0",
        "4.points": "1: 1, 2: 0",
    }
    text, card = CardForm.given(given).checked()
    (tmp_path / "saved.yaml").write_text(text)
    assert CardForm.given(fields(tmp_path / "saved.yaml")).checked() == (text, card)
    assert card.criteria[1].prescription == "PTV_Low"
    ring, new = card.criteria[1], card.criteria[3]
    assert ring.regions[0].label == "ring PTV_High 5-20 mm"
    assert (ring.points, ring.constraint) == (((10.0, 1.0), (30.5, 0.0)), 60.0)
    assert ([r.structure for r in new.regions], new.reduce, new.weight) == (["Parotid_L", "Parotid_R"], "max", 1.0)


@pytest.mark.parametrize(
    ("field", "value", "words", "blamed"),
    [
        ("1.points", "90: 0, 80: 2", "criterion 1, d95, points[2]: values must rise", "1.points"),
        ("1.points", "90", "criterion 1, d95, points: expected at least two points", "1.points"),
        ("1.points", "90 0, 100 2", "criterion 1, d95, points[1]: expected [value, points]", "1.points"),
        ("2.points", "", "criterion 2, larynx: key 'points' is missing", "2.points"),
        ("2.weight", "one", "criterion 2, larynx, weight: 'one': expected a number", "2.weight"),
        ("2.weight", "inf", "criterion 2, larynx, weight: inf: expected a number", "2.weight"),
        ("2.weight", "1e999", "criterion 2, larynx, weight: 1e999: expected a number", "2.weight"),
        ("2.structure", "Gizzard", "criterion 2, larynx, structure: unknown structure 'Gizzard'", "2.structure"),
        ("2.structure", "Larynx,", "criterion 2, larynx, structure[2]: expected a text", "2.structure"),
        ("2.structure", "Larynx, Body", "criterion 2, larynx, structure: several structures need", "2.structure"),
        ("2.structure", "ring PTV_High 20-5 mm", "criterion 2, larynx, structure.to_mm: 5: expected", "2.structure"),
        ("2.metric", "D95", "criterion 2, larynx, metric: metric 'D95' is unknown", "2.metric"),
        ("2.unit", "%", "criterion 2, larynx, unit: '%': Mean is given in Gy or %Rx", "2.unit"),
        ("1.constraint", "x", "criterion 1, d95, constraint.at_least: 'x': expected a number", "1.constraint"),
        ("2.id", "d95", "criterion 2, d95: id 'd95' appears twice", ""),
        ("name", "", "key 'name' is missing", "name"),
        ("version", "", "key 'version' is missing", "version"),
        ("prescription_gy", "PTV_7000", "prescription_gy: expected keys and values", "prescription_gy"),
        ("prescription_gy", "PTV_7000: x", "prescription_gy.PTV_7000: 'x': expected a number", "prescription_gy"),
    ],
)
def test_a_fault_names_criterion_and_field(
    small: dict[str, str], field: str, value: str, words: str, blamed: str
) -> None:
    with pytest.raises(CardError) as caught:
        CardForm.given({**small, field: value}).checked()
    assert str(caught.value).startswith(words)
    assert caught.value.field == blamed


def test_a_card_without_criteria_is_refused(small: dict[str, str]) -> None:
    with pytest.raises(CardError, match="metrics: no criterion"):
        CardForm.given({key: text for key, text in small.items() if "." not in key}).checked()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schema", "x"),
        ("0.id", "x"),
        (f"{MOST_CRITERIA + 1}.id", "x"),
        ("1.regions", "x"),
        ("1.id.x", "x"),
        ("__proto__", "x"),
        ("1.id", "x" * 2001),
        ("1.id", "a\x00b"),
        ("1.id", "\ud800"),
        ("1.id", "\u202egnp"),
    ],
)
def test_what_no_form_has_is_refused(small: dict[str, str], key: str, value: str) -> None:
    with pytest.raises(InputError):
        CardForm.given({**small, key: value})


@pytest.mark.parametrize(
    "evil", ["]: {x: !!python/object:os.system y}", "*anchor", "'\"#, {[", "a\n- b: c", "no", "1", "ü: ñ", "---"]
)
def test_yaml_in_a_text_stays_a_text(small: dict[str, str], evil: str) -> None:
    given = {**small, "1.id": evil, "1.source": evil, "name": evil, "description": evil}
    card = CardForm.given(given).checked()[1]
    one = " ".join(evil.split())
    assert (card.name, card.criteria[0].id, card.criteria[0].source) == (one, one, one)
    assert set(CRITERION) >= {key.partition(".")[2] for key in small if key.startswith("1.")}
