"""The admission: the file that the coordinator gives back to a site. The consortium's document key signs it.

``{"schema", "consortium", "site", "certificate", "roster", "plan"}``: the site's certificate (PEM), the roster, and the
federation plan or null. Roster and plan are signed documents of their own, so a site can keep and show each by itself.
After a rotation of the document key ``signer`` has the certificates of all such keys by the CA (PEM), the newest last.
That is how sites get it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.agreement.federation_plan import FederationPlan
from privacy.trust import certificates, signed
from privacy.trust.document_keys import DocumentKeys
from privacy.trust.roster import CONSORTIUM, SITE_NAME, Roster
from shared_model.core.errors import InputError
from shared_model.core.fields import Rule, Text, Whole, check_values

SCHEMA = 1
KIND = "admission"


@dataclass(frozen=True, kw_only=True)
class Admission:
    """A verified admission. ``roster_file`` and ``plan_file`` are the signed documents that it holds."""

    site: str
    certificate: bytes
    roster: Roster
    roster_file: bytes
    plan: FederationPlan | None
    plan_file: bytes | None

    RULES: ClassVar[Mapping[str, Rule]] = {
        "schema": Whole(SCHEMA, SCHEMA),
        "consortium": CONSORTIUM,
        "site": SITE_NAME,
        "certificate": Text(r"[\x20-\x7e\n]+", 8000, "PEM"),
    }

    @staticmethod
    def make(
        site: str,
        certificate: bytes,
        roster_file: bytes,
        plan_file: bytes | None,
        key_pem: bytes,
        signer: bytes | None = None,
    ) -> bytes:
        """Sign the admission of ``site`` to the consortium of the signed roster. ``signer``: of the keys."""
        roster = signed.unpack(roster_file)
        document = {
            "schema": SCHEMA,
            "consortium": roster["document"]["consortium"],
            "site": site,
            "certificate": certificate.decode(),
            "roster": roster,
            "plan": None if plan_file is None else signed.unpack(plan_file),
        }
        return signed.sign(KIND, document | ({} if signer is None else {"signer": signer.decode()}), key_pem)

    @staticmethod
    def keys(content: bytes, known: DocumentKeys) -> DocumentKeys:
        """Return the document keys of a site that knows ``known`` and gets this admission, not yet verified.

        InputError when the CA did not certify the new key, or it is older than the one that is known.
        """
        signer = signed.read_unverified(KIND, content).get("signer")
        return known.joined(signer.encode()) if isinstance(signer, str) else known

    @staticmethod
    def read(
        content: bytes, signer: ed25519.Ed25519PublicKey, authority: bytes, identity: ed25519.Ed25519PublicKey
    ) -> Admission:
        """Verify an admission for the site whose public key is ``identity``.

        ``signer`` and ``authority`` (PEM) come from the site's invitation. Raises InputError when a signature does not
        fit, the consortium is another one, the certificate is for other keys, or the roster does not admit the site.
        """
        document = signed.verify(KIND, content, signer)
        roster_raw, plan_raw = document.pop("roster", None), document.pop("plan", None)
        document.pop("signer", None)  # ``keys`` has read it, and this signature is by it
        check_values("schema", KIND, document, Admission.RULES)
        consortium, site = certificates.consortium_id(authority), document["site"]
        if document["consortium"] != consortium:
            raise InputError("admission: it belongs to another consortium")
        certificate = document["certificate"].encode()
        if certificates.check_issued(certificate, authority, site) != identity:
            raise InputError(f"admission: its certificate is not for this site's keys; is it the one of {site}?")
        roster_file, plan_file = _pack(roster_raw), None if plan_raw is None else _pack(plan_raw)
        roster = Roster.from_signed(roster_file, signer, consortium)
        raw = identity.public_bytes_raw().hex()
        if not roster.admitted(site) or roster.sites[site].identity != raw:
            raise InputError(f"admission: its roster does not admit {site} with this key")
        plan = None if plan_file is None else FederationPlan.from_signed(plan_file, signer, consortium)
        return Admission(
            site=site,
            certificate=certificate,
            roster=roster,
            roster_file=roster_file,
            plan=plan,
            plan_file=plan_file,
        )


def _pack(envelope: Any) -> bytes:
    if not isinstance(envelope, dict):
        raise InputError("admission: expected it to hold signed documents")
    return signed.pack(envelope)
