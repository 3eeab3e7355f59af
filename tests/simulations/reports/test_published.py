"""The tables of docs/results/federated.md come with their trials: what the trials say is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.reports.ablation import AblationTrial, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.series.variants import VariantList

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize("series", ["4", "8"])
def test_the_page_says_what_its_trials_say(series: str) -> None:
    listed = VariantList.read("hospitals")
    trials = [
        AblationTrial.read(path.parts[-3], int(path.parts[-2].removeprefix("seed")), json.loads(path.read_text()))
        for path in sorted((RESULTS / "trials" / "hospitals" / series).glob("*/seed*/ablation.json"))
    ]
    assert trials, "no trials"
    text = (RESULTS / "federated.md").read_text()
    table = table_markdown(listed.rows, listed.reference, trials)
    table += hospitals_markdown(listed.rows, listed.reference, trials)
    for line in table.splitlines():
        assert not line.startswith("|") or line in text, f"federated.md lacks: {line}"
