"""The hospital's folder: which consortium it joins, its own keys and limits, where its processes keep their state.

```
client.json           the site's name, the consortium and the coordinator's address
site.yaml             the data and how it is split; written by `client init`, for you to edit
structures.yaml       with DICOM: the site's rules for structure names, for you to edit. secrets/pseudonyms: its salt
policy.yaml           the site's own limits; written by `client init`, for you to edit
ledger/               what the site has spent of its privacy budget, unless policy.yaml names another folder
ca.crt signer.crt     from the invitation: the authority that the site trusts, and the key that signs documents
keys/identity         the site's Ed25519 identity (0600), keys/node: its Flower node key (P-384, 0600). Both are made
                      here and never leave this folder
SITE.csr.json         the public halves, for the coordinator
trust/                from the admission: site.crt, roster.json, offered_plan.json; plan.json: what this site has
                      pinned; peers.json: digits of other sites' keys that people have compared; declined.json: the
                      hash of the plan that was declined last; retired.crt: earlier keys that signed documents
secrets/superexec     the secret with which our executor takes tasks from the local SuperNode
scorecard.yaml        the site's scorecard in use; scorecards/: those that were saved here (client/cards/shelf.py)
flwr/ state/ logs/    FLWR_HOME, lock and state, what the processes print. state/plans/: doses and masks of reference
                      plans, for scoring cards (client/cards/kept_plans.py)
```
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519

from client.site.peers import KnownPeers
from privacy.agreement.federation_plan import FederationPlan
from privacy.agreement.peers import check_peers
from privacy.flower.processes import closed_environment
from privacy.secagg.context import Cohort
from privacy.secagg.errors import SecAggError
from privacy.trust import certificates, identity
from privacy.trust.document_keys import DocumentKeys, read_bundle
from privacy.trust.membership import CONSORTIUM_NAME, check_address
from privacy.trust.roster import CONSORTIUM, SITE_NAME, Roster
from shared_model.core.errors import InputError, naming
from shared_model.core.fields import check_values
from shared_model.core.files import PUBLIC, create_file
from shared_model.core.migration import check_schema

RECORD = "client.json"
SCHEMA, OLDEST_SCHEMA = 3, 2  # of this folder; client/site/migration.py brings an older one up
FOLDERS = ("keys", "trust", "secrets", "flwr", "state", "logs")


@dataclass(frozen=True, kw_only=True)
class ClientHome:
    """A site's folder, its name, its consortium (id and name) and the coordinator's address (host:port)."""

    folder: Path
    site: str
    consortium: str
    name: str
    server: str

    @property
    def site_config(self) -> Path:
        """The site's data and splits (YAML)."""
        return self.folder / "site.yaml"

    @property
    def policy(self) -> Path:
        """The site's own limits (YAML)."""
        return self.folder / "policy.yaml"

    @property
    def ca_certificate(self) -> Path:
        """The certificate of the one authority that this site trusts."""
        return self.folder / "ca.crt"

    @property
    def signer_certificate(self) -> Path:
        """Certificate of the key that signs the consortium's documents."""
        return self.folder / "signer.crt"

    @property
    def identity_key(self) -> Path:
        """Private identity key."""
        return self.folder / "keys" / "identity"

    @property
    def node_key(self) -> Path:
        """Private node key."""
        return self.folder / "keys" / "node"

    @property
    def request_file(self) -> Path:
        """What the site hands to the coordinator to be admitted."""
        return self.folder / f"{self.site}.csr.json"

    @property
    def certificate(self) -> Path:
        """The site's certificate, once it is admitted."""
        return self.folder / "trust" / "site.crt"

    @property
    def roster_file(self) -> Path:
        """The newest signed roster that this site has."""
        return self.folder / "trust" / "roster.json"

    @property
    def offered_plan(self) -> Path:
        """The plan that came with the admission, not yet accepted."""
        return self.folder / "trust" / "offered_plan.json"

    @property
    def plan_file(self) -> Path:
        """The plan that this site has pinned."""
        return self.folder / "trust" / "plan.json"

    @property
    def private_adapters(self) -> Path:
        """Folder of what the site learned for its own scorecard. No message can carry it."""
        return self.folder / "private"

    @property
    def scorecard(self) -> Path:
        """The site's own scorecard, which `client adopt` aligns to."""
        return self.folder / "scorecard.yaml"

    @property
    def scorecards(self) -> Path:
        """Folder of the scorecards that people here have saved."""
        return self.folder / "scorecards"

    @property
    def kept_plans(self) -> Path:
        """Folder of what is kept of the site's reference plans, to score cards on them."""
        return self.folder / "state" / "plans"

    @property
    def declined_plan(self) -> Path:
        """Hash of the plan that a person here declined last."""
        return self.folder / "trust" / "declined.json"

    @property
    def peers(self) -> KnownPeers:
        """The other sites whose keys people here have compared."""
        return KnownPeers(path=self.folder / "trust" / "peers.json", consortium=self.consortium)

    @property
    def secret(self) -> Path:
        """Secret that our executor shows to the local SuperNode."""
        return self.folder / "secrets" / "superexec"

    @property
    def lock(self) -> Path:
        """Lock that `client start` holds."""
        return self.folder / "state" / "start.lock"

    def state(self, name: str) -> Path:
        """State file of the process called `name`."""
        return self.folder / "state" / f"{name}.json"

    def beat(self, name: str) -> Path:
        """Heartbeat of the process called `name` (privacy/flower/heartbeat.py)."""
        return self.folder / "state" / f"{name}.beat"

    def log(self, name: str) -> Path:
        """Log of the process called `name`."""
        return self.folder / "logs" / f"{name}.log"

    def environment(self) -> dict[str, str]:
        """Environment of the site's child processes."""
        return closed_environment(self.folder / "flwr")

    @property
    def retired_signers(self) -> Path:
        """Certificates of earlier keys that signed the consortium's documents, where there are any."""
        return self.folder / "trust" / "retired.crt"

    def document_keys(self) -> DocumentKeys:
        """Return the keys that sign the consortium's documents, from the invitation and later admissions."""
        retired = self.retired_signers
        return DocumentKeys(
            authority=identity.read_input(self.ca_certificate),
            current=identity.read_input(self.signer_certificate),
            retired=read_bundle(identity.read_input(retired)) if retired.exists() else (),
        )

    def signer(self) -> ed25519.Ed25519PublicKey:
        """Return the key that signs what this site accepts now; InputError when it has ended."""
        with naming(self.signer_certificate):
            return self.document_keys().accepting()

    def roster(self) -> Roster | None:
        """Return the newest roster that this site has; None before it is admitted."""
        if not self.roster_file.exists():
            return None
        with naming(self.roster_file):
            return Roster.from_signed(
                identity.read_input(self.roster_file), self.document_keys().kept(), self.consortium
            )

    def read_plan(self, path: Path, *, kept: bool = False) -> FederationPlan:
        """Read and verify a signed plan; InputError when it is not this consortium's.

        ``kept``: this site has pinned it, so it may be signed by a key that was retired since.
        """
        with naming(path):
            signer = self.document_keys().kept() if kept else self.signer()
            return FederationPlan.from_signed(identity.read_input(path), signer, self.consortium)

    def pinned_plan(self) -> FederationPlan | None:
        """Return the plan that this site has accepted; None when there is none."""
        return self.read_plan(self.plan_file, kept=True) if self.plan_file.exists() else None

    def cohort(self, plan: FederationPlan | None) -> Cohort:
        """Return the sites that take part in sums with this one: those of its plan, or else those of its roster.

        SecAggError if the plan names a site that the CA has not certified, or that this site's roster does not admit.
        """
        roster = self.roster()
        if roster is None:
            raise InputError(f"{self.roster_file}: missing; this site is not admitted yet")
        if plan is None or not plan.sites:
            return Cohort.of(roster)
        try:
            check_peers(plan, identity.read_input(self.ca_certificate), roster)
        except InputError as error:
            raise SecAggError("roster", str(error)) from error
        return plan.cohort

    def require_admission(self) -> None:
        """Raise InputError when the site may not start: not admitted, revoked, or its certificate has ended."""
        if not self.certificate.exists():
            raise InputError(
                f"{self.folder}: not admitted yet; `client join` with the link again, or give {self.request_file} to"
                f" the coordinator, then `client join ADMISSION --home {self.folder}`"
            )
        roster = self.roster()
        if roster is None or not roster.admitted(self.site):
            raise InputError(f"{self.roster_file}: does not admit {self.site}; ask the coordinator for a new admission")
        with naming(self.certificate):
            certificates.check_dates(identity.read_input(self.certificate), "this site's certificate")

    def save(self) -> None:
        """Write client.json (never over an older one)."""
        record: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        del record["folder"]  # the folder may move
        create_file(self.folder / RECORD, (json.dumps(record, indent=1) + "\n").encode(), PUBLIC)

    @staticmethod
    def load(folder: Path, *, older: bool = False) -> ClientHome:
        """Read client.json in `folder`; InputError naming the file and the key when it is missing or wrong.

        ``older``: also a folder that has to be brought up first, to look at it.
        """
        path = folder.resolve() / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{folder}: no site here (no client.json); run `client join LINK --home {folder}`"
            ) from error
        except ValueError as error:
            raise InputError(f"{path}: expected JSON as `client init` writes it") from error
        schema = record.pop("schema", None) if isinstance(record, dict) else None
        if not (older and schema == OLDEST_SCHEMA):
            check_schema(path, schema, SCHEMA, OLDEST_SCHEMA, f"client upgrade --home {folder}")
        rules = {"site": SITE_NAME, "consortium": CONSORTIUM, "name": CONSORTIUM_NAME}
        with naming(path):
            server = record.pop("server", None)
            check_values("schema", "client.json", record, rules)
            check_address(server if isinstance(server, str) else "")
        return ClientHome(folder=path.parent, server=server, **record)
