"""Tables of docs/results that come with their trials: what the trials say is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from simulations.faults.hostile import requests
from simulations.faults.run import run_faults
from simulations.faults.scenarios import scenarios
from simulations.reports.ablation import AblationTrial, table_markdown
from simulations.reports.by_hospital import hospitals_markdown
from simulations.series.variants import VariantList
from simulations.settings.faults import faults_settings

RESULTS = Path(__file__).parents[3] / "docs" / "results"


@pytest.mark.parametrize(
    ("page", "series"),
    [
        ("federated.md", "hospitals/random"),
        ("federated.md", "hospitals/phantom"),
        ("federated.md", "hospitals/hour"),
        ("strategies.md", "strategies"),
        ("studies.md", "new_clinic"),
        ("studies.md", "adapters"),
        ("studies.md", "uneven"),
        ("studies.md", "missing_modality"),
        ("studies.md", "data_sizes"),
        ("strategies.md", "strategies/patients"),
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


def test_the_page_of_faults_has_the_labs_rows_and_says_what_two_of_them_come_to(tmp_path: Path) -> None:
    settings = faults_settings(["faults=[nan]", f"out={tmp_path}"])
    sites = [f"site-{i + 1}" for i in range(settings.sites)]
    rows = scenarios(settings.seed, sites, settings.rounds, settings.deadline_s)
    first = [[row.name, row.what] for row in rows] + [[what] for what in requests(np.zeros(settings.size, np.float32))]
    page = [_cells(line) for line in (RESULTS / "faults.md").read_text().splitlines() if line.startswith("| ")]
    page = [cells for cells in page if cells[0] not in ("fault", "a hostile coordinator asks for")]
    assert [cells[:2] if len(cells) > 2 else cells[:1] for cells in page] == first
    run_faults(settings)
    found = [_cells(line) for line in (tmp_path / "faults.md").read_text().splitlines() if line.startswith("| ")]
    for cells in (found[1], found[2]):  # healthy and nan
        # all but the vector's hash, which another machine's floats may change
        assert [cell for at, cell in enumerate(cells) if at != 6] in [[*row[:6], *row[7:]] for row in page]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
