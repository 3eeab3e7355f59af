"""A hospital whose only way out is a web proxy with a password trains like any other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from client.site.config import SiteConfig
from tests.builders.connect_proxy import ConnectProxy
from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment, eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
# No proxy is ever asked for 127.0.0.1 (processes.closed_environment), so the coordinator is elsewhere on this machine.
ELSEWHERE = "127.0.0.2"


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    ports = ("--port", str(made.port), "--control-port", str(made.control_port))
    made.must("server", "init", "consortium", "--home", made.home, *ports, "--host", ELSEWHERE)
    try:
        made.start_coordinator()
        yield made
    finally:
        made.close()


def test_a_site_behind_a_proxy_trains_and_says_when_the_proxy_refuses(
    deployment: Deployment, hospitals: dict[str, Path], tmp_path: Path
) -> None:
    with ConnectProxy("site:word") as proxy:
        paths = {}
        for name, word in (("north", "word"), ("south", "no")):
            config = replace(SiteConfig.load(hospitals[name]), proxy=f"http://site:{word}@127.0.0.1:{proxy.port}")
            paths[name] = tmp_path / f"{name}.yaml"
            config.save(paths[name])
            deployment.join(name, paths[name])
        deployment.connected("north")
        refused = eventually(lambda: deployment.status("south").get("connection_why"), 120, "the proxy's refusal")
        assert "407" in refused
        done = deployment.run("name=proxied", "rounds.count=1", "rounds.min_sites=1", *FAST)
        assert [list(record["sites"]) for record in done["report"]["history"]] == [["north"]]
        assert set(proxy.asked) == {f"{ELSEWHERE}:{deployment.port}"}
        assert proxy.carried > 1_000_000
        for log in deployment.site("south").rglob("logs/*.log"):
            assert "site:no" not in log.read_text()
