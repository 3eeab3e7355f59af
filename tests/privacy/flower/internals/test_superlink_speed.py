"""The lighter SuperLink on a real database: large pages, rare looks at leases, no count of traffic, fewer layers."""

import subprocess
import sys
from pathlib import Path

import pytest

# A process of its own: the settings hold for all that comes after them.
PROGRAM = """
import sqlite3, sys
from flwr.superlink.federation import NoOpFederationManager
from privacy.flower.internals import superlink_speed as speed

speed.store_large_parts()
from flwr.supercore.corestate.sql_corestate import SqlCoreState
looks = []
SqlCoreState._cleanup_expired_task_tokens = lambda state: looks.append(state)
speed.look_for_lapsed_leases_at_times()
speed.count_no_traffic()

from flwr.superlink.config_loader import get_objectstore_linkstate_factories
_, states = get_objectstore_linkstate_factories(sys.argv[1], NoOpFederationManager())
state = states.state()
for _ in range(20):
    state.get_run_status({1})
assert len(looks) == 1, looks
state.store_traffic(1, bytes_sent=5, bytes_recv=0)  # Flower's own raises: there is no such run
connection = sqlite3.connect(sys.argv[1])
assert connection.execute("PRAGMA page_size").fetchone() == (65536,)
assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)

from flwr.superlink.main import create_app
application = create_app()
before = [layer.cls.__name__ for layer in application.user_middleware]
speed.without_idle_layers(application)
after = [layer.cls.__name__ for layer in application.user_middleware]
kept = {"BaseHTTPMiddleware", "ControlAuthenticationMiddleware", "ProtobufTranslationMiddleware", "NodeAuthMiddleware"}
assert set(after) == kept, after
assert len(before) - len(after) == 4, before
"""


def test_the_settings_take_hold(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "state.db")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_leases_are_looked_at_again_once_their_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    from flwr.supercore.corestate.sql_corestate import SqlCoreState

    from privacy.flower.internals import superlink_speed as speed

    looks: list[object] = []
    monkeypatch.setattr(SqlCoreState, "_cleanup_expired_task_tokens", lambda state: looks.append(state))
    monkeypatch.setattr(speed, "LEASES_EVERY_S", 0.0)
    speed.look_for_lapsed_leases_at_times()
    look = SqlCoreState._cleanup_expired_task_tokens
    look("state")  # type: ignore[arg-type]
    look("state")  # type: ignore[arg-type]
    assert len(looks) == 2
