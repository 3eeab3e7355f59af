"""A consortium's keys and a site's, for the tests of documents; nothing of it touches a disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from privacy.agreement.admission import Admission
from privacy.agreement.federation_plan import FederationPlan
from privacy.trust import certificates, identity, signed
from privacy.trust.membership import AdmissionRequest, Invitation, new_code
from privacy.trust.roster import Roster
from shared_model.backbone.prior import normalisation_hash
from shared_model.network.spec import ModelSpec


@dataclass
class Consortium:
    authority_key: bytes = b""
    authority: bytes = b""
    signer_key: bytes = b""
    signer: bytes = b""
    roster: Roster = field(init=False)

    def __post_init__(self) -> None:
        self.authority_key, self.authority = certificates.new_authority("test")
        self.signer_key, self.signer = certificates.issue_document_certificate(self.authority_key, self.authority)
        self.roster = Roster(consortium=self.id)

    @property
    def id(self) -> str:
        return certificates.consortium_id(self.authority)

    @property
    def signer_public(self):
        return signed.private_key(self.signer_key).public_key()

    def invitation(self, site: str, expires: str = "2999-01-01T00:00:00+00:00") -> Invitation:
        return Invitation(
            consortium=self.id,
            name="test",
            site=site,
            address="127.0.0.1:9092",
            ca=self.authority.decode(),
            signer=self.signer.decode(),
            code=new_code(),
            expires=expires,
        )

    def admission(self, request: AdmissionRequest, plan: bytes | None = None) -> bytes:
        certificate = certificates.issue_site_certificate(
            self.authority_key, self.authority, request.site, request.identity
        )
        self.roster = self.roster.admit(
            request.site,
            identity=request.identity.public_bytes_raw().hex(),
            certificate=certificates.certificate_fingerprint(certificate),
            node_key=identity.node_fingerprint(request.node_key),
        )
        return Admission.make(request.site, certificate, self.roster.to_signed(self.signer_key), plan, self.signer_key)

    def certificates(self, sites: Mapping[str, str], key: bytes = b"") -> dict[str, str]:
        """A certificate for each name and identity key (hex), by this consortium's CA or by another key."""
        return {
            name: certificates.issue_site_certificate(
                key or self.authority_key, self.authority, name, Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw))
            ).decode()
            for name, raw in sites.items()
        }

    def plan(self, **changes: object) -> FederationPlan:
        values: dict[str, object] = {
            "consortium": self.id,
            "name": "first",
            "roster_version": 1,
            "sites": {},
            "mode": "none",
            "privacy": {},
            "masks": {},
            "model": '{"adapter":"full","prior":"none","shape":[32,32,32]}',
            "manifest": "a" * 64,
            "prior": "none:0",
            "parameters": 3,
            "normalisation": normalisation_hash(ModelSpec()),
            "least_sites": 2,
            "rounds": 4,
            "local_steps": 5,
            "batch_size": 2,
            "sampler_steps": 3,
            "candidates": 1,
            "metrics": ("loss",),
            "software": {"torch": "2.13.0+cpu"},
            "stopping": "after 4 rounds",
            "version": 1,
            "expires": "2999-01-01T00:00:00+00:00",
            "answers": 1000,
        }
        sites: object = changes.get("sites", {})
        values["certificates"] = self.certificates(sites)  # type: ignore[arg-type]
        return FederationPlan(**{**values, **changes})  # type: ignore[arg-type]


class Site:
    """A site's own keys, and the request that it answers an invitation with."""

    def __init__(self) -> None:
        self.identity_key = certificates.new_signing_key()
        self.node_key = identity.new_node_key()[1]

    @property
    def public(self):
        return signed.private_key(self.identity_key).public_key()

    def request(self, invitation: Invitation) -> bytes:
        return AdmissionRequest.make(invitation, self.identity_key, self.node_key)
