"""The hospital's folder: which coordinator it joins, its own node key, where its processes keep their state.

```
client.json           the coordinator's address and the path of the site's configuration
ca.crt                the consortium's authority; the site talks to a server with a certificate of this CA only
keys/node             the site's Flower node key (P-384, 0600), made here; it never leaves this folder
keys/SITE.pub         its public half, for the coordinator
secrets/superexec     who may take a task from the local SuperNode
flwr/ state/ logs/    FLWR_HOME, lock and state, what the processes print
```
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from client.site import SiteConfig
from privacy import identity
from privacy.processes import closed_environment
from shared_model.errors import InputError

SCHEMA = 1
_ADDRESS = re.compile(r"^([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:]+\]):([0-9]{1,5})$")


@dataclass(frozen=True, kw_only=True)
class ClientHome:
    """A site's folder, its coordinator's address (host:port) and the path of its site configuration."""

    folder: Path
    server: str
    site_config: Path

    @property
    def ca_certificate(self) -> Path:
        """The one authority that this site trusts."""
        return self.folder / "ca.crt"

    @property
    def node_key(self) -> Path:
        """Private node key."""
        return self.folder / "keys" / "node"

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

    def log(self, name: str) -> Path:
        """Log of the process called `name`."""
        return self.folder / "logs" / f"{name}.log"

    def environment(self) -> dict[str, str]:
        """Environment of the site's child processes."""
        return closed_environment(self.folder / "flwr")

    @staticmethod
    def load(folder: Path) -> ClientHome:
        """Read client.json in `folder`; InputError naming the file and the key when it is missing or wrong."""
        path = folder.resolve() / "client.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{folder}: no site here (no client.json); run `client init {folder}`") from error
        except ValueError as error:
            raise InputError(f"{path}: expected JSON as `client init` writes it") from error
        if not isinstance(record, dict) or record.pop("schema", None) != SCHEMA:
            raise InputError(f"{path}: key schema: expected {SCHEMA}")
        if set(record) != {"server", "site_config"} or not all(isinstance(value, str) for value in record.values()):
            raise InputError(f"{path}: expected the keys schema, server, site_config (text)")
        return ClientHome(
            folder=path.parent, server=check_address(record["server"]), site_config=Path(record["site_config"])
        )


def check_address(server: str) -> str:
    """Return `server` when it reads host:port; InputError otherwise."""
    match = _ADDRESS.match(server)
    if match is None or not 1 <= int(match.group(2)) <= 65535:
        raise InputError(f"--server {server!r}: expected HOST:PORT, without https://")
    return server


def create(folder: Path, server: str, ca: Path, site_config: Path) -> tuple[ClientHome, Path]:
    """Make a site's folder with a node key of its own; return it with the path of the public key to hand over.

    InputError when the folder holds anything already, or the address, the CA certificate or the site configuration is
    not usable; nothing is written then.
    """
    check_address(server)
    authority = identity.read_authority(ca)
    site = SiteConfig.load(site_config)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder (nothing was changed)")
    home = ClientHome(folder=folder.resolve(), server=server, site_config=site_config.resolve())
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in ("keys", "secrets", "flwr", "state", "logs"):
        (home.folder / name).mkdir(mode=0o700)
    private, public = identity.new_node_key()
    public_key = home.folder / "keys" / f"{site.site}.pub"
    identity.write_private(home.node_key, private)
    identity.write_public(public_key, public)
    identity.write_public(home.ca_certificate, authority)
    identity.write_private(home.secret, identity.new_secret())
    record = {"schema": SCHEMA, "server": home.server, "site_config": str(home.site_config)}
    identity.write_public(home.folder / "client.json", (json.dumps(record, indent=1) + "\n").encode())
    return home, public_key
