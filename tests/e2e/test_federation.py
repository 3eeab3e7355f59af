"""Two hospitals and a coordinator over TLS, by the console scripts alone: the federation that everything is for."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from client.site.config import SiteConfig
from shared_model.adapter.manifest import load_adapter, vector_hash
from simulations.engine.run import run_local
from tests.e2e.conftest import FAST, renamed
from tests.e2e.deployment import Deployment, alive, eventually, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def first(federation: Deployment) -> dict[str, object]:
    """The outcome of the first run, which the tests below look at from several sides."""
    return federation.run("name=first", "rounds.count=2", *FAST)


def test_two_rounds_give_an_adapter_and_name_both_sites(first: dict[str, dict]) -> None:
    report = first["report"]
    assert report["sites"] == {"north": 2, "south": 2}
    assert [(entry["round"], sorted(entry["sites"])) for entry in report["history"]] == [
        (1, ["north", "south"]),
        (2, ["north", "south"]),
    ]
    assert report["drops"] == []
    assert all(entry["evaluation"]["metrics"]["dose_score_gy"] > 0 for entry in report["history"])
    _, vector, card = load_adapter(Path(str(first["adapter"])))
    assert vector_hash(vector) == report["adapter_sha256"]
    assert card["sites"] == report["sites"]


def test_the_deployment_gives_the_simulations_adapter_bit_for_bit(
    first: dict[str, dict], hospitals: dict[str, Path], tmp_path: Path
) -> None:
    from client.app import app as client_app
    from server.app import federate, run_config
    from server.config.run import RunConfig

    config = RunConfig.from_json(json.dumps(first["report"]["config"]))
    nodes = [{"site-config": str(hospitals[name])} for name in ("south", "north")]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as the sites' configurations say; float sums are split among threads
    try:
        run_local(client_app, federate, nodes, run_config(config, tmp_path), workers=1)
    finally:
        torch.set_num_threads(before)
    assert read(tmp_path / "federation.json")["adapter_sha256"] == first["report"]["adapter_sha256"]


def test_the_same_command_again_resumes_and_another_configuration_is_refused(
    federation: Deployment, first: dict[str, dict]
) -> None:
    again = federation.run("name=first", "rounds.count=2", *FAST)
    assert again["report"]["resumed_from"] == 2
    assert again["report"]["adapter_sha256"] == first["report"]["adapter_sha256"]
    before = Path(str(first["adapter"])).read_bytes()
    other = federation.command("server", "run", "--home", federation.home, "name=first", "seed=1", *FAST)
    assert other.returncode == 2, other.stderr
    assert other.stderr.count("\n") == 1
    assert Path(str(first["adapter"])).read_bytes() == before


def test_status_speaks_on_both_sides(federation: Deployment, first: dict[str, dict]) -> None:
    server = json.loads(federation.must("server", "status", "--home", federation.home, "--json"))
    assert server["ready"]
    assert {name: site["status"] for name, site in server["sites"].items()} == {"north": "online", "south": "online"}
    # The command was given three times, the last time with another configuration, which was refused.
    *done, last = (run for run in server["runs"] if run["name"] == "first")
    assert done[0]["run_id"] == first["run_id"]
    assert [(run["status"], run["reason"]) for run in done] == [
        ("finished:completed", f"went on as {last['run_id']}")
    ] * 2
    assert (last["status"], last["round"], last["rounds"]) == ("finished:failed", 2, 2)
    assert sorted(last["sites"]) == ["north", "south"]
    site = federation.status("north")
    assert (site["site"], site["connection"], site["executor"]["state"]) == ("north", "connected", "idle")
    assert site["executor"]["tasks_done"] >= 5
    assert site["executor"]["tasks_failed"] == 0


def test_bad_input_is_one_line_and_exit_code_2(federation: Deployment, hospitals: dict[str, Path]) -> None:
    north = federation.site("north")
    invitation = federation.folder / "north.invitation"
    elsewhere = ("--home", federation.folder / "x")
    for arguments in (
        ("server", "start", "--home", federation.home),
        ("client", "start", "--home", north),
        ("server", "init", "again", "--home", federation.home),
        ("server", "invite", "north", "--home", federation.home, "--out", federation.folder / "again"),
        ("client", "init", invitation, "--home", north, "--site-config", hospitals["north"]),
        ("client", "init", invitation, *elsewhere, "--site-config", "/nowhere.yaml"),
        ("client", "init", invitation, *elsewhere, "--site-config", hospitals["south"]),
        ("client", "init", north / "client.json", *elsewhere, "--data-root", federation.folder),
        ("server", "admit", north / "north.csr.json", "--home", federation.home),
        ("server", "admit", north / "keys" / "node", "--home", federation.home),
        ("client", "plan", "--home", north),
        ("server", "run", "--home", federation.home, "rounds.coutn=1"),
        ("server", "run", "--home", federation.folder / "x"),
        ("server", "status"),
        ("client", "dance"),
    ):
        result = federation.command(*arguments)
        assert result.returncode == 2, (arguments, result)
        assert result.stdout == ""
        assert result.stderr.count("\n") == 1, result.stderr


def test_a_killed_executor_comes_back_and_works(federation: Deployment, first: dict[str, dict]) -> None:
    before = federation.children(federation.site("south"))["executor"]
    os.kill(before, signal.SIGKILL)
    eventually(
        lambda: federation.children(federation.site("south")).get("executor", before) != before, 20, "a new executor"
    )
    after = federation.run("name=after-kill", "rounds.count=1", *FAST)
    assert sorted(after["report"]["history"][0]["sites"]) == ["north", "south"]


def test_no_secret_and_no_private_key_is_in_a_log_or_a_result(federation: Deployment, first: dict[str, dict]) -> None:
    secrets = [(federation.home / "secrets" / name).read_text() for name in ("control", "superexec")]
    for name in ("north", "south"):
        secrets.append((federation.site(name) / "secrets" / "superexec").read_text())
    shown = [path for path in federation.folder.rglob("*") if path.suffix in (".log", ".out", ".jsonl")]
    shown += [path for path in (federation.home / "runs").rglob("*") if path.is_file()]
    shown += list((federation.home / "app").rglob("*.toml"))
    assert len(shown) > 10
    for path in shown:
        content = path.read_bytes()
        assert b"PRIVATE KEY" not in content, path
        assert not any(secret.encode() in content for secret in secrets), path


def test_a_stopped_or_killed_site_leaves_no_process(
    federation: Deployment, first: dict[str, dict], hospitals: dict[str, Path], tmp_path: Path
) -> None:
    for number, end in ((1, signal.SIGTERM), (2, signal.SIGINT), (3, signal.SIGKILL)):
        name = f"east{number}"
        process = federation.join(name, renamed(hospitals["east"], name, tmp_path))
        federation.connected(name)
        pids = list(federation.children(federation.site(name)).values())
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        process.send_signal(end)
        code = process.wait(30)
        assert code == (-signal.SIGKILL if end == signal.SIGKILL else 0)
        eventually(lambda pids=pids: not any(alive(pid) for pid in pids), 30, f"{name} is gone")
        assert not federation.status(name)["running"]


@pytest.mark.skipif("FEDKT3D_OPENKBP" not in os.environ, reason="FEDKT3D_OPENKBP names no OpenKBP data")
def test_two_real_hospitals_over_tls(tmp_path: Path) -> None:
    root = Path(os.environ["FEDKT3D_OPENKBP"]).resolve()
    partition = json.loads((root / "partitions" / "hospitals_4.json").read_text())["hospitals"]
    deployment = Deployment(tmp_path)
    try:
        deployment.start_coordinator()
        for name in ("A", "C"):
            patients = partition[name]["patients"]
            config = SiteConfig(
                site=f"clinic-{name}",
                data="openkbp",
                root=root,
                train=tuple(patients["train"][:3]),
                validation=tuple(patients["validation"][:1]),
                threads=1,
            )
            config.save(tmp_path / f"{name}.yaml")
            deployment.join(config.site, tmp_path / f"{name}.yaml")
        started = time.monotonic()
        outcome = deployment.run("name=real", "rounds.count=2", *FAST)
        print(f"two rounds on OpenKBP: {time.monotonic() - started:.1f} s")
        assert outcome["report"]["sites"] == {"clinic-A": 3, "clinic-C": 3}
        assert [len(entry["sites"]) for entry in outcome["report"]["history"]] == [2, 2]
        assert load_adapter(Path(outcome["adapter"]))[1].size > 0
    finally:
        deployment.close()
