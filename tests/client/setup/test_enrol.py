"""How a hospital joins and leaves: its own keys, nothing written on bad input, nothing older accepted."""

import json
import re
import stat
from pathlib import Path

import pytest

from client.setup.enrol import Data, create, join, leave, pin_plan, plan_to_show
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.agreement.admission import Admission
from privacy.flower.processes import sole_instance
from privacy.trust import signed
from privacy.trust.membership import AdmissionRequest, code_key
from shared_model.core.errors import FedKT3DError, InputError
from tests.builders.consortium import Consortium


@pytest.fixture
def consortium() -> Consortium:
    return Consortium()


@pytest.fixture
def data(tmp_path: Path) -> Data:
    root = tmp_path / "cases"
    root.mkdir()
    for number in range(5):
        (root / f"p{number}.npz").touch()
    return Data(kind="cases", root=root, site_config=None)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def made(folder: Path, consortium: Consortium, data: Data, name: str = "north") -> ClientHome:
    invitation = write(folder / f"{name}.invitation", consortium.invitation(name).to_json())
    return create(invitation, folder / name, data)


def admission(home: ClientHome, consortium: Consortium, plan: bytes | None = None) -> Path:
    content = consortium.admission(AdmissionRequest.read(home.request_file.read_bytes()), plan)
    return write(home.folder.parent / f"{home.site}.admission", content)


def test_init_makes_a_site_that_is_ready_for_admission(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    assert ClientHome.load(tmp_path / "north") == home
    assert (home.site, home.consortium, home.server) == ("north", consortium.id, "127.0.0.1:9092")
    assert SiteConfig.load(home.site_config).train == ("p0", "p1", "p3", "p4")
    assert Policy.load(home.policy).require_plan
    assert Policy.load(home.policy).ledger_in(home.folder).entries() == []
    private = [home.identity_key, home.node_key, home.secret]
    assert {stat.S_IMODE(path.stat().st_mode) for path in private} == {0o600}
    request = AdmissionRequest.read(home.request_file.read_bytes())
    code = json.loads((tmp_path / "north.invitation").read_text())["code"]
    assert request.answers(code_key(code))


def test_no_private_key_is_anywhere_but_in_its_folder(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    join(home, admission(home, consortium))
    holders = [p for p in tmp_path.rglob("*") if p.is_file() and b"PRIVATE KEY" in p.read_bytes()]
    assert sorted(holders) == [home.identity_key, home.node_key]
    body = re.sub(rb"-----[^-]*-----|\s", b"", home.identity_key.read_bytes())[:40]
    assert [p for p in tmp_path.rglob("*") if p.is_file() and body in p.read_bytes()] == [home.identity_key]
    code = json.loads((tmp_path / "north.invitation").read_text())["code"].encode()
    assert not any(code in p.read_bytes() for p in home.folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("what", ["invitation", "expired", "root", "config root", "both", "neither", "site", "missing"])
def test_bad_input_writes_nothing(tmp_path: Path, consortium: Consortium, data: Data, what: str) -> None:
    invitation = consortium.invitation("north")
    content = invitation.to_json()
    config = tmp_path / "site.yaml"
    SiteConfig(site="south", data="cases", root=tmp_path, train=("a",), validation=()).save(config)
    assert data.root is not None
    if what == "invitation":
        content = b"rubbish"
    if what == "expired":
        content = consortium.invitation("north", expires="2020-01-01T00:00:00+00:00").to_json()
    if what == "root":
        data = Data(kind="cases", root=tmp_path / "nowhere", site_config=None)
    if what == "config root":
        SiteConfig(site="north", data="cases", root=tmp_path / "nowhere", train=("a",), validation=()).save(config)
        data = Data(kind="cases", root=None, site_config=config)
    if what == "both":
        data = Data(kind="cases", root=data.root, site_config=config)
    if what == "neither":
        data = Data(kind="cases", root=None, site_config=None)
    if what == "site":
        data = Data(kind="cases", root=None, site_config=config)
    path = tmp_path / "x.invitation"
    if what != "missing":
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        create(path, tmp_path / "home", data)
    assert str(caught.value).count(str(path)) <= 1
    assert not (tmp_path / "home").exists()


def test_a_folder_that_holds_anything_is_left_alone(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    before = {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="not empty"):
        made(tmp_path, consortium, data)
    assert {path: path.read_bytes() for path in home.folder.rglob("*") if path.is_file()} == before


def test_a_site_starts_only_once_it_is_admitted(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    with pytest.raises(InputError, match="not admitted yet"):
        home.require_admission()
    join(home, admission(home, consortium))
    home.require_admission()
    # A roster that this site got later revokes it.
    home.roster_file.write_bytes(consortium.roster.revoke("north").to_signed(consortium.signer_key))
    with pytest.raises(InputError, match="does not admit"):
        home.require_admission()


def test_a_site_takes_its_own_admission_alone(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    north, south = made(tmp_path, consortium, data), made(tmp_path, consortium, data, "south")
    other = Consortium()
    stranger = other.admission(AdmissionRequest.read(north.request_file.read_bytes()))
    changed = bytearray(admission(north, consortium).read_bytes())
    changed[len(changed) // 2] ^= 1
    for content in (admission(south, consortium).read_bytes(), stranger, bytes(changed), b"rubbish"):
        path = write(tmp_path / "bad.admission", content)
        with pytest.raises(InputError, match=r"bad\.admission"):
            join(north, path)
    assert list((north.folder / "trust").iterdir()) == []


def test_an_admission_under_another_name_is_not_this_sites(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    """The same keys, admitted as another site: what the coordinator calls this one must be what it calls itself."""
    home = made(tmp_path, consortium, data)
    node_key = AdmissionRequest.read(home.request_file.read_bytes()).node_key
    renamed = AdmissionRequest.make(consortium.invitation("south"), home.identity_key.read_bytes(), node_key)
    path = write(tmp_path / "south.admission", consortium.admission(AdmissionRequest.read(renamed)))
    with pytest.raises(InputError, match="for site south"):
        join(home, path)


def test_an_older_roster_is_never_taken(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    old = admission(home, consortium).read_bytes()
    certificate = signed.read_unverified("admission", old)["certificate"].encode()
    roster = consortium.roster.admit("south", identity="1" * 64, certificate="2" * 64, node_key="3" * 64)
    new = Admission.make("north", certificate, roster.to_signed(consortium.signer_key), None, consortium.signer_key)
    assert join(home, write(tmp_path / "new", new)).roster.names() == ["north", "south"]
    with pytest.raises(InputError, match="older"):
        join(home, write(tmp_path / "old", old))
    assert home.roster() == roster


def test_a_plan_is_offered_shown_and_pinned(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    plan = consortium.plan()
    join(home, admission(home, consortium, plan.to_signed(consortium.signer_key)))
    shown = plan_to_show(home)
    assert (shown.plan, shown.pinned) == (plan, False)
    assert "NOT accepted" in shown.lines(Path("node"))[0]
    assert home.pinned_plan() is None
    digest = pin_plan(home, home.offered_plan)
    assert home.pinned_plan() == plan
    assert (plan_to_show(home).pinned, plan_to_show(home).sha256) == (True, digest)
    other = consortium.plan(rounds=9).to_signed(consortium.signer_key)
    home.offered_plan.write_bytes(other)
    assert plan_to_show(home).newer
    assert home.pinned_plan() == plan  # an offer alone changes nothing


def test_a_plan_of_somebody_else_is_not_pinned(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    join(home, admission(home, consortium))
    with pytest.raises(InputError, match="no federation plan"):
        plan_to_show(home)
    other = Consortium()
    for content in (
        other.plan().to_signed(other.signer_key),
        other.plan().to_signed(consortium.signer_key),
        consortium.plan().to_signed(home.identity_key.read_bytes()),
        consortium.plan(normalisation="0" * 64).to_signed(consortium.signer_key),
    ):
        with pytest.raises(InputError, match="plan"):
            pin_plan(home, write(tmp_path / "plan.json", content))
    assert home.pinned_plan() is None


@pytest.mark.parametrize("delete", [False, True])
def test_leaving_writes_a_signed_note_and_ends_the_admission(
    tmp_path: Path, consortium: Consortium, data: Data, delete: bool
) -> None:
    home = made(tmp_path, consortium, data)
    join(home, admission(home, consortium))
    public = signed.private_key(home.identity_key.read_bytes()).public_key()
    leave(home, tmp_path / "north.leave", delete_keys=delete)
    note = signed.verify("leave", (tmp_path / "north.leave").read_bytes(), public)
    assert (note["site"], note["consortium"]) == ("north", consortium.id)
    assert (home.identity_key.exists(), home.node_key.exists()) == (not delete, not delete)
    with pytest.raises(InputError, match="not admitted"):
        home.require_admission()


def test_a_note_is_never_overwritten(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    join(home, admission(home, consortium))
    note = write(tmp_path / "north.leave", b"precious")
    with pytest.raises(InputError, match="exists"):
        leave(home, note, delete_keys=True)
    assert home.identity_key.exists()
    home.require_admission()


def test_a_site_that_is_just_starting_does_not_leave(tmp_path: Path, consortium: Consortium, data: Data) -> None:
    home = made(tmp_path, consortium, data)
    join(home, admission(home, consortium))
    with sole_instance(home.lock, "the site"), pytest.raises(FedKT3DError, match="starting"):
        leave(home, tmp_path / "north.leave", delete_keys=True)
    assert home.identity_key.exists()
    assert not (tmp_path / "north.leave").exists()
