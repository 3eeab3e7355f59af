"""How a site joins and leaves: the invitation, the request with which a site answers it, and a leaving site's note.

The coordinator hands the invitation over out of band (in person, by sealed mail). It holds all that the site trusts:
the CA, the key that signs documents, and a one-time code. It holds no private key. The request holds the public halves
of keys that the site made itself, and three proofs. The identity key signs the whole request, so identity and node key
belong together. The certificate request is signed by its own key. An HMAC by the one-time code shows that the request
answers this invitation. The code itself does not travel. So someone who reads a request on its way cannot put keys of
their own into it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.trust import certificates, identity, signed
from privacy.trust.roster import CONSORTIUM, SITE_NAME, utc_now
from shared_model.core.errors import InputError
from shared_model.core.fields import Rule, Text, Whole, check_values

SCHEMA = 1
KIND = "request"
LEAVE = "leave"
CODE_BYTES = 32
CONSORTIUM_NAME = Text(r"[A-Za-z0-9][A-Za-z0-9_.-]*", 64, "a name (letters, digits, _ . -)")
CODE = Text(r"[A-Za-z0-9_-]{22,64}", 64, "a one-time code")
PEM = Text(r"-----BEGIN [A-Z ]+-----[A-Za-z0-9+/=\n]+-----END [A-Z ]+-----\n", 8000, "PEM")
_ADDRESS = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})")
_ANY_ADDRESS = Text(_ADDRESS.pattern, 262, "HOST:PORT, without https://,")


def check_address(address: str) -> str:
    """Return `address` when it reads HOST:PORT; InputError otherwise."""
    match = _ADDRESS.fullmatch(address)
    if match is None or not 1 <= int(match.group(2)) <= 65535:
        raise InputError(f"address {address!r}: expected HOST:PORT, without https://")
    return address


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What the coordinator gives to one site: ``address`` is HOST:PORT, certificates are PEM, ``expires`` is UTC."""

    consortium: str
    name: str
    site: str
    address: str
    ca: str
    signer: str
    code: str
    expires: str

    RULES: ClassVar[Mapping[str, Rule]] = {
        "schema": Whole(SCHEMA, SCHEMA),
        "consortium": CONSORTIUM,
        "name": CONSORTIUM_NAME,
        "site": SITE_NAME,
        "address": _ANY_ADDRESS,
        "ca": PEM,
        "signer": PEM,
        "code": CODE,
        "expires": Text(r"[0-9T:+-]{25}", 25, "a time in UTC"),
    }

    def to_json(self) -> bytes:
        """Return the content of the invitation's file."""
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode()

    @staticmethod
    def from_json(content: bytes) -> Invitation:
        """Read and check an invitation; InputError when it is damaged or expired, or its parts do not fit together."""
        try:
            raw = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError("expected an invitation (JSON) as `server invite` writes it") from error
        if not isinstance(raw, dict):
            raise InputError("expected an invitation (JSON) as `server invite` writes it")
        check_values("schema", "invitation", raw, Invitation.RULES)
        del raw["schema"]
        invitation = Invitation(**raw)
        check_address(invitation.address)
        authority = certificates.check_authority(invitation.ca.encode())
        if certificates.consortium_id(authority) != invitation.consortium:
            raise InputError("invitation: consortium does not match its CA certificate; ask for a new invitation")
        invitation.signer_key()
        check_not_expired(invitation.expires, f"the invitation of {invitation.site}")
        return invitation

    def signer_key(self) -> ed25519.Ed25519PublicKey:
        """Return the key that signs the consortium's documents; InputError unless the CA certified it."""
        return certificates.check_issued(self.signer.encode(), self.ca.encode(), certificates.DOCUMENTS)


def new_code() -> str:
    """Return a fresh one-time code (256 bits)."""
    return secrets.token_urlsafe(CODE_BYTES)


def code_key(code: str) -> str:
    """Return what the coordinator keeps of a code: its SHA-256 in hex. It authenticates requests."""
    return hashlib.sha256(b"fedkt3d:invitation:v1\n" + code.encode()).hexdigest()


def check_not_expired(expires: str, what: str, todo: str = "`server invite` makes a new one") -> None:
    """Raise InputError when the time ``expires`` (ISO, UTC) has passed or is not a time. ``todo``: what helps then."""
    try:
        over = dt.datetime.now(dt.UTC) > dt.datetime.fromisoformat(expires)
    except (ValueError, TypeError) as error:
        raise InputError(f"{what}: expires is not a time in UTC") from error
    if over:
        raise InputError(f"{what} expired on {expires[:10]}; {todo}")


@dataclass(frozen=True, kw_only=True)
class AdmissionRequest:
    """A valid request. ``identity`` signed it and its certificate request. ``node_key``: canonical OpenSSH."""

    consortium: str
    site: str
    identity: ed25519.Ed25519PublicKey
    node_key: bytes
    document: Mapping[str, Any]

    RULES: ClassVar[Mapping[str, Rule]] = {
        "schema": Whole(SCHEMA, SCHEMA),
        "consortium": CONSORTIUM,
        "site": SITE_NAME,
        "csr": PEM,
        "node_key": Text(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+", 400, "an OpenSSH P-384 public key"),
        "proof": Text(r"[0-9a-f]{64}", 64, "64 hex digits"),
    }

    @staticmethod
    def make(invitation: Invitation, identity_key: bytes, node_key: bytes) -> bytes:
        """Return the signed request that answers ``invitation``. ``node_key`` is the public half."""
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "consortium": invitation.consortium,
            "site": invitation.site,
            "csr": certificates.certificate_request(identity_key, invitation.site).decode(),
            "node_key": identity.canonical_node_key(node_key).decode(),
        }
        document["proof"] = _proof(code_key(invitation.code), document)
        return signed.sign(KIND, document, identity_key)

    @staticmethod
    def read(content: bytes) -> AdmissionRequest:
        """Read a request and check everything except that it answers an invitation (``answers``); else InputError."""
        document = signed.read_unverified(KIND, content)
        check_values("schema", KIND, document, AdmissionRequest.RULES)
        public_key = certificates.read_certificate_request(document["csr"].encode(), document["site"])
        signed.verify(KIND, content, public_key)
        return AdmissionRequest(
            consortium=document["consortium"],
            site=document["site"],
            identity=public_key,
            node_key=identity.canonical_node_key(document["node_key"].encode()),
            document=document,
        )

    def answers(self, key: str) -> bool:
        """Return whether the request's maker had the one-time code behind ``key`` (``code_key``)."""
        return hmac.compare_digest(_proof(key, self.document), self.document["proof"])


def _proof(key: str, document: Mapping[str, Any]) -> str:
    proven = {name: value for name, value in document.items() if name != "proof"}
    return hmac.new(bytes.fromhex(key), signed.canonical(proven), hashlib.sha256).hexdigest()


def leave_note(consortium: str, site: str, identity_key: bytes) -> bytes:
    """Return the note that a site leaves, signed with its private identity key (PEM): nobody else can send it."""
    return signed.sign(LEAVE, {"schema": 1, "consortium": consortium, "site": site, "left": utc_now()}, identity_key)


def check_leave_note(content: bytes, consortium: str, site: str, identity_hex: str) -> str:
    """Return when the site left; InputError unless the site's identity key in the roster signed this note for us."""
    key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(identity_hex))
    document = signed.verify(LEAVE, content, key)
    if (document.get("schema"), document.get("consortium"), document.get("site")) != (1, consortium, site):
        raise InputError(f"{LEAVE}: not the note of {site} for this consortium")
    return str(document.get("left", ""))
