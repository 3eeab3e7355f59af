"""Bad cards are refused with the line and the key at fault; foreign layouts are read or refused likewise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from shared_model.core.errors import InputError
from shared_model.scoring.scorecard_import import import_scorecard
from shared_model.scoring.scorecard_read import parse_scorecard, read_scorecard

CARD = """\
schema: rt-scorecard/2
name: small
version: "1.0"
metrics:
  - id: d95
    structure: PTV_7000
    metric: D95%
    unit: Gy
    direction: higher
    weight: 10
    points: [[60, 0], [66, 6], [70, 10]]
    constraint: {at_least: 66}
  - id: larynx
    structure: Larynx
    metric: Mean
    unit: Gy
    direction: lower
    weight: 30
    points:
      - [20, 30]
      - [40, 0]
"""

BAD = {
    "unknown structure": ("structure: Larynx", "structure: Larinx", 14, "unknown structure 'Larinx'"),
    "non-monotone map": ("[66, 6]", "[66, 11]", 11, "expected a number from 0 to 10"),
    "map that falls": ("[60, 0], [66, 6]", "[60, 7], [66, 6]", 11, "not monotone"),
    "map that rises": ("- [20, 30]", "- [20, 10]\n      - [30, 30]", 21, "points rise although less is better"),
    "values that do not rise": ("- [40, 0]", "- [20, 0]", 21, "values must rise"),
    "negative weight": ("weight: 30", "weight: -30", 18, "-30: expected a number above 0"),
    "missing unit": ("    unit: Gy\n    direction: lower\n", "    direction: lower\n", 13, "key 'unit' is missing"),
    "wrong unit": ("unit: Gy\n    direction: lower", "unit: cc\n    direction: lower", 16, "given in Gy or %Rx"),
    "unknown metric": ("metric: Mean", "metric: Meen", 15, "metric 'Meen' is unknown"),
    "metric beyond 100 %": ("D95%", "D195%", 7, "expected a number above 0, up to 100"),
    "constraint against the direction": ("{at_least: 66}", "{at_most: 66}", 12, "does not fit direction higher"),
    "constraint beyond any dose": ("{at_least: 66}", "{at_least: 660}", 12, "660: expected a number from 0 to 200"),
    "unknown key": ("    weight: 30", "    wieght: 30", 18, "unknown key"),
    "direction": ("direction: lower", "direction: down", 17, "expected higher or lower"),
    "number as text": ("weight: 30", 'weight: "30"', 18, "expected a number"),
    "not a number": ("weight: 30", "weight: .nan", 18, "expected a number"),
    "schema": ("rt-scorecard/2", "rt-scorecard/9", 1, "expected one of rt-scorecard/1, rt-scorecard/2"),
    "no version": ('version: "1.0"\n', "", 1, "key 'version' is missing"),
    "key twice": ("name: small", "name: small\nname: other", 3, "appears twice"),
    "id twice": ("id: larynx", "id: d95", 13, "id 'd95' appears twice"),
    "one point": ("      - [40, 0]\n", "", 20, "at least two points"),
    "not YAML": ("unit: Gy", "unit: [Gy", 9, "not YAML"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_card_is_refused_with_its_line(what: str, tmp_path: Path) -> None:
    old, new, line, message = BAD[what]
    assert old in CARD
    path = tmp_path / "card.yaml"
    path.write_text(CARD.replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        read_scorecard(path)
    text = str(refused.value)
    assert text.startswith(f"{path}:{line}: "), text
    assert message in text
    assert "\n" not in text


def test_constraints_that_cannot_both_hold() -> None:
    hot = CARD + (
        "  - {id: hot, structure: PTV_7000, metric: Max, unit: Gy, direction: lower, weight: 1,"
        " points: [[60, 1], [80, 0]], constraint: {at_most: 65}}\n"
    )
    with pytest.raises(InputError, match=r"card:22: metrics\[3\]: impossible: its constraint and that of d95"):
        parse_scorecard(hot, "card")
    parse_scorecard(hot.replace("at_most: 65", "at_most: 75"), "card")


def test_the_good_card_is_read() -> None:
    card = parse_scorecard(CARD)
    assert [c.id for c in card.criteria] == ["d95", "larynx"]
    assert card.criteria[0].constraint == 66.0
    assert card.sha256 == parse_scorecard(CARD.replace("name: small", "name: other")).sha256
    assert card.sha256 != parse_scorecard(CARD.replace("weight: 30", "weight: 31").replace("20, 30", "20, 31")).sha256


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"- 1", b"a: &x [*x]", b"{" * 4000, b"0" * 1_000_001])
def test_whatever_is_no_card_is_one_clear_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"card\.yaml") as refused:
        read_scorecard(path)
    assert "\n" not in str(refused.value)


def varian(**changes: object) -> dict[str, object]:
    template = {
        "Structure": {"StructureId": "PTV70"},
        "MetricType": "DoseAtVolume",
        "InputValue": 95.0,
        "InputUnit": "%",
        "OutputUnit": "cGy",
        "ScorePoints": [{"PointX": 7000, "Score": 8}, {"PointX": 6500.0, "Score": 2}, {"PointX": 6e3, "Score": 0}],
    }
    return {"TemplateName": "H&N", "ScoreTemplates": [{**template, **changes}]}


def test_a_plan_score_card_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(varian(), indent="\t"))
    card, text = import_scorecard(path, {"PTV70": "PTV_7000"})
    (criterion,) = card.criteria
    assert (criterion.label, criterion.unit, criterion.higher, criterion.weight) == ("PTV_7000 D95%", "Gy", True, 8)
    assert criterion.points == ((60.0, 0.0), (65.0, 2.0), (70.0, 8.0))
    assert parse_scorecard(text).sha256 == card.sha256


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"Structure": {"StructureId": "Larinx"}}, 6, "'Larinx' is not a TG-263 name"),
        ({"Structure": "Larynx", "MetricType": "HomogeneityIndex"}, 6, "has no counterpart here"),
        ({"Structure": "Larynx", "MetricType": "VolumeOfRegret", "OutputUnit": "cc"}, 6, "has no counterpart here"),
        ({"Structure": "Larynx", "OutputUnit": "furlong"}, 9, "expected one of Gy"),
        ({"Structure": "Larynx", "InputUnit": "furlong"}, 8, "expected one of Gy"),
    ],
)
def test_what_a_plan_score_card_cannot_bring_is_refused(
    changes: dict[str, object], line: int, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "card.json"
    path.write_text(json.dumps(varian(**changes), indent=1))
    with pytest.raises(InputError) as refused:
        import_scorecard(path)
    assert str(refused.value).startswith(f"{path}:{line}: ")
    assert message in str(refused.value)


def test_a_proknow_template_is_imported(tmp_path: Path) -> None:
    levels = [
        {"label": "IDEAL", "max": 20},
        {"label": "GOOD", "max": 26},
        {"label": "ACCEPTABLE", "max": 40},
        {"label": "NO"},
    ]
    metrics = [
        {"type": "MEAN_DOSE_ROI", "roi_name": "Parotid_L", "arg_1": None, "objectives": levels},
        {
            "type": "DOSE_VOLUME_PERCENT_ROI",
            "roi_name": "PTV_High",
            "arg_1": 95,
            "objectives": [{"label": "IDEAL", "min": 70}, {"label": "GOOD", "min": 66.5}],
        },
    ]
    path = tmp_path / "proknow.json"
    path.write_text(json.dumps({"name": "HN", "computed": metrics, "custom": []}))
    card, _ = import_scorecard(path)
    assert [(c.label, c.higher) for c in card.criteria] == [("Parotid_L Mean", False), ("PTV_High D95%", True)]
    assert card.criteria[0].points == ((20.0, 1.0), (26.0, 0.5), (40.0, 0.0))
    path.write_text(json.dumps({"computed": [{**metrics[0], "type": "INTEGRAL_DOSE_ROI"}]}, indent=1))
    with pytest.raises(InputError, match=r"proknow\.json:4: .*'INTEGRAL_DOSE_ROI' has no counterpart"):
        import_scorecard(path)
    path.write_text(json.dumps({"metrics": []}))
    with pytest.raises(InputError, match="not a scorecard: expected ScoreTemplates"):
        import_scorecard(path)
