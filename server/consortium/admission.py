"""Who takes part: `server invite`, `admit`, `renew`, `revoke`, and `rotate` for the key that signs it.

Each change makes a new version of the signed roster.

Invitations and the roster need only the document key. A site's certificate needs the CA's key, which may be kept off
this machine. Every step can be repeated after a crash: it finds what is already done and does not do it twice.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.flower.processes import read_state, sole_instance
from privacy.trust import certificates, identity
from privacy.trust.membership import (
    AdmissionRequest,
    Invitation,
    check_address,
    check_leave_note,
    check_not_expired,
    code_key,
    new_code,
)
from privacy.trust.passphrase import read_private_key, write_private_key
from privacy.trust.roster import SITE_NAME, Roster, utc_now
from server.consortium.register import SiteRegister
from server.deployment.control import Control
from server.deployment.home import ServerHome
from server.record.public_log import file_hash
from shared_model.core.errors import FedKT3DError, InputError
from shared_model.core.files import PUBLIC, write_bytes

LONGEST_DAYS = 365


@dataclass(frozen=True, kw_only=True)
class Admitted:
    """Result of `admit`: the site, Flower's id of its node, and the file to give back to the site."""

    site: str
    node_id: str
    file: bytes


class Admissions(SiteRegister):
    """The coordinator's register of sites. The caller allows one change at a time (server/consortium/commands.py)."""

    def invite(self, site: str, days: int, address: str | None = None) -> Invitation:
        """Make an invitation for ``site``, valid for ``days``. An earlier invitation for this site becomes invalid."""
        if not SITE_NAME.accepts(site):
            raise InputError(f"SITE {site!r}: expected {SITE_NAME.expected()}")
        if not 1 <= days <= LONGEST_DAYS:
            raise InputError(f"--days {days}: expected 1 to {LONGEST_DAYS}")
        if self.roster().admitted(site):
            raise InputError(f"site {site}: admitted already; `server renew {site}` makes a fresh admission for it")
        self._home.document_keys().accepting()  # an ended one would let nobody join
        expires = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
        invitation = Invitation(
            consortium=self._consortium,
            name=self._home.name,
            site=site,
            address=check_address(address or self._home.address),
            ca=self._authority.decode(),
            signer=identity.read_input(self._home.roster_certificate).decode(),
            code=new_code(),
            expires=expires.isoformat(timespec="seconds"),
        )
        self._home.public_log().add("invite", site=site, expires=invitation.expires)
        kept = {"key": code_key(invitation.code), "expires": invitation.expires}
        self._save_invitations({**read_state(self._home.invitations_file), site: kept})
        return invitation

    def admit(self, request: AdmissionRequest, ca_key: Path) -> Admitted:
        """Admit the site that made ``request``.

        InputError when the request does not answer an open invitation, or its keys were used before. Then nothing is
        changed. The coordinator must be running, because Flower's SuperLink must accept the node key.
        """
        site, node_key = request.site, request.node_key.decode()
        self._check_invited(request)
        self._home.signing_key()  # an ended one must stop this before anything is changed
        authority_key = read_ca_key(ca_key)
        certificate = certificates.issue_site_certificate(authority_key, self._authority, site, request.identity)
        roster = self.roster().admit(
            site,
            identity=request.identity.public_bytes_raw().hex(),
            certificate=certificates.certificate_fingerprint(certificate),
            node_key=identity.node_fingerprint(request.node_key),
        )
        node_id = self._register(Control(self._home), site, node_key)
        write_bytes(self._home.site_certificate(site), certificate, mode=PUBLIC)
        self._save_roster(roster, "admit", site)
        invitations = read_state(self._home.invitations_file)
        invitations.pop(site, None)
        self._save_invitations(invitations)
        self.hand_out()
        return Admitted(site=site, node_id=node_id, file=self.admission(site, certificate))

    def renew(self, site: str, ca_key: Path) -> bytes:
        """Return a fresh admission for a site: a new certificate for the same key, the current roster and plan."""
        roster = self.roster()
        if not roster.admitted(site):
            raise InputError(f"site {site}: not admitted; admitted sites: {', '.join(roster.names()) or 'none'}")
        self._home.signing_key()
        key = ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(roster.sites[site].identity))
        certificate = certificates.issue_site_certificate(read_ca_key(ca_key), self._authority, site, key)
        write_bytes(self._home.site_certificate(site), certificate, mode=PUBLIC)
        self._save_roster(roster.renew(site, certificates.certificate_fingerprint(certificate)), "renew", site)
        self.hand_out()
        return self.admission(site, certificate)

    def check_left(self, site: str, note: bytes) -> str:
        """Return when ``site`` left, by its own note (`client leave`); InputError unless that site signed the note."""
        sites = self.roster().sites
        if site not in sites:
            raise InputError(f"site {site}: not admitted; admitted sites: {', '.join(self.roster().names()) or 'none'}")
        return check_leave_note(note, self._consortium, site, sites[site].identity)

    def revoke(self, site: str) -> Roster:
        """Revoke a site in the roster, and its node key at the SuperLink, which must be running."""
        control, roster = Control(self._home), self.roster()
        known = read_state(self._home.sites_file)
        if site not in known:
            raise InputError(f"site {site}: not admitted; admitted sites: {', '.join(roster.names()) or 'none'}")
        if roster.admitted(site):
            self._home.signing_key()
            roster = roster.revoke(site)
            self._save_roster(roster, "revoke", site)
        node_id = known.pop(site)["node_id"]
        if any(node["node-id"] == node_id for node in control.nodes()):
            control.unregister(node_id)
        self._save_sites(known)
        self.hand_out()
        return roster

    def _check_invited(self, request: AdmissionRequest) -> None:
        site = request.site
        if request.consortium != self._consortium:
            raise InputError(f"the request of {site} answers the invitation of another consortium")
        kept = read_state(self._home.invitations_file).get(site)
        if kept is None:
            raise InputError(f"the request of {site} answers no open invitation; each invitation admits a site once")
        if not request.answers(kept["key"]):
            raise InputError(f"the request of {site} was not made from the last invitation of {site}")
        check_not_expired(kept["expires"], f"the invitation of {site}")

    def _register(self, control: Control, site: str, node_key: str) -> str:
        """Register a node key with Flower and return the node's id, even if it was registered before a crash."""
        known = read_state(self._home.sites_file)
        if site in known and known[site]["public_key"] == node_key:
            return str(known[site]["node_id"])
        public_key = self._home.folder / "state" / "admitting.pub"
        public_key.write_text(node_key + "\n", encoding="ascii")
        try:
            node_id = control.register(public_key)
        except FedKT3DError:
            # A crash between Flower's register and ours leaves one node without a site. Only we register nodes.
            ours = {entry["node_id"] for entry in known.values()}
            strays = [node["node-id"] for node in control.nodes() if node["node-id"] not in ours]
            if len(strays) != 1:
                raise
            node_id = str(strays[0])
        finally:
            public_key.unlink()
        record = {"node_id": node_id, "public_key": node_key, "registered_at": utc_now()}
        self._save_sites({**known, site: record})
        return node_id

    def rotate(self, ca_key: Path) -> bytes:
        """Retire the key that signs documents and make the next one; return its certificate (PEM).

        The roster is signed anew. Plans stay as they are: a site that has pinned one keeps it. After a crash do it
        again.
        """
        authority_key, roster, home = read_ca_key(ca_key), self.roster(), self._home
        key, certificate = certificates.issue_document_certificate(authority_key, self._authority)
        write_bytes(home.retired_certificates, home.document_keys().rotated(certificate).bundle(), mode=PUBLIC)
        new = home.roster_key.with_suffix(".new")
        new.unlink(missing_ok=True)
        write_private_key(new, key)
        new.replace(home.roster_key)
        write_bytes(home.roster_certificate, certificate, mode=PUBLIC)
        self._save_roster(replace(roster, version=roster.version + 1), "rotate", "")
        self.hand_out()
        return certificate

    def _save_roster(self, roster: Roster, act: str, site: str) -> None:
        key, log = self._home.signing_key(), self._home.public_log()
        signed = roster.to_signed(key)
        # A folder of an earlier version has no log yet.
        log.certify(key, self._home.document_keys().lasting(certificates.SITE_DAYS))
        log.add(act, **({"site": site} if site else {}), version=roster.version, roster=file_hash(signed))
        write_bytes(self._home.roster_file, signed, mode=PUBLIC)

    def _save_sites(self, sites: dict[str, Any]) -> None:
        write_bytes(self._home.sites_file, json.dumps(sites, indent=1).encode(), mode=PUBLIC)

    def _save_invitations(self, invitations: dict[str, Any]) -> None:
        write_bytes(self._home.invitations_file, json.dumps(invitations, indent=1).encode())


def read_ca_key(path: Path) -> bytes:
    """Return the CA's private key. If it is not on this machine, an InputError says how to name it."""
    if not path.exists():
        raise InputError(f"{path}: the CA's key is not here; bring it back and name it with --ca-key PATH")
    return read_private_key(path)


@contextmanager
def register_of(home: ServerHome) -> Iterator[Admissions]:
    """Open the register of sites for one change at a time: of two at once, one would be lost."""
    with sole_instance(home.folder / "state" / "members.lock", "another invite, admit, renew or revoke"):
        yield Admissions(home)
