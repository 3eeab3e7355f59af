"""The link of one-step joining: what it holds, and that no other authority than its own is believed."""

import json
import shlex

import pytest

from privacy.trust.certificates import certificate_fingerprint
from privacy.trust.link import JoinLink, desk_certificates
from privacy.trust.membership import AdmissionRequest, code_key
from shared_model.core.errors import InputError
from tests.builders.consortium import Consortium, Site

CONSORTIUM = Consortium()
INVITATION = CONSORTIUM.invitation("north")
LINK = JoinLink.of(INVITATION)
SHOWN = desk_certificates("test", CONSORTIUM.authority, CONSORTIUM.signer)


def test_a_link_reads_back_and_needs_no_quotes_in_a_shell() -> None:
    text = LINK.text()
    assert JoinLink.parse(f" {text}\n") == LINK
    assert shlex.quote(text) == text
    assert LINK.fingerprint == certificate_fingerprint(CONSORTIUM.authority)


def test_with_the_desks_certificates_it_is_the_invitation() -> None:
    found = LINK.invitation(SHOWN)
    assert {**vars(found), "expires": ""} == {**vars(INVITATION), "expires": ""}
    request = AdmissionRequest.read(Site().request(found))
    assert request.answers(code_key(INVITATION.code))


@pytest.mark.parametrize(
    ("part", "other"),
    [
        (LINK.fingerprint, "a" * 63),
        (LINK.fingerprint, "A" * 64),
        (LINK.code, "short"),
        ("127.0.0.1:9092", "127.0.0.1"),
        ("127.0.0.1:9092", "user@host:1"),
        ("/north/", "/no rth/"),
        ("/north/", "/../"),
        ("fedkt3d", "https"),
    ],
    ids=["short print", "capitals", "short code", "no port", "a user", "a space", "no name", "scheme"],
)
def test_a_damaged_link_is_refused_and_not_quoted(part: str, other: str) -> None:
    with pytest.raises(InputError) as caught:
        JoinLink.parse(LINK.text().replace(part, other))
    assert LINK.code not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"rubbish", "does not answer as a coordinator"),
        (b"[1]", "does not answer as a coordinator"),
        (b'{"schema": 1}', "missing"),
        (desk_certificates("test", Consortium().authority, CONSORTIUM.signer), "another CA certificate"),
        (desk_certificates("test", CONSORTIUM.signer, CONSORTIUM.signer), "CA"),
        (desk_certificates("test", CONSORTIUM.authority, Consortium().signer), "not issued"),
        (json.dumps({**json.loads(SHOWN), "more": 1}).encode(), "schema"),
    ],
    ids=["rubbish", "list", "empty", "other CA", "no CA", "not issued", "more"],
)
def test_who_stands_in_the_coordinators_place_is_not_believed(content: bytes, named: str) -> None:
    with pytest.raises(InputError, match=named):
        LINK.invitation(content)
