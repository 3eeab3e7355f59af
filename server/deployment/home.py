"""The coordinator's folder: its name, its keys, and where each part keeps its state. `server init` writes it once.

```
server.json            the consortium's name, addresses and ports
ca/ca.key ca.crt       the consortium's authority; ca.key may be kept elsewhere: `start` and `run` never need it
ca/roster.key .crt     what signs rosters, plans and admissions; certified by the authority
ca/retired.crt         certificates of earlier such keys, whose plans stay readable
ca/log.key             what signs the heads of the public log
ca/sites/SITE.crt      the certificate of each site
tls/server.key .crt    what the SuperLink shows to the sites
secrets/               superexec: who may take the ServerApp's task; control: who may use the control channel
flwr/ROLE/             FLWR_HOME of control, superlink and superexec
state/                 SuperLink's database, the lock, what runs now
roster.json plan.json  signed documents, for the sites to see
invitations.json       open invitations: a hash of each one-time code (0600)
requests/              of sites that joined with a link: SITE.csr.json, their request, and SITE.admission for them
sites.json             Flower's node id and node key of each admitted site
public_log/            what was done, in a file that only grows, and its signed heads
app/  runs/  logs/     the stub bundle, one folder per run, what the processes print
```
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from privacy.flower.processes import LOOPBACK, closed_environment
from privacy.trust import certificates, identity, signed
from privacy.trust.document_keys import DocumentKeys, read_bundle
from privacy.trust.membership import CONSORTIUM_NAME, check_address
from privacy.trust.passphrase import passphrase, read_private_key, write_private_key
from privacy.trust.roster import Roster
from server.record.public_log import PublicLog
from shared_model.core.errors import InputError, naming
from shared_model.core.files import PRIVATE, PUBLIC, create_file, write_bytes
from shared_model.core.migration import check_schema

RECORD = "server.json"
SCHEMA, OLDEST_SCHEMA = 3, 2  # of this folder; server/deployment/migration.py brings an older one up
CONNECTION = "coordinator"  # the name of the SuperLink connection in FLWR_HOME/config.toml
CONTROL_USER = "coordinator"
FOLDERS = ("ca", "tls", "secrets", "state", "logs", "runs", "app", "flwr/control", "flwr/superlink", "flwr/superexec")


@dataclass(frozen=True, kw_only=True)
class ServerHome:
    """A coordinator's folder and addresses. It listens on `host`:`port`; sites reach it at `address`.

    The control channel is only on 127.0.0.1.
    """

    folder: Path
    name: str
    host: str
    port: int
    control_port: int
    address: str

    @property
    def ca_certificate(self) -> Path:
        """CA certificate that sites and our own tools verify the SuperLink with."""
        return self.folder / "ca" / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Where the CA's private key is, unless it is kept elsewhere."""
        return self.folder / "ca" / "ca.key"

    @property
    def roster_key(self) -> Path:
        """Private key that signs the consortium's documents."""
        return self.folder / "ca" / "roster.key"

    @property
    def roster_certificate(self) -> Path:
        """Certificate of the key that signs the consortium's documents."""
        return self.folder / "ca" / "roster.crt"

    @property
    def retired_certificates(self) -> Path:
        """Certificates of earlier document keys, where there are any."""
        return self.folder / "ca" / "retired.crt"

    def document_keys(self) -> DocumentKeys:
        """Return the keys that sign the consortium's documents, the current one and the retired ones."""
        retired, read = self.retired_certificates, identity.read_input
        old = read_bundle(read(retired)) if retired.exists() else ()
        return DocumentKeys(authority=read(self.ca_certificate), current=read(self.roster_certificate), retired=old)

    def signing_key(self) -> bytes:
        """Return the private key that signs documents; InputError when it has ended, or is not the certificate's."""
        with naming(self.roster_certificate):
            public = self.document_keys().accepting()
        key = read_private_key(self.roster_key)
        if signed.private_key(key).public_key() != public:
            raise InputError(f"{self.roster_key}: not the key of its certificate; `server rotate` makes a new pair")
        return key

    @property
    def roster_file(self) -> Path:
        """The signed roster."""
        return self.folder / "roster.json"

    @property
    def plan_file(self) -> Path:
        """The signed federation plan, once there is one."""
        return self.folder / "plan.json"

    def site_certificate(self, site: str) -> Path:
        """The certificate that the CA issued to a site last; plans carry it."""
        return self.folder / "ca" / "sites" / f"{site}.crt"

    @property
    def invitations_file(self) -> Path:
        """Open invitations by site."""
        return self.folder / "invitations.json"

    def request(self, site: str) -> Path:
        """The request that a site sent with its link."""
        return self.folder / "requests" / f"{site}.csr.json"

    def admission(self, site: str) -> Path:
        """The newest admission of a site that joined with a link."""
        return self.folder / "requests" / f"{site}.admission"

    def waiting(self) -> list[str]:
        """Return the sites that sent a request with their link and are not admitted yet."""
        found = sorted((self.folder / "requests").glob("*.csr.json"))
        sites = [path.name.removesuffix(".csr.json") for path in found]
        return [site for site in sites if not self.admission(site).exists()]

    @property
    def tls_key(self) -> Path:
        """Private key of what the SuperLink shows to the sites."""
        return self.folder / "tls" / "server.key"

    @property
    def tls_certificate(self) -> Path:
        """What the SuperLink shows to the sites."""
        return self.folder / "tls" / "server.crt"

    @property
    def control_address(self) -> str:
        """Address of the local control channel, host:port."""
        return f"{LOOPBACK}:{self.control_port}"

    @property
    def lock(self) -> Path:
        """Lock that `server start` holds."""
        return self.folder / "state" / "start.lock"

    @property
    def state_file(self) -> Path:
        """State file that `server start` writes about itself."""
        return self.folder / "state" / "start.json"

    @property
    def sites_file(self) -> Path:
        """Flower's node id and node key by site."""
        return self.folder / "sites.json"

    @property
    def console_port(self) -> int:
        """Port of the console that `server start` runs, on 127.0.0.1: the one after the control channel's."""
        return self.control_port + 1

    def public_log(self) -> PublicLog:
        """Return the transparency log of this coordinator."""
        consortium = certificates.consortium_id(identity.read_input(self.ca_certificate))
        return PublicLog(self.folder / "public_log", consortium, key=self.folder / "ca" / "log.key")

    def secret(self, name: str) -> Path:
        """Path of the secret called `name` (superexec, control)."""
        return self.folder / "secrets" / name

    def log(self, name: str) -> Path:
        """Path of the log of the process called `name`."""
        return self.folder / "logs" / f"{name}.log"

    def beat(self, name: str) -> Path:
        """Heartbeat of the process called `name` (privacy/flower/heartbeat.py)."""
        return self.folder / "state" / f"{name}.beat"

    def write_connection(self) -> None:
        """Write Flower's configuration of the control channel anew: it holds this folder's path, which may change."""
        content = _connection(self, self.secret("control").read_bytes())
        write_bytes(self.folder / "flwr" / "control" / "config.toml", content)

    def environment(self, role: str) -> dict[str, str]:
        """Environment of a child process in `role` (control, superlink, superexec)."""
        return closed_environment(self.folder / "flwr" / role)

    def save(self) -> None:
        """Write server.json (never over an older one)."""
        record: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        del record["folder"]  # the folder may move
        create_file(self.folder / RECORD, (json.dumps(record, indent=1) + "\n").encode(), PUBLIC)

    @staticmethod
    def load(folder: Path) -> ServerHome:
        """Read server.json in `folder`; InputError naming the file and the key when it is missing or wrong."""
        path = folder.resolve() / RECORD
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(
                f"{folder}: no coordinator here (no server.json); run `server init NAME --home {folder}`"
            ) from error
        except ValueError as error:
            raise InputError(f"{path}: expected JSON as `server init` writes it") from error
        schema = record.pop("schema", None) if isinstance(record, dict) else None
        check_schema(path, schema, SCHEMA, OLDEST_SCHEMA, f"server upgrade --home {folder}")
        expected = {"name": str, "host": str, "port": int, "control_port": int, "address": str}
        if set(record) != set(expected):
            raise InputError(f"{path}: expected the keys schema, {', '.join(expected)}")
        for key, kind in expected.items():
            if type(record[key]) is not kind:
                raise InputError(f"{path}: key {key}: expected {kind.__name__}, found {record[key]!r}")
        return ServerHome(folder=path.parent, **record)


def create(name: str, folder: Path, host: str, port: int, control_port: int, addresses: list[str]) -> ServerHome:
    """Make the folder of consortium `name`: CA, certificates, an empty roster, secrets, FLWR_HOMEs.

    The TLS certificate is for `host` and `addresses`. Sites use the first of `addresses`, or `host` without any.
    InputError when the folder is not empty, or a name, port or address cannot be used. Then nothing is written.
    """
    if not CONSORTIUM_NAME.accepts(name):
        raise InputError(f"NAME {name!r}: expected {CONSORTIUM_NAME.expected()}")
    _check_ports(port, control_port)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder (nothing was changed)")
    hosts = [host_name for host_name in (*addresses, host) if host_name not in ("0.0.0.0", "::")]
    if not hosts:
        raise InputError(f"--host {host}: give with --address a name or IP by which sites reach this machine")
    passphrase()  # refuse an unusable passphrase before anything is written
    authority_key, authority = certificates.new_authority(f"FedKT3D {name}"[:64])
    key, certificate = certificates.issue_server_certificate(authority_key, authority, hosts)
    roster_key, roster_certificate = certificates.issue_document_certificate(authority_key, authority)
    address = check_address(f"[{hosts[0]}]:{port}" if ":" in hosts[0] else f"{hosts[0]}:{port}")
    home = ServerHome(
        folder=folder.resolve(), name=name, host=host, port=port, control_port=control_port, address=address
    )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for part in FOLDERS:
        (home.folder / part).mkdir(parents=True, mode=0o700)
    write_private_key(home.ca_key, authority_key)
    create_file(home.ca_certificate, authority, PUBLIC)
    write_private_key(home.roster_key, roster_key)
    create_file(home.roster_certificate, roster_certificate, PUBLIC)
    create_file(home.tls_key, key, PRIVATE)
    create_file(home.tls_certificate, certificate, PUBLIC)
    roster = Roster(consortium=certificates.consortium_id(authority))
    create_file(home.roster_file, roster.to_signed(roster_key), PUBLIC)
    home.public_log().certify(roster_key)
    create_file(home.secret("superexec"), identity.new_secret(), PRIVATE)
    control = identity.new_secret()
    create_file(home.secret("control"), control, PRIVATE)
    create_file(home.folder / "flwr" / "control" / "config.toml", _connection(home, control), PRIVATE)
    home.save()
    return home


def renew_tls(home: ServerHome, authority_key: bytes, addresses: list[str]) -> bytes:
    """Replace the TLS key and certificate, for the same hosts and ``addresses``; returns the certificate (PEM).

    The SuperLink uses it from its next start on. After a crash between the two files, do it again.
    """
    hosts = [*certificates.server_hosts(identity.read_input(home.tls_certificate)), *addresses]
    authority = identity.read_input(home.ca_certificate)
    key, certificate = certificates.issue_server_certificate(authority_key, authority, hosts)
    write_bytes(home.tls_key, key)
    write_bytes(home.tls_certificate, certificate, mode=PUBLIC)
    return certificate


def _check_ports(port: int, control_port: int) -> None:
    for option, value in (("--port", port), ("--control-port", control_port)):
        if not 1 <= value <= 65535:
            raise InputError(f"{option} {value}: expected a TCP port, 1 to 65535")
    if port == control_port:
        raise InputError(f"--control-port {control_port}: must differ from --port; sites must not reach it")


def _connection(home: ServerHome, control_secret: bytes) -> bytes:
    """Flower's config.toml. The control secret rides in the address as user:password, which httpx sends as HTTP Basic
    inside TLS; so Flower's own `flwr` works with this FLWR_HOME and nobody else's does."""
    address = f"{CONTROL_USER}:{control_secret.decode()}@{home.control_address}"
    lines = [
        "[superlink]",
        f'default = "{CONNECTION}"',
        f"[superlink.{CONNECTION}]",
        f'address = "{address}"',
        f"root-certificates = {json.dumps(str(home.ca_certificate))}",
    ]
    return ("\n".join(lines) + "\n").encode()
