"""Joining with a link, from the site's side: against a desk that answers over real TLS on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.setup import agree, desk, enrol
from client.site.home import ClientHome
from privacy.trust.link import JoinLink, desk_certificates
from privacy.trust.membership import AdmissionRequest, code_key
from shared_model.core.errors import FedKT3DError, InputError
from tests.builders.consortium import Consortium
from tests.builders.loopback_desk import LoopbackDesk


@pytest.fixture
def there(tmp_path: Path) -> Iterator[LoopbackDesk]:
    made = LoopbackDesk(tmp_path)
    yield made
    made.close()


@pytest.fixture
def data(tmp_path: Path) -> enrol.Data:
    root = tmp_path / "cases"
    root.mkdir()
    for number in range(5):
        (root / f"p{number}.npz").touch()
    return enrol.Data(kind="cases", root=root, site_config=None)


def made(there: LoopbackDesk, folder: Path, data: enrol.Data, link: JoinLink | None = None) -> ClientHome:
    return desk.home_of(link or there.link(), folder, lambda: data)


def test_a_link_makes_the_home_and_brings_the_admission(there: LoopbackDesk, tmp_path: Path, data: enrol.Data) -> None:
    link = there.link()
    home = made(there, tmp_path / "north", data, link)
    request = home.request_file.read_bytes()
    assert AdmissionRequest.read(request).answers(code_key(link.code))
    assert there.got == [], "nothing is sent before the CA is the link's"
    plan = there.consortium.plan().to_signed(there.consortium.signer_key)
    admission = there.consortium.admission(AdmissionRequest.read(request), plan)
    there.answers = [(202, b"{}"), (200, admission)]
    told: list[str] = []
    desk.ASK_EVERY_S, before = 0.01, desk.ASK_EVERY_S
    try:
        found = desk.wait(home, told.append)
    finally:
        desk.ASK_EVERY_S = before
    assert found is not None
    assert there.got == [request, request]
    assert len(told) == 1
    home.require_admission()
    shown = agree.newest_plan(home)
    assert shown is not None
    assert not shown.pinned
    # The same link again goes on with the same keys.
    assert made(there, tmp_path / "north", data, link) == home
    assert home.request_file.read_bytes() == request
    held = [path for path in home.folder.rglob("*") if path.is_file() and link.code.encode() in path.read_bytes()]
    assert held == []


@pytest.mark.parametrize("which", ["another authority", "rubbish", "endless"])
def test_another_in_the_coordinators_place_gets_nothing_and_nothing_is_made(
    there: LoopbackDesk, tmp_path: Path, data: enrol.Data, which: str
) -> None:
    link, other = there.link(), Consortium()
    there.shown = {
        "another authority": desk_certificates("test", other.authority, other.signer),
        "rubbish": b"<html>",
        "endless": b"x" * 200_000,
    }[which]
    with pytest.raises(InputError, match=r"nothing was made|does not answer as"):
        made(there, tmp_path / "north", data, link)
    assert not (tmp_path / "north").exists()
    assert there.got == []


def test_the_request_is_sent_to_the_links_authority_alone(
    there: LoopbackDesk, tmp_path: Path, data: enrol.Data
) -> None:
    home = made(there, tmp_path / "north", data)
    # From now on somebody else answers there.
    home.ca_certificate.write_bytes(Consortium().authority)
    with pytest.raises(FedKT3DError, match="no answer"):
        desk.ask(home)
    assert there.got == []


def test_a_refusal_says_why_in_printable_words(there: LoopbackDesk, tmp_path: Path, data: enrol.Data) -> None:
    home = made(there, tmp_path / "north", data)
    there.answers = [(403, b'{"error": "no\\u001b[31m invitation"}'), (500, b"[]")]
    with pytest.raises(InputError, match=r"no\[31m invitation"):
        desk.ask(home)
    with pytest.raises(InputError, match="500"):
        desk.ask(home)


def test_a_home_of_another_invitation_is_left_alone(there: LoopbackDesk, tmp_path: Path, data: enrol.Data) -> None:
    made(there, tmp_path / "north", data)
    with pytest.raises(InputError, match="another invitation"):
        made(there, tmp_path / "north", data, there.link("south"))
    with pytest.raises(InputError, match="not empty"):
        made(there, tmp_path / "cases", data)


def test_keys_are_compared_and_plans_declined_by_people(there: LoopbackDesk, tmp_path: Path, data: enrol.Data) -> None:
    home = made(there, tmp_path / "north", data)
    request = AdmissionRequest.read(home.request_file.read_bytes())
    mine = request.identity.public_bytes_raw().hex()
    plan = there.consortium.plan(sites={"north": mine, "south": "ab" * 32})
    there.answers = [(200, there.consortium.admission(request, plan.to_signed(there.consortium.signer_key)))]
    desk.ask(home)
    shown = agree.newest_plan(home)
    assert shown is not None
    assert [(peer.name, peer.compared) for peer in agree.peers_of(home, shown.plan)] == [("south", False)]
    with pytest.raises(InputError, match="no such hospital"):
        agree.note_compared(home, shown.plan, ["east"])
    agree.note_compared(home, shown.plan, ["south"])
    assert [peer.compared for peer in agree.peers_of(home, shown.plan)] == [True]
    agree.decline(home, shown.sha256)
    assert agree.is_declined(home, shown.sha256)
    assert not agree.is_declined(home, "0" * 64)
    assert not home.plan_file.exists()
