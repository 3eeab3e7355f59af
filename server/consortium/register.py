"""The coordinator's register of sites, as it stands: roster, plan, who agrees to one, and what each site is handed."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.agreement.admission import Admission
from privacy.agreement.federation_plan import FederationPlan
from privacy.trust import certificates, identity
from privacy.trust.document_keys import DocumentKeys
from privacy.trust.membership import AdmissionRequest
from privacy.trust.peers import peer_digits
from privacy.trust.roster import Roster
from privacy.trust.signed import fingerprint
from server.config.federation_plan import Parties
from server.deployment.home import ServerHome
from shared_model.core.errors import InputError, naming
from shared_model.core.files import PUBLIC, write_bytes


class SiteRegister:
    """Reads what admission.py changes, and puts the newest of it where sites find it."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._authority = identity.read_input(home.ca_certificate)
        self._consortium = certificates.consortium_id(self._authority)

    def roster(self) -> Roster:
        """Return the current roster; InputError when anyone but us changed it."""
        with naming(self._home.roster_file):
            return Roster.from_signed(identity.read_input(self._home.roster_file), self._signers(), self._consortium)

    def plan(self, content: bytes) -> FederationPlan:
        """Read a signed federation plan of this consortium; InputError when anyone but us changed it."""
        with naming(self._home.plan_file):
            return FederationPlan.from_signed(content, self._signers(), self._consortium)

    def parties(self) -> Parties:
        """Return who agrees to a plan made now. InputError when a site's certificate is missing or ends soon."""
        roster, certified = self.roster(), {}
        for site in roster.names():
            path = self._home.site_certificate(site)
            if not path.exists() or certificates.certificate_fingerprint(path.read_bytes()) != (
                roster.sites[site].certificate
            ):
                raise InputError(f"{path}: the certificate of {site} is missing; `server renew {site}` makes a new one")
            with naming(path):
                certificates.check_dates(path.read_bytes(), f"certificate of {site}")
            certified[site] = path.read_text(encoding="ascii")
        return Parties(
            consortium=roster.consortium,
            roster_version=roster.version,
            sites=roster.identities(),
            certificates=certified,
        )

    def next_plan_version(self) -> int:
        """Return the version of the next plan."""
        if not self._home.plan_file.exists():
            return 1
        return self.plan(identity.read_input(self._home.plan_file)).version + 1

    def request(self, site: str) -> AdmissionRequest:
        """Return the request that a site sent with its link; InputError when none waits."""
        path = self._home.request(site)
        if site not in self._home.waiting():
            waiting = ", ".join(self._home.waiting()) or "none"
            raise InputError(f"{site}: no such file, and no request of a site of that name waits (waiting: {waiting})")
        with naming(path):
            return AdmissionRequest.read(identity.read_input(path))

    def digits(self, request: AdmissionRequest) -> str:
        """Return the digits of a request's key, to compare with those that the site shows (`client join`)."""
        return peer_digits(self._consortium, request.site, request.identity.public_bytes_raw().hex())

    def hand_out(self) -> None:
        """Renew what sites that joined with a link find at the desk: their certificate, the newest roster and plan.

        The request of a site that is revoked is removed with its admission.
        """
        roster, key = self.roster(), None
        for path in sorted(self._home.request("*").parent.glob("*.csr.json")):
            site, raw = path.name.removesuffix(".csr.json"), _identity_of(path)
            certificate = self._home.site_certificate(site)
            if roster.admitted(site) and roster.sites[site].identity == raw and certificate.exists():
                key = key or self._home.signing_key()
                file = self.admission(site, identity.read_input(certificate), key)
                write_bytes(self._home.admission(site), file, mode=PUBLIC)
            elif self._home.admission(site).exists():
                self._home.admission(site).unlink()
                path.unlink()

    def admission(self, site: str, certificate: bytes, key: bytes | None = None) -> bytes:
        """Return the file that a site gets: certificate, newest roster, and the plan if the current key signed it."""
        keys, plan = self._home.document_keys(), None
        if self._home.plan_file.exists():
            plan = identity.read_input(self._home.plan_file)
            if keys.retired and not _is_by(plan, keys):
                plan = None  # sites that have pinned it keep it, no other may
        roster, signer = identity.read_input(self._home.roster_file), b""
        if keys.retired:
            signer = keys.bundle(current=True)
        return Admission.make(site, certificate, roster, plan, key or self._home.signing_key(), signer or None)

    def _signers(self) -> tuple[ed25519.Ed25519PublicKey, ...]:
        return self._home.document_keys().kept()


def _identity_of(request: Path) -> str:
    """Return the identity key (hex) of a kept request; empty where the file is damaged."""
    try:
        return AdmissionRequest.read(request.read_bytes()).identity.public_bytes_raw().hex()
    except InputError:
        return ""


def _is_by(plan: bytes, keys: DocumentKeys) -> bool:
    """Whether the current key signed a plan that one of the keys did sign."""
    return bool(json.loads(plan)["signer"] == fingerprint(keys.accepting()))
