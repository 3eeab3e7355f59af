"""From `server init` to a run and a revocation by the console scripts alone: who gets in by which keys, and who not."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from client.site.home import ClientHome
from privacy.trust import identity, signed
from privacy.trust.membership import AdmissionRequest, Invitation
from server.deployment.control import Control
from server.deployment.home import ServerHome
from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment, change_policy, eventually, read

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

PLANNED = ("name=planned", "rounds.count=1", *FAST)


def invited(deployment: Deployment, name: str, data_root: Path, folder: str | None = None) -> Path:
    """`server invite` and `client init` with the folder of the cases; the site's home."""
    invitation = deployment.folder / f"{folder or name}.invitation"
    deployment.must("server", "invite", name, "--home", deployment.home, "--out", invitation)
    home = deployment.site(folder or name)
    deployment.must("client", "init", invitation, "--home", home, "--data-root", data_root)
    change_policy(home, "modes: [shared]", "modes: [none]")
    return home


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, hospitals: dict[str, Path]) -> Iterator[Deployment]:
    """Two hospitals that came in with a plan, accepted it, and are connected; the CA's key is off the machine."""
    deployment = Deployment(tmp_path_factory.mktemp("planned"))
    try:
        deployment.start_coordinator()
        deployment.must("server", "plan", "--home", deployment.home, *PLANNED)
        for name in ("north", "south"):
            home = invited(deployment, name, hospitals[name].parent / name)
            deployment.admit(name, home / f"{name}.csr.json")
            shown = deployment.must("client", "plan", "--home", home)
            assert "NOT accepted" in shown
            deployment.must("client", "plan", "--home", home, "--accept", home / "trust" / "offered_plan.json")
        (deployment.home / "ca" / "ca.key").rename(deployment.folder / "usb.key")
        for name in ("north", "south"):
            deployment.spawn("client", deployment.site(name))
        for name in ("north", "south"):
            deployment.connected(name)
        yield deployment
    finally:
        deployment.close()


def test_what_fits_the_plan_is_done_and_the_rest_is_refused_with_the_reason(planned: Deployment) -> None:
    report = planned.run(*PLANNED)["report"]
    assert sorted(report["history"][0]["sites"]) == ["north", "south"]
    beyond = ("name=beyond", "rounds.count=1", "rounds.attempts=1", *FAST, "train.local_steps=3")
    result = planned.command("server", "run", "--home", planned.home, *beyond, timeout_s=200)
    assert result.returncode == 1, result
    assert "local_steps at most 2" in (planned.home / "runs" / "beyond" / "events.jsonl").read_text()
    assert sorted(json.loads(planned.must("server", "status", "--home", planned.home, "--json"))["sites"]) == [
        "north",
        "south",
    ]


def test_the_authoritys_key_is_needed_for_admission_alone(planned: Deployment, hospitals: dict[str, Path]) -> None:
    home = invited(planned, "away", hospitals["east"].parent / "east")
    arguments = ("server", "admit", home / "away.csr.json", "--home", planned.home)
    result = planned.command(*arguments, "--out", planned.folder / "away.admission")
    assert result.returncode == 2
    assert "--ca-key" in result.stderr
    usb = planned.folder / "usb.key"
    planned.must(*arguments, "--ca-key", usb, "--out", planned.folder / "away.admission")
    # The same request a second time.
    again = planned.command(*arguments, "--ca-key", usb, "--out", planned.folder / "again.admission")
    assert again.returncode == 2
    assert "no open invitation" in again.stderr
    renewed = planned.folder / "renewed.admission"
    planned.must("server", "renew", "away", "--home", planned.home, "--ca-key", usb, "--out", renewed)
    planned.must("client", "join", renewed, "--home", home)
    older = planned.command("client", "join", planned.folder / "away.admission", "--home", home)
    assert older.returncode == 2
    assert "older" in older.stderr
    planned.must("server", "revoke", "away", "--home", planned.home)


def test_a_crash_between_flowers_register_and_ours_is_mended(planned: Deployment, hospitals: dict[str, Path]) -> None:
    home = invited(planned, "crashed", hospitals["east"].parent / "east")
    request = home / "crashed.csr.json"
    key = planned.folder / "crashed.pub"
    key.write_bytes(AdmissionRequest.read(request.read_bytes()).node_key + b"\n")
    node_id = Control(ServerHome.load(planned.home)).register(key)  # and then the power fails
    usb, out = planned.folder / "usb.key", planned.folder / "crashed.admission"
    made = planned.must("server", "admit", request, "--home", planned.home, "--ca-key", usb, "--out", out, "--json")
    assert json.loads(made)["node_id"] == node_id
    planned.must("server", "revoke", "crashed", "--home", planned.home)


def forms(key_file: bytes) -> list[bytes]:
    """A private key's own number as raw bytes, in hex, and in base64 at each of the three alignments."""
    load = load_ssh_private_key if b"OPENSSH" in key_file else load_pem_private_key
    key = load(key_file, None)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        number = key.private_bytes_raw()
    else:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        number = key.private_numbers().private_value.to_bytes(48, "big")
    shifted = [base64.b64encode(bytes(shift) + number)[4:-4] for shift in range(3)]
    return [number, number.hex().encode(), *shifted]


def test_no_private_key_is_anywhere_but_in_its_folder(planned: Deployment) -> None:
    expected = {planned.folder / "usb.key", planned.home / "ca" / "roster.key", planned.home / "tls" / "server.key"}
    expected.add(planned.home / "ca" / "log.key")
    for home in planned.folder.glob("site-*/"):  # folders alone
        expected |= {home / "keys" / "identity", home / "keys" / "node"}
    files = [path for path in planned.folder.rglob("*") if path.is_file()]
    contents = {path: path.read_bytes() for path in files}
    assert {path for path, content in contents.items() if b"PRIVATE KEY" in content} == expected
    for key in expected:
        assert stat.S_IMODE(key.stat().st_mode) == 0o600, key
        secret = forms(contents[key])
        assert {path for path, content in contents.items() if any(form in content for form in secret[:2])} == set()
        plain = {path: b"".join(content.split()) for path, content in contents.items()}
        assert {path for path, content in plain.items() if any(form in content for form in secret[2:])} == {key}
    codes = [json.loads(path.read_text())["code"].encode() for path in planned.folder.glob("*.invitation")]
    holders = {path for path, content in contents.items() for code in codes if code in content}
    assert holders == set(planned.folder.glob("*.invitation"))


def test_a_site_that_leaves_stops_and_does_not_start_again(planned: Deployment, hospitals: dict[str, Path]) -> None:
    home = invited(planned, "brief", hospitals["east"].parent / "east")
    out = planned.folder / "brief.admission"
    usb = planned.folder / "usb.key"
    request = home / "brief.csr.json"
    planned.must("server", "admit", request, "--home", planned.home, "--ca-key", usb, "--out", out)
    assert planned.command("client", "start", "--home", home).returncode == 2  # not joined yet
    planned.must("client", "join", out, "--home", home)
    process = planned.spawn("client", home)
    planned.connected("brief")
    public = signed.private_key((home / "keys" / "identity").read_bytes()).public_key()
    note = planned.folder / "brief.leave"
    planned.must("client", "leave", "--home", home, "--note", note, "--delete-keys")
    assert process.wait(10) == 0
    assert signed.verify("leave", note.read_bytes(), public)["site"] == "brief"
    assert list((home / "keys").iterdir()) == []
    assert planned.command("client", "start", "--home", home).returncode == 2
    planned.must("server", "revoke", "brief", "--home", planned.home)


def test_a_revoked_site_loses_access_and_its_keys_never_come_back(
    planned: Deployment, hospitals: dict[str, Path]
) -> None:
    home = planned.site("south")
    planned.must("server", "revoke", "south", "--home", planned.home)
    eventually(
        lambda: read(home / "state" / "supernode.json").get("connection") != "connected", 60, "south is turned away"
    )
    report = planned.run("name=without", "rounds.count=1", *FAST, "rounds.min_sites=1")["report"]
    assert sorted(report["sites"]) == ["north"]
    assert read(home / "state" / "supernode.json").get("connection") != "connected"
    status = json.loads(planned.must("server", "status", "--home", planned.home, "--json"))
    assert sorted(status["sites"]) == ["north"]
    again = planned.command("server", "revoke", "south", "--home", planned.home)
    assert again.returncode == 2
    # The name may come back, the keys may not.
    new = invited(planned, "south", hospitals["south"].parent / "south", folder="south2")
    arguments = (
        "--home",
        planned.home,
        "--ca-key",
        planned.folder / "usb.key",
        "--out",
        planned.folder / "new.admission",
    )
    old = ClientHome.load(home)
    stale = AdmissionRequest.make(
        Invitation.from_json((planned.folder / "south2.invitation").read_bytes()),
        old.identity_key.read_bytes(),
        identity.canonical_node_key(
            signed.read_unverified("request", old.request_file.read_bytes())["node_key"].encode()
        ),
    )
    (planned.folder / "stale.csr.json").write_bytes(stale)
    refused = planned.command("server", "admit", planned.folder / "stale.csr.json", *arguments)
    assert refused.returncode == 2
    assert "used before" in refused.stderr
    planned.must("server", "admit", new / "south.csr.json", *arguments)
