"""How a hospital joins and leaves: folder and keys from an invitation, then the admission, the plan, and leaving.

The site makes its own keys and hands out only their public halves. Nothing here connects to anything: the two parties
exchange files in whatever way they trust.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from client.data.site_file import find_dicom_site, find_site, site_text
from client.names.rules import NAMES_TEXT
from client.site.config import DICOM, SiteConfig
from client.site.home import FOLDERS, ClientHome
from client.site.ledger_binding import bind, bound_ledger
from client.site.policy import Policy, default_policy_text
from client.site.pseudonyms import Pseudonyms
from privacy.agreement.admission import Admission
from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.agreement.peers import check_peers
from privacy.flower.processes import STOP_TIMEOUT_S, is_running, read_state
from privacy.trust import certificates, identity, signed
from privacy.trust.membership import AdmissionRequest, Invitation, check_not_expired, leave_note
from privacy.trust.passphrase import passphrase, read_private_key, write_private_key
from shared_model.core.errors import FedKT3DError, InputError, naming
from shared_model.core.files import PRIVATE, PUBLIC, create_file, write_bytes
from shared_model.core.software import versions


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where the site's patients come from: a folder of cases of one kind, or a site.yaml made elsewhere."""

    kind: str
    root: Path | None
    site_config: Path | None

    def configuration(self, site: str, folder: Path, pseudonyms: Pseudonyms) -> SiteConfig:
        """Return the configuration of ``site``, whose own folder is ``folder``; InputError names the wrong option.

        ``pseudonyms`` makes the case ids of DICOM studies.
        """
        if (self.root is None) == (self.site_config is None):
            raise InputError("expected either --data-root (the folder of the cases) or --site-config (a site.yaml)")
        if self.root is not None and self.kind == DICOM:
            return find_dicom_site(site, self.root, pseudonyms, folder)
        if self.root is not None:
            return find_site(site, self.kind, self.root)
        assert self.site_config is not None
        config = SiteConfig.load(self.site_config)
        if config.site != site:
            raise InputError(f"{self.site_config}: key site: {config.site}, but the invitation is for {site}")
        if not config.root.is_dir():
            raise InputError(f"{self.site_config}: key root: {config.root} is no folder; expected that of the cases")
        return config


def create(invitation_file: Path, folder: Path, data: Data) -> ClientHome:
    """Make a site's folder with keys of its own and the request for the coordinator.

    InputError when the folder is not empty, or the invitation or the data cannot be used. Then nothing is written.
    """
    with naming(invitation_file):
        invitation = Invitation.from_json(identity.read_input(invitation_file))
    return make_home(invitation, folder, data)


def make_home(invitation: Invitation, folder: Path, data: Data) -> ClientHome:
    """As ``create``, from an invitation that was read before."""
    pseudonyms = Pseudonyms.temporary()
    config = data.configuration(invitation.site, folder.resolve(), pseudonyms)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder (nothing was changed)")
    passphrase()  # refuses an unusable passphrase before anything is written
    home = ClientHome(
        folder=folder.resolve(),
        site=invitation.site,
        consortium=invitation.consortium,
        name=invitation.name,
        server=invitation.address,
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in FOLDERS:
        (home.folder / name).mkdir(mode=0o700)
    identity_key = certificates.new_signing_key()
    node_key, node_public_key = identity.new_node_key()
    write_private_key(home.identity_key, identity_key)
    create_file(home.node_key, node_key, PRIVATE)
    create_file(home.secret, identity.new_secret(), PRIVATE)
    create_file(home.ca_certificate, invitation.ca.encode(), PUBLIC)
    create_file(home.signer_certificate, invitation.signer.encode(), PUBLIC)
    create_file(home.request_file, AdmissionRequest.make(invitation, identity_key, node_public_key), PUBLIC)
    create_file(home.site_config, site_text(config).encode(), PUBLIC)
    known = bound_ledger(config.root)
    create_file(home.policy, default_policy_text(None if known is None else known.folder).encode(), PUBLIC)
    ledger = Policy.load(home.policy).ledger_in(home.folder)
    if known is None:
        ledger.create()
        bind(config.root, ledger)
    if data.root is not None and config.names is not None and config.pseudonyms is not None:
        create_file(config.pseudonyms, pseudonyms.salt, PRIVATE)
        create_file(config.names, NAMES_TEXT.encode(), PUBLIC)
    home.save()
    return home


def join(home: ClientHome, admission_file: Path) -> Admission:
    """Verify the coordinator's admission and keep it; a later one (renewed, newer roster) replaces the one before.

    InputError when it is not for this site's keys, or older than what the site has. Then nothing is changed.
    """
    with naming(admission_file):
        return take_admission(home, identity.read_input(admission_file))


def take_admission(home: ClientHome, content: bytes) -> Admission:
    """As ``join``, from the bytes of an admission."""
    known_keys = home.document_keys()
    keys = Admission.keys(content, known_keys)
    admission = Admission.read(content, keys.accepting(), keys.authority, own_key(home))
    if admission.site != home.site:
        raise InputError(f"admission: it is for site {admission.site}, but this folder is site {home.site}'s")
    known = home.roster()
    if known is not None and admission.roster.version < known.version:
        raise InputError(
            f"admission: its roster has version {admission.roster.version}, this site already has {known.version};"
            " an older one is never accepted"
        )
    if keys != known_keys:  # the old key first: what it signed must stay readable
        write_bytes(home.retired_signers, keys.bundle(), mode=PUBLIC)
        write_bytes(home.signer_certificate, keys.current, mode=PUBLIC)
    if admission.plan_file is not None:
        write_bytes(home.offered_plan, admission.plan_file, mode=PUBLIC)
    write_bytes(home.roster_file, admission.roster_file, mode=PUBLIC)
    # Last: with its certificate the site counts as admitted.
    write_bytes(home.certificate, admission.certificate, mode=PUBLIC)
    return admission


def own_key(home: ClientHome) -> ed25519.Ed25519PublicKey:
    """Return this site's public identity key: of its certificate where it has one, which needs no passphrase."""
    if home.certificate.exists():
        ca = identity.read_input(home.ca_certificate)
        with suppress(InputError):  # it has ended: the next admission brings a new one
            return certificates.check_issued(identity.read_input(home.certificate), ca, home.site)
    return signed.private_key(read_private_key(home.identity_key)).public_key()


def pin_plan(home: ClientHome, path: Path) -> str:
    """Pin a signed federation plan: from now on this site answers only requests that fit it. Returns its SHA-256.

    InputError when it is not this consortium's plan, is not newer than the pinned one, has expired, names a site that
    the consortium's CA has not certified, or is not for the software that is installed here. Then nothing is changed.
    """
    from shared_model.backbone.prior import normalisation_hash
    from shared_model.network.spec import ModelSpec

    with naming(path):
        plan = home.read_plan(path)
        if plan.normalisation != normalisation_hash(ModelSpec.from_json(plan.model)):
            raise InputError("plan: its normalisation constants are not those installed here; update fedkt3d")
        check_not_expired(plan.expires, "the plan", "`server plan` makes a new one")
        roster = home.roster()
        if roster is None:
            raise InputError("plan: this site is not admitted yet; first `client join`")
        check_peers(plan, identity.read_input(home.ca_certificate), roster)
        _check_newer(home, plan, identity.read_input(path))
    content = identity.read_input(path)
    write_bytes(home.plan_file, content, mode=PUBLIC)
    return plan_hash(content)


def _check_newer(home: ClientHome, plan: FederationPlan, content: bytes) -> None:
    """Raise InputError when another plan of this version or a later one is pinned already."""
    pinned = home.pinned_plan()
    if pinned is None or plan_hash(content) == plan_hash(identity.read_input(home.plan_file)):
        return
    if plan.version <= pinned.version:
        raise InputError(
            f"plan: it has version {plan.version}, this site has pinned version {pinned.version}; an older"
            " plan is never accepted"
        )


@dataclass(frozen=True, kw_only=True)
class ShownPlan:
    """A federation plan to show, whether this site has pinned it, and whether another one is offered."""

    path: Path
    plan: FederationPlan
    sha256: str
    pinned: bool
    newer: bool

    def record(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {
            "pinned": self.pinned,
            "sha256": self.sha256,
            "another_offered": self.newer,
            "plan": asdict(self.plan),
            "software_differs": self.differences(),
        }

    def lines(self, home_folder: Path) -> list[str]:
        """Return the plan in plain words, and what the site can do with it."""
        state = "pinned: requests that do not fit it are refused" if self.pinned else "offered, NOT accepted"
        lines = [f"{self.path}: {state}", f"sha256 {self.sha256}", *(f"  {line}" for line in self.plan.in_words())]
        lines += [
            f"  NOTE {name}: {theirs} in the plan, {ours} here" for name, (theirs, ours) in self.differences().items()
        ]
        if not self.pinned or self.newer:
            offered = home_folder / "trust" / "offered_plan.json"
            lines.append(f"to accept the offered plan: client plan --home {home_folder} --accept {offered}")
        return lines

    def differences(self) -> dict[str, tuple[str, str]]:
        """Return the packages whose version here is another than the plan's: name -> (theirs, ours)."""
        ours = versions()
        return {
            name: (version, ours.get(name, "not known"))
            for name, version in sorted(self.plan.software.items())
            if ours.get(name) != version
        }


def plan_to_show(home: ClientHome) -> ShownPlan:
    """Return the pinned plan, else the offered one; InputError when there is neither."""
    pinned = home.plan_file.exists()
    path = home.plan_file if pinned else home.offered_plan
    if not path.exists():
        raise InputError(f"{home.folder}: no federation plan; it comes with the admission, or as a file for --accept")
    content = identity.read_input(path)
    offered = home.offered_plan.exists() and plan_hash(identity.read_input(home.offered_plan)) != plan_hash(content)
    return ShownPlan(
        path=path,
        plan=home.read_plan(path, kept=pinned),
        sha256=plan_hash(content),
        pinned=pinned,
        newer=pinned and offered,
    )


def leave(home: ClientHome, note: Path, *, delete_keys: bool) -> None:
    """Stop the site's node, forget the admission and write a signed note for the coordinator to `note`.

    The keys stay unless `delete_keys`. Nothing is sent to the coordinator: somebody must hand over the note.
    """
    if note.exists() or not note.parent.is_dir():
        raise InputError(f"{note}: exists already, or its folder does not; name another file with --note")
    with naming(home.identity_key):
        content = leave_note(home.consortium, home.site, read_private_key(home.identity_key))
    _stop(home)
    create_file(note, content, PUBLIC)
    home.certificate.unlink(missing_ok=True)
    if delete_keys:
        for path in (home.identity_key, home.node_key):
            path.unlink()


def _stop(home: ClientHome) -> None:
    """Stop this folder's `client start`, if it runs, and wait until it has stopped."""
    if not is_running(home.lock):
        return
    pid = read_state(home.state("start")).get("pid")
    if type(pid) is not int:
        raise FedKT3DError(f"{home.folder}: the site is just starting; try again")
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 3 * STOP_TIMEOUT_S
    while is_running(home.lock):
        if time.monotonic() > end:
            raise FedKT3DError(f"{home.folder}: `client start` (process {pid}) did not stop; stop it and try again")
        time.sleep(0.1)
