"""What a soak says of itself: charges against releases, who acted, and when it is a success."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

from simulations.soak import report
from simulations.soak.ledgers import SiteCharges, account, charges, sums, tries
from simulations.soak.report import Result, Row, Size

ROW = Row(
    number=1, at=12.0, round=3, fault="cut", victim="site1", expected="nobody", acted="nobody",
    back_s=40.0, rounds_meanwhile=2, said="timeout | x",
)  # fmt: skip
SIZE = Size(when="start", round=1, memory=4000.0, disk={"site1": 1.0, "coordinator": 9.0, "logs": 0.1})
RESULT = Result(
    seed=0, rounds=4, done=4, wall_s=60.0, why="", resumed=0, skipped={}, rows=(ROW,),
    accounts=(SiteCharges(site="site1", charges=4, in_sums=4, again=0, unexplained=()),), sizes=(SIZE,),
)  # fmt: skip


def ledger(folder: Path, *rounds: int) -> Path:
    (folder / "ledger.jsonl").write_text("".join(json.dumps({"round": number}) + "\n" for number in rounds))
    return folder


def test_a_round_may_be_charged_as_often_as_it_was_tried_and_no_more(tmp_path: Path) -> None:
    tried = tries([{"kind": "round_started", "round": number} for number in (1, 2, 2, 3)] + [{"kind": "notice"}])
    in_sums = sums([], {"history": [{"sites": ["a"]}, {"sites": ["a", "b"]}, {"sites": ["b"]}]})
    fair = account("a", charges(ledger(tmp_path, 1, 2, 2, 3)), tried, in_sums)
    assert fair == SiteCharges(site="a", charges=4, in_sums=2, again=1, unexplained=())
    assert account("a", charges(ledger(tmp_path, 1, 1, 2)), tried, in_sums).unexplained == (1,)
    assert charges(tmp_path / "none") == Counter()


def test_a_run_that_did_not_end_tells_by_its_events_who_is_in_a_sum() -> None:
    kinds = [("round_started", ""), ("site_done", "a"), ("round_started", ""), ("site_done", "b"), ("round_done", "")]
    assert sums([{"kind": kind, "site": site} for kind, site in kinds], {}) == [{"b"}]


def test_success_means_all_rounds_nobody_unexpected_and_no_charge_too_many() -> None:
    assert RESULT.good
    assert not replace(RESULT, done=3).good
    assert not replace(RESULT, why="the time was up").good
    assert not replace(RESULT, rows=(replace(ROW, acted="site"),)).good
    assert replace(RESULT, rows=(replace(ROW, expected="site", acted="site"),)).good
    assert not replace(RESULT, accounts=(replace(RESULT.accounts[0], unexplained=(2,)),)).good


def test_a_kind_of_fault_has_one_row_with_everybody_who_acted() -> None:
    rows = tuple(replace(ROW, number=n, acted=who, back_s=s) for n, who, s in ((1, "nobody", 4.0), (2, "site", 9.5)))
    assert "| cut | 2 | nobody | nobody 1, site 1 | 7 | 10 |" in report.lines(replace(RESULT, rows=rows))


def test_both_tables_are_written(tmp_path: Path) -> None:
    report.write(replace(RESULT, skipped={"full disk": "needs root"}), tmp_path)
    with (tmp_path / "faults.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["fault"], row["acted"], row["back_s"]) == ("cut", "nobody", "40.0")
    text = (tmp_path / "soak.md").read_text()
    assert "| cut | 1 | nobody | nobody 1 | 40 | 40 |" in text
    assert "| 1 | 12 | 3 | cut | site1 | nobody | nobody | 40 | 2 | timeout / x |" in text
    assert "| site1 | 4 | 4 | 0 | 0 |" in text
    assert "Skipped: full disk (needs root)." in text
    assert "| start | 1 | 4000 | 9.0 | 1.00 | 0.10 |" in text
