"""A hospital's folder with seven small patients, to score cards on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from client.setup import enrol
from client.site.home import ClientHome
from tests.builders.consortium import Consortium
from tests.builders.phantom_patients import write_site


def card_home(folder: Path) -> ClientHome:
    """A site, not admitted anywhere, whose patients are those of tests/builders/phantom_patients.py."""
    replace(write_site(folder / "cases"), site="north").save(folder / "site.yaml")
    data = enrol.Data(kind="", root=None, site_config=folder / "site.yaml")
    return enrol.make_home(Consortium().invitation("north"), folder / "north", data)
