"""Federated statistics over TLS: three hospitals' noised counts, once, charged to each ledger, and in the card."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared_model.adapter.envelope import Envelope
from shared_model.adapter.manifest import load_adapter
from tests.e2e.conftest import TINY
from tests.e2e.deployment import Deployment, change_policy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

NAMES = ("north", "south", "east")
RUN = (
    "name=counted",
    "privacy.mode=shared",
    "privacy.epsilon=10000",  # so little noise that six patients can be counted: the path is what is tested
    "privacy.statistics=99",
    "privacy.cohort=6",
    "rounds.count=1",
    *TINY,
)


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[tuple[Deployment, Any]]:
    """The federation, and what its run of one round told."""
    deployment = Deployment(tmp_path_factory.mktemp("statistics"))
    try:
        deployment.start_coordinator()
        for name in NAMES:
            deployment.admit(name, deployment.make_site(name, hospitals[name], "shared"))
        deployment.must("server", "plan", "--home", deployment.home, *RUN)
        for name in NAMES:
            change_policy(deployment.site(name), "max_epsilon: 8.0", "max_epsilon: 20000.0")
            change_policy(deployment.site(name), "max_epsilon_alone: 60.0", "max_epsilon_alone: 1000000.0")
            plan = deployment.home / "plan.json"
            deployment.must("client", "plan", "--home", deployment.site(name), "--accept", plan)
            deployment.spawn("client", deployment.site(name))
        for name in NAMES:
            deployment.connected(name)
        yield deployment, deployment.run(*RUN)["report"]
    finally:
        deployment.close()


def test_the_card_has_the_ranges_of_the_cohort(counted: tuple[Deployment, Any]) -> None:
    deployment, report = counted
    statistics = report["privacy"]["statistics"]
    assert statistics["releases"] == 1
    assert statistics["failed"] == ""
    assert 0 < statistics["epsilon"] <= 99.0
    _, _, card = load_adapter(deployment.home / "runs" / "counted" / "adapter.safetensors")
    ranges = Envelope.from_card(card)
    assert ranges is not None
    assert ranges.patients == 6
    low, high = ranges.ranges["prescription_gy"]
    assert low <= 70.0 <= high


def test_each_hospitals_ledger_was_charged_for_it_once(counted: tuple[Deployment, Any]) -> None:
    deployment, _ = counted
    for name in NAMES:
        told = json.loads(deployment.must("client", "budget", "--home", deployment.site(name), "--json"))
        assert sorted((purpose, count) for _, purpose, count in told["runs"]) == [("shared", 1), ("statistics", 1)]


def test_the_log_and_the_sum_give_the_published_ranges(counted: tuple[Deployment, Any], tmp_path: Path) -> None:
    deployment, _ = counted
    verify = ("server", "verify", "--home", deployment.home, "--run", "counted")
    deployment.must("server", "publish", tmp_path / "published", "--home", deployment.home, "--run", "counted")
    heads = tmp_path / "north.heads"
    held = deployment.must("client", "verify", "--home", deployment.site("north"), "--heads", heads)
    assert "statistics: in the log\n" in held
    said = deployment.must(*verify, "--heads", heads)
    assert "statistics: computed again from the sum of 3 sites, they give the card's ranges" in said
    assert "CONTRADICTION" not in said
    card = deployment.home / "runs" / "counted" / "adapter.json"
    honest = card.read_text()
    content = json.loads(honest)
    content["trained_on"]["ranges"]["prescription_gy"] = [1.5, 99.0]
    card.write_text(json.dumps(content))
    found = deployment.command(*verify)
    card.write_text(honest)
    assert found.returncode == 1
    assert "CONTRADICTION: statistics: prescription_gy: the card has 1.5, 99.0, the sum gives " in found.stdout
    deployment.must(*verify)


def test_hospitals_can_dispute_the_counts_as_any_sum(counted: tuple[Deployment, Any], tmp_path: Path) -> None:
    deployment, _ = counted
    signed = tmp_path / "signed.json"
    dispute = ("server", "dispute", "0", "--home", deployment.home, "--run", "counted")
    deployment.must(*dispute, "--out", signed)
    openings: list[str | Path] = []
    for name in NAMES:
        opening = tmp_path / f"{name}.opening"
        deployment.must("client", "dispute", signed, "--home", deployment.site(name), "--open", opening)
        openings += ["--opening", opening]
    assert json.loads(deployment.must(*dispute, "--json", *openings))["whole"] is True
