"""A charged answer leaves at a fixed time after the request, whatever the work took."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from client.gate.spending import Account
from privacy.dp.ledger import SiteLedger
from privacy.dp.terms import PrivacyTerms
from server.config.schedule import train_task
from tests.builders.hospital_homes import CONFIG


def account(folder: Path, waited: list[float], *, hold_s: float, worked_s: float) -> Account:
    terms = PrivacyTerms(
        mode="shared", z=4.0, q=0.5, steps=10, clip=0.1, delta=1e-5, cohort=100, sites=5, survivors=5, colluders=1,
        hold_s=hold_s,
    )  # fmt: skip
    return Account(
        ledger=SiteLedger(folder=folder, delta=1e-5),
        run_id="0" * 32,
        task=train_task(CONFIG, 1, terms.to_json()),
        terms=terms,
        wait=waited.append,
        asked_at=time.monotonic() - worked_s,
    )


@pytest.mark.parametrize("worked_s", [0.0, 3.0, 59.0, 61.0, 100.0])
def test_an_answer_leaves_at_a_multiple_of_the_terms_seconds(tmp_path: Path, worked_s: float) -> None:
    waited: list[float] = []
    account(tmp_path, waited, hold_s=60.0, worked_s=worked_s).hold()
    left_after = worked_s + waited[0]
    assert waited[0] > 0.0
    assert left_after == pytest.approx(60.0 if worked_s < 60.0 else 120.0, abs=0.5)


def test_without_them_it_leaves_at_once(tmp_path: Path) -> None:
    waited: list[float] = []
    account(tmp_path, waited, hold_s=0.0, worked_s=3.0).hold()
    assert waited == []
