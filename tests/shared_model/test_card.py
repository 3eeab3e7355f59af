import json

from shared_model.card import adapter_card, card_bytes, published
from shared_model.spec import ModelSpec

REPORT = {
    "name": "first",
    "seed": 3,
    "rounds": 2,
    "sites": {"south": 4, "north": 2},
    "privacy": {"mode": "none"},
    "base": {"sites": {"north": 2, "west": 1}, "patients": 3},
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


def test_the_public_card_names_no_site_and_keeps_the_numbers() -> None:
    told = published(card())
    assert told["sites"] == {"site-1": 2, "site-2": 4}
    assert told["base"]["sites"] == {"site-1": 2, "site-3": 1}
    text = card_bytes(told)
    assert not any(name in text for name in (b"north", b"south", b"west"))
