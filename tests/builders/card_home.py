"""A hospital's folder with seven small patients and scorecards to edit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.setup import enrol
from client.site.home import ClientHome
from tests.builders.consortium import Consortium
from tests.builders.phantom_patients import write_site

CARD = """\
schema: rt-scorecard/2
name: small
version: "1.0"
description: of tests
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: "%Rx", direction: higher, weight: 2, limit: 99,
    points: [[90, 0], [95, 1.5], [100, 2]], constraint: {at_least: 90}, source: ours}
  - {id: larynx, structure: Larynx, metric: Mean, unit: Gy, direction: lower, weight: 1, points: [[10, 1], [30, 0]]}
  - {id: cord, structure: SpinalCord, metric: Max, unit: Gy, direction: lower, weight: 1, points: [[0, 1], [70, 0]]}
"""


def card_home(folder: Path) -> ClientHome:
    """A site, not admitted anywhere, whose patients are those of tests/builders/phantom_patients.py."""
    replace(write_site(folder / "cases"), site="north").save(folder / "site.yaml")
    data = enrol.Data(kind="", root=None, site_config=folder / "site.yaml")
    return enrol.make_home(Consortium().invitation("north"), folder / "north", data)
