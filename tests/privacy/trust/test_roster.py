"""The roster grows, forgets nobody's revoked keys, and is signed; the admission carries it to a site."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.agreement.admission import Admission
from privacy.trust import signed
from privacy.trust.membership import AdmissionRequest
from privacy.trust.roster import Roster
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium, Site

CONSORTIUM = Consortium()
NAMES = ("a", "b", "c")


def keys(number: int) -> dict[str, str]:
    return {
        "identity": f"{number + 77:064x}",
        "certificate": f"{number + 500:064x}",
        "node_key": f"{number + 1000:064x}",
    }


@given(st.lists(st.tuples(st.sampled_from(["admit", "revoke", "renew"]), st.sampled_from(NAMES), st.integers(0, 5))))
def test_versions_grow_and_a_revoked_key_never_comes_back(steps: list[tuple[str, str, int]]) -> None:
    roster = Roster(consortium=CONSORTIUM.id)
    admitted: dict[str, int] = {}
    ever: set[int] = set()
    for step, name, number in steps:
        before = roster
        allowed = (name not in admitted and number not in ever) if step == "admit" else name in admitted
        try:
            if step == "admit":
                roster = roster.admit(name, **keys(number))
            elif step == "revoke":
                roster = roster.revoke(name)
            else:
                roster = roster.renew(name, "f" * 64)
        except InputError:
            assert not allowed
            continue
        assert allowed
        assert roster.version == before.version + 1
        if step == "admit":
            admitted[name] = number
            ever.add(number)
        if step == "revoke":
            del admitted[name]
        assert roster.names() == sorted(admitted)
        assert all(roster.knows(keys(n)["identity"]) and roster.knows(keys(n)["node_key"]) for n in ever)
        assert (
            Roster.from_signed(roster.to_signed(CONSORTIUM.signer_key), CONSORTIUM.signer_public, CONSORTIUM.id)
            == roster
        )


def test_a_key_of_another_site_is_refused_in_either_place() -> None:
    roster = Roster(consortium=CONSORTIUM.id).admit("a", **keys(1))
    for key in ("identity", "node_key"):
        with pytest.raises(InputError, match="used before"):
            roster.admit("b", **{**keys(2), key: keys(1)[key]})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema": 2}, "schema"),
        ({"version": 0}, "version"),
        ({"consortium": "0" * 32}, "consortium"),
        ({"sites": []}, "sites"),
        ({"sites": {"a/b": {}}}, "sites"),
        ({"sites": {"a": {}}}, "site a"),
        ({"sites": {"a": {**keys(1), "state": "maybe", "since": "2026-01-01T00:00:00+00:00"}}}, "state"),
        ({"sites": {"a": None}}, "site a"),
        ({"retired": ["x"]}, "retired"),
        ({"more": 1}, "field"),
    ],
)
def test_a_signed_roster_is_checked_all_the_same(change: dict[str, object], named: str) -> None:
    document = {"schema": 1, "consortium": CONSORTIUM.id, "version": 1, "sites": {}, "retired": []} | change
    content = signed.sign("roster", document, CONSORTIUM.signer_key)
    with pytest.raises(InputError, match=named):
        Roster.from_signed(content, CONSORTIUM.signer_public, CONSORTIUM.id)


@pytest.fixture
def admitted() -> tuple[Consortium, Site, bytes]:
    consortium, site = Consortium(), Site()
    request = AdmissionRequest.read(site.request(consortium.invitation("north")))
    plan = consortium.plan().to_signed(consortium.signer_key)
    return consortium, site, consortium.admission(request, plan)


def test_an_admission_gives_certificate_roster_and_plan(admitted: tuple[Consortium, Site, bytes]) -> None:
    consortium, site, content = admitted
    read = Admission.read(content, consortium.signer_public, consortium.authority, site.public)
    assert (read.site, read.roster.names(), read.plan) == ("north", ["north"], consortium.plan())
    assert read.roster_file == read.roster.to_signed(consortium.signer_key)


def test_an_admission_is_for_one_sites_keys_of_one_consortium(admitted: tuple[Consortium, Site, bytes]) -> None:
    consortium, site, content = admitted
    with pytest.raises(InputError, match="not for this site's keys"):
        Admission.read(content, consortium.signer_public, consortium.authority, Site().public)
    other = Consortium()
    with pytest.raises(InputError, match="another key"):
        Admission.read(content, other.signer_public, consortium.authority, site.public)
    with pytest.raises(InputError, match="another consortium"):
        Admission.read(content, consortium.signer_public, other.authority, site.public)


def test_an_admission_whose_roster_lacks_or_revokes_the_site_is_refused(
    admitted: tuple[Consortium, Site, bytes],
) -> None:
    consortium, site, content = admitted
    certificate = signed.read_unverified("admission", content)["certificate"].encode()
    for roster in (Roster(consortium=consortium.id), consortium.roster.revoke("north")):
        bad = Admission.make("north", certificate, roster.to_signed(consortium.signer_key), None, consortium.signer_key)
        with pytest.raises(InputError, match="does not admit"):
            Admission.read(bad, consortium.signer_public, consortium.authority, site.public)


def test_a_roster_by_a_site_in_a_signed_admission_is_refused(admitted: tuple[Consortium, Site, bytes]) -> None:
    consortium, site, content = admitted
    document = signed.read_unverified("admission", content)
    document["roster"] = signed.unpack(consortium.roster.to_signed(site.identity_key))
    bad = signed.sign("admission", document, consortium.signer_key)
    with pytest.raises(InputError, match="roster: signed by another key"):
        Admission.read(bad, consortium.signer_public, consortium.authority, site.public)
