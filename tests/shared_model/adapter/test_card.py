import json

import pytest

from shared_model.adapter.card import adapter_card, card_bytes, public_card, start_record
from shared_model.network.spec import ModelSpec

REPORT = {
    "name": "first",
    "seed": 3,
    "rounds": 2,
    "sites": {"south": 4, "north": 2},
    "privacy": {"mode": "none"},
}
ADAPTER = {"sha256": "a" * 64, "file_sha256": "b" * 64, "numbers": 10, "manifest": "c" * 64}


def card() -> dict:
    spec = ModelSpec(prior="none", base="none")
    return adapter_card(spec, ADAPTER, REPORT, {"dose_score_gy": 6.5}, "2026-11-22T10:00:00+00:00")


def test_it_says_what_a_user_of_the_adapter_must_know() -> None:
    made = card()
    assert made["prior"] == {"name": "none", "sha256": "none:0"}
    assert made["normalisation"]["dose"] == {"mean": 8.0, "sd": 18.0}
    assert made["modalities"][0] in made["normalisation"]
    assert (made["patients"], made["metrics"], made["adapter"]) == (6, {"dose_score_gy": 6.5}, ADAPTER)
    assert "No differential privacy" in made["privacy"]["statement"]
    assert {"python", "torch", "flwr", "fedkt3d"} <= set(made["versions"])
    assert json.loads(card_bytes(made)) == made


PRIVATE = {"mode": "shared", "epsilon": 1.0}
FIRST = {"sites": {"north": 2, "south": 5}, "patients": 7}


def statement(start: dict | None, privacy: dict = PRIVATE) -> str:
    report = {**REPORT, "privacy": privacy, **({} if start is None else {"start": start})}
    made = adapter_card(ModelSpec(prior="none", base="none"), ADAPTER, report, {}, "2026-11-22T10:00:00+00:00")
    assert made.get("start") == start
    assert not any(name in card_bytes(public_card(made)) for name in (b"north", b"south"))
    return made["privacy"]["statement"]


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({**FIRST, "privacy": {"mode": "none"}}, "by its card 7 patients of 2 sites, with no differential privacy"),
        ({**FIRST, "privacy": {"mode": "local", "epsilon": 2.5}}, "mode local, epsilon 2.5, which adds to that of"),
        ({}, "no card says what it was trained on"),
        ({"privacy": "odd", "sites": 3}, "no card says what it was trained on"),
    ],
)
def test_a_private_card_says_what_the_run_began_with_and_that_it_is_not_covered(card: dict, words: str) -> None:
    said = statement(start_record("e" * 64, card))
    assert "began with the adapter eeeeeeeeeeee, whose own training is not covered" in said
    assert words in said


def test_what_a_start_itself_began_with_is_said_too() -> None:
    plain = start_record("d" * 64, {**FIRST, "privacy": {"mode": "none"}})
    between = start_record("e" * 64, {**FIRST, "privacy": PRIVATE, "start": plain})
    said = statement(between)
    assert "mode shared, epsilon 1.0" in said
    assert "That one began with the adapter dddddddddddd" in said
    assert "no differential privacy" in said


def test_without_a_start_or_without_privacy_nothing_is_added() -> None:
    assert "began" not in statement(None)
    assert "began" not in statement(start_record("e" * 64, {}), {"mode": "none"})


def test_the_public_card_names_no_site_and_keeps_the_numbers() -> None:
    of_an_earlier_version = {"base": {"sites": {"north": 2, "west": 1}, "patients": 3}}
    told = public_card(card() | of_an_earlier_version)
    assert told["sites"] == {"site-1": 2, "site-2": 4}
    text = card_bytes(told)
    assert not any(name in text for name in (b"north", b"south", b"west"))
