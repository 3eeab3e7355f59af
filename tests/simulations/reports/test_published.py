"""Tables of docs/results that come with their trials: what the trials say is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.reports.ablation import AblationTrial, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.series.variants import VariantList

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize(
    ("page", "series"),
    [
        ("federated.md", "hospitals/4"),
        ("federated.md", "hospitals/8"),
        ("federated.md", "hospitals/4_phantom"),
        ("strategies.md", "strategies"),
        ("knowledge_transfer.md", "priors"),
    ],
)
def test_the_page_says_what_its_trials_say(page: str, series: str) -> None:
    listed = VariantList.read(series.partition("/")[0])
    trials = [
        AblationTrial.read(path.parts[-3], int(path.parts[-2].removeprefix("seed")), json.loads(path.read_text()))
        for path in sorted((RESULTS / "trials" / series).glob("*/seed*/ablation.json"))
    ]
    assert trials, "no trials"
    text = (RESULTS / page).read_text()
    table = table_markdown(listed.rows, listed.reference, trials)
    table += hospitals_markdown(listed.rows, listed.reference, trials)
    for line in table.splitlines():
        assert not line.startswith("|") or line in text, f"{page} lacks: {line}"
