"""`server verify`: a finished run is computed again from its files and held against the log; each forgery is named."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.app import InstalledTraining, client_app
from server.app import federate, run_config
from server.deployment.home import ServerHome, create
from server.record.public_log import RunLog, file_hash
from server.rounds.kept_sums import keep_sum, read_sum
from server.runs.index import remember
from server.runs.publish import publish
from server.runs.verify import Audit, audit
from server.sites.attendance import Members
from shared_model.core.errors import InputError
from simulations.engine.consortium import enrol
from simulations.engine.quadratic import write_sites
from simulations.engine.run import run_local
from tests.builders.run_config import plain_run, privacy_config, rounds_config

CONFIG = plain_run(
    name="audited",
    model={"prior": "none"},
    rounds=rounds_config(count=2, min_sites=3, evaluate_every=0, attempts=1, deadline_s=60.0),
    privacy=privacy_config(mode="masked", cohort=4, sites=3),
)


class Nudge(InstalledTraining):
    """The installed model; training only moves every value by one in 1024."""

    def train_round(self, site, spec_json, vector, task):
        return np.full_like(vector, 2.0**-10), {"loss": 1.0}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A coordinator's folder with one finished and published run."""
    folder = tmp_path_factory.mktemp("audit")
    home = create("walk", folder / "home", "127.0.0.1", 9092, 9093, [])
    out = home.folder / "runs" / "audited"
    log = RunLog(log=home.public_log(), plan="", roster=file_hash(home.roster_file.read_bytes()))
    with enrol(write_sites(folder, {"a": 1, "b": 2, "c": 1})) as (nodes, members):
        here = replace(members, log=log)
        run_local(client_app(Nudge()), lambda g, c: federate(g, c, None, here), nodes, run_config(CONFIG, out))
    remember(home, "1", CONFIG, out)
    publish(home, folder / "published", None)
    return home.folder


@pytest.fixture
def home(finished: Path, tmp_path: Path) -> ServerHome:
    shutil.copytree(finished, tmp_path / "home")
    return ServerHome.load(tmp_path / "home")


def wrong(home: ServerHome) -> str:
    return "\n".join(audit(home, None).wrong)


def lines(home: ServerHome) -> list[bytes]:
    return home.public_log().path.read_bytes().splitlines(keepends=True)


def test_an_honest_run_is_confirmed(home: ServerHome) -> None:
    found = audit(home, "audited")
    assert found.wrong == ()
    assert found.entries == 3
    assert any("computed again from its sums, the run gives this adapter" in line for line in found.right)
    assert any("published" in line for line in found.right)
    assert "CONTRADICTION" not in "\n".join(found.lines())
    assert isinstance(found, Audit)


def test_another_sum_is_named(home: ServerHome) -> None:
    out = home.folder / "runs" / "audited"
    kept = read_sum(out, 2)
    assert kept is not None
    assert kept.total is not None
    kept.total[0] += 1
    keep_sum(out, 2, kept)
    assert "round 2: the saved sum is not the one in the log" in wrong(home)


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (b'"sites":["a","b","c"]', b'"sites":["a","b"]', "other sites"),
        (b'"after":"', b'"after":"0', "does not begin where"),
        (b'"act":"round"', b'"act":"rounds"', "round 1 is not in the log"),
    ],
)
def test_a_changed_entry_is_named_by_the_heads_and_by_the_run(
    home: ServerHome, before: bytes, after: bytes, told: str
) -> None:
    home.public_log().head()
    first, *others = lines(home)
    changed = first.replace(before, after)
    if after.endswith(b'"0'):
        changed = changed.replace(after, b"X").replace(b"X", after)
        at = changed.index(after) + len(after)
        changed = changed[: at + 63] + changed[at + 64 :]  # still 64 digits
    assert changed != first
    home.public_log().path.write_bytes(b"".join([changed, *others]))
    found = wrong(home)
    assert told in found
    assert "the log does not continue its head of 3 entries" in found


def test_a_removed_round_another_adapter_and_another_roster_are_named(home: ServerHome) -> None:
    first, second, third = lines(home)
    home.public_log().path.write_bytes(first + third)
    assert "round 2 is not in the log" in wrong(home)
    home.public_log().path.write_bytes(first + second + third.replace(b'"adapter":"', b'"adapter":"f'))
    assert "is not this run's" in wrong(home)
    act = {"act": "revoke", "at": "2026-01-01T00:00:00+00:00", "roster": "0" * 64, "site": "a", "version": 2}
    text = json.dumps(act, sort_keys=True, separators=(",", ":")).encode() + b"\n"
    home.public_log().path.write_bytes(first + second + third + text)
    assert "roster.json is not the newest roster in the log" in wrong(home)


def test_a_report_with_another_adapter_is_named(home: ServerHome) -> None:
    path = home.folder / "runs" / "audited" / "federation.json"
    report = json.loads(path.read_text())
    path.write_text(json.dumps({**report, "adapter_sha256": "0" * 64}))
    assert "does not give this adapter" in wrong(home)


def test_a_run_that_is_not_finished_cannot_be_audited(home: ServerHome) -> None:
    (home.folder / "runs" / "audited" / "federation.json").unlink()
    with pytest.raises(InputError, match="no report"):
        audit(home, None)


def test_a_run_of_mode_none_is_computed_again_where_its_means_were_kept(tmp_path: Path) -> None:
    home = create("walk", tmp_path / "home", "127.0.0.1", 9092, 9093, [])
    out = home.folder / "runs" / "plain"
    plain = replace(
        CONFIG,
        name="plain",
        rounds=replace(CONFIG.rounds, keep="means"),
        aggregate=replace(CONFIG.aggregate, name="fedadam", lr=0.003),
        privacy=privacy_config(),
    )
    log = RunLog(log=home.public_log(), plan="", roster=file_hash(home.roster_file.read_bytes()))
    nodes = write_sites(tmp_path, {"a": 1, "b": 2, "c": 1})
    run_local(client_app(Nudge()), lambda g, c: federate(g, c, None, Members(log=log)), nodes, run_config(plain, out))
    remember(home, "1", plain, out)
    found = audit(home, "plain")
    assert found.wrong == ()
    assert any("computed again from its sums, the run gives this adapter" in line for line in found.right)
    kept = read_sum(out, 2)
    assert kept is not None
    assert kept.total is not None
    kept.total[0] += 1e-9
    keep_sum(out, 2, kept)
    assert "round 2: the saved sum is not the one in the log" in wrong(home)
