"""The tables of docs/results that come with their trials: what the trials say is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from simulations.reports.ablation import AblationTrial, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.series.variants import VariantList

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize(("page", "folder", "name"), [("federated", "hospitals", "hospitals")])
def test_a_page_says_what_its_trials_say(page: str, folder: str, name: str) -> None:
    listed = VariantList.read(name)
    paths = sorted((RESULTS / "trials" / folder).glob("*/*/seed*/ablation.json"))
    assert paths, "no trials"
    text = (RESULTS / f"{page}.md").read_text()
    for series in {path.parents[2] for path in paths}:
        trials = [
            AblationTrial.read(
                path.parents[1].name, int(path.parent.name.removeprefix("seed")), json.loads(path.read_text())
            )
            for path in paths
            if path.parents[2] == series
        ]
        table = table_markdown(listed.rows, listed.reference, trials)
        table += hospitals_markdown(listed.rows, listed.reference, trials)
        for line in table.splitlines():
            assert not line.startswith("|") or line in text, f"{page}.md lacks: {line}"
