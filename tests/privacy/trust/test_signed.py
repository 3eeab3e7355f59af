"""Signed documents: no byte of one can change, and one kind never passes for another."""

import base64
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from privacy.trust import certificates, signed
from shared_model.core.errors import InputError

KEY = certificates.new_signing_key()
PUBLIC = signed.private_key(KEY).public_key()
DOCUMENT = {"name": "Zürich", "sites": {"b": [1, 2.5, None, True], "a": {}}, "version": 3}
FILE = signed.sign("roster", DOCUMENT, KEY)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=6))
def test_what_was_signed_is_what_is_read(document: dict[str, object]) -> None:
    content = signed.sign("plan", document, KEY)
    assert signed.verify("plan", content, PUBLIC) == document
    assert signed.pack(signed.unpack(content)) == content


@example(184, 2)  # the last letter of the signature, in bits that decode to nothing
@given(st.integers(0, len(FILE.rstrip()) - 1), st.integers(1, 255))
def test_a_changed_byte_anywhere_is_refused(position: int, change: int) -> None:
    changed = bytearray(FILE)
    changed[position] ^= change
    with pytest.raises(InputError):
        signed.verify("roster", bytes(changed), PUBLIC)


@given(st.integers(0, len(FILE) - 2))
def test_a_file_that_was_cut_is_refused(length: int) -> None:
    with pytest.raises(InputError):
        signed.verify("roster", FILE[:length], PUBLIC)


@given(st.binary(max_size=200))
def test_rubbish_is_refused_in_one_line(content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        signed.verify("roster", content, PUBLIC)
    assert "\n" not in str(caught.value)


def test_another_kind_and_another_key_are_refused() -> None:
    with pytest.raises(InputError, match="another kind"):
        signed.verify("plan", FILE, PUBLIC)
    other = certificates.new_signing_key()
    with pytest.raises(InputError, match="another key"):
        signed.verify("roster", FILE, signed.private_key(other).public_key())
    # The signer's name alone proves nothing.
    forged = json.loads(signed.sign("roster", DOCUMENT, other)) | {"signer": signed.fingerprint(PUBLIC)}
    with pytest.raises(InputError, match="does not fit"):
        signed.verify("roster", signed.pack(forged), PUBLIC)


def test_the_same_document_in_another_form_is_refused() -> None:
    envelope = json.loads(FILE)
    twice = FILE.replace(b'{"document":', b'{"document":{},"document":')
    for content in (json.dumps(envelope).encode(), twice, FILE + b" ", b"\xef\xbb\xbf" + FILE, b"[" * 100_000):
        with pytest.raises(InputError):
            signed.verify("roster", content, PUBLIC)
    padded = envelope | {"signature": envelope["signature"] + "===="}
    longer = envelope | {"signature": base64.b64encode(b"x" * 64).decode()}
    for changed in (padded, longer, envelope | {"extra": 1}, envelope | {"document": []}, envelope | {"signer": None}):
        with pytest.raises(InputError):
            signed.verify("roster", signed.pack(changed), PUBLIC)


def test_mail_may_change_the_line_end() -> None:
    assert signed.verify("roster", FILE.replace(b"\n", b"\r\n"), PUBLIC) == DOCUMENT


def test_a_huge_file_is_not_parsed() -> None:
    with pytest.raises(InputError, match="larger than"):
        signed.verify("roster", b'{"a":"' + b"x" * signed.MAX_BYTES + b'"}', PUBLIC)


def test_what_is_no_signing_key_is_not_quoted() -> None:
    ca_key = certificates.new_authority("x")[0]
    for content in (ca_key, b"my secret"):
        with pytest.raises(InputError) as caught:
            signed.sign("roster", {}, content)
        assert "secret" not in str(caught.value)
        assert "PRIVATE KEY" not in str(caught.value)
