"""Either end may be of the version before: real processes of two copies of the software work in one run.

The older copy is this one, without the newest message schema. So what is tested is that the two
find a schema that both know, in either direction.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

HOUSE = Path(__file__).parents[2]
PACKAGES = ("client", "server", "privacy", "shared_model", "simulations")
NOW, BEFORE = "SCHEMA, OLDEST_SCHEMA = 3, 1", "SCHEMA, OLDEST_SCHEMA = 2, 1"


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the software that knows the schemas up to 2."""
    folder = tmp_path_factory.mktemp("older")
    for name in PACKAGES:
        shutil.copytree(HOUSE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    heads = folder / "privacy" / "wire" / "heads.py"
    text = heads.read_text()
    assert NOW in text
    heads.write_text(text.replace(NOW, BEFORE))
    return folder


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Deployment]:
    deployment = Deployment(tmp_path)
    try:
        yield deployment
    finally:
        deployment.close()


@pytest.mark.parametrize("old", ["site", "coordinator"])
def test_one_end_may_be_of_the_version_before(
    federation: Deployment, older: Path, hospitals: dict[str, Path], old: str
) -> None:
    newer = dict(federation._environment)
    before = {**newer, "PYTHONPATH": os.pathsep.join([str(older), newer.get("PYTHONPATH", "")])}
    federation._environment = before if old == "coordinator" else newer
    federation.start_coordinator()
    federation._environment = newer
    for name in ("north", "south"):
        federation.admit(name, federation.make_site(name, hospitals[name]))
        federation._environment = before if (old, name) == ("site", "south") else newer
        federation.spawn("client", federation.site(name))
        federation._environment = newer
    for name in ("north", "south"):
        federation.connected(name)
    report = federation.run(*FAST, "name=mixed", "rounds.count=2", timeout_s=500)["report"]
    assert [sorted(entry["sites"]) for entry in report["history"]] == [["north", "south"]] * 2
    assert report["drops"] == []
