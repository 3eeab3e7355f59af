"""What Prometheus reads: the state of `server status`, and no more often than every few seconds."""

from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from privacy.flower.processes import free_loopback_port
from server.deployment.home import ServerHome, create
from server.runs import metrics
from shared_model.core.errors import InputError

STATE = {
    "running": True,
    "ready": False,
    "sites": {"north": {"status": "online"}, "south": {"status": "offline"}, "west": {"status": "unknown"}},
    "runs": [
        {"name": "first", "status": "finished:completed", "round": None, "rounds": None, "sites": []},
        {"name": "first", "status": "running", "round": 3, "rounds": 9, "sites": ["north"]},
        {"name": "old", "status": "finished:failed", "round": 2, "rounds": 2, "sites": ["north", "south"]},
    ],
}


@pytest.fixture
def home(tmp_path: Path) -> ServerHome:
    return create("cons", tmp_path / "c", "127.0.0.1", 9092, 9093, [])


def scraped(port: int) -> dict[tuple[str, str], float]:
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).raise_for_status().text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, "".join(sample.labels.values())): sample.value for sample in samples}


def test_a_scrape_shows_the_state(home: ServerHome, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[ServerHome] = []
    monkeypatch.setattr(metrics, "report", lambda of: (asked.append(of), STATE)[1])
    port = free_loopback_port()
    server, _ = metrics.serve(home, "127.0.0.1", port)
    try:
        found = scraped(port)
        scraped(port)
        with pytest.raises(InputError, match="--port"):
            metrics.serve(home, "127.0.0.1", port)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == [home]
    free, end = (
        found.pop(("fedkt3d_disk_free_bytes", "")),
        found.pop(("fedkt3d_tls_certificate_end_timestamp_seconds", "")),
    )
    assert free > 0
    assert end > 1.8e9
    assert found == {
        ("fedkt3d_up", ""): 1,
        ("fedkt3d_ready", ""): 0,
        ("fedkt3d_site_online", "north"): 1,
        ("fedkt3d_site_online", "south"): 0,
        ("fedkt3d_run_round", "first"): 3,
        ("fedkt3d_run_round", "old"): 2,
        ("fedkt3d_run_rounds", "first"): 9,
        ("fedkt3d_run_rounds", "old"): 2,
        ("fedkt3d_run_sites", "first"): 1,
        ("fedkt3d_run_sites", "old"): 2,
        ("fedkt3d_run_active", "first"): 1,
        ("fedkt3d_run_active", "old"): 0,
    }


def test_a_coordinator_that_is_not_running_is_seen_as_down(home: ServerHome) -> None:
    families = {family.name: family for family in metrics.CoordinatorMetrics(home).collect()}
    assert families["fedkt3d_up"].samples[0].value == 0
    assert families["fedkt3d_site_online"].samples == []
