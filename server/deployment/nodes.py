"""Sites' node keys at the SuperLink: register again those that it does not know.

The SuperLink keeps them in `state/superlink.db`, which need not be in a backup: `sites.json` has all that it takes.
"""

from __future__ import annotations

import json
import secrets

from privacy.flower.processes import read_state
from server.deployment.control import Control
from server.deployment.home import ServerHome
from shared_model.core.files import PUBLIC, write_bytes


def restore(home: ServerHome, control: Control) -> list[str]:
    """Register each site of `sites.json` whose node the SuperLink does not know; return the names of these sites.

    Each gets a new node id, which is written down at once. FedKT3DError when the SuperLink does not answer or refuses.
    """
    known = {str(node["node-id"]) for node in control.nodes()}
    restored = []
    for name, entry in read_state(home.sites_file).items():
        if str(entry["node_id"]) in known:
            continue
        public_key = home.folder / "state" / f"restoring-{secrets.token_hex(4)}.pub"
        public_key.write_text(entry["public_key"] + "\n", encoding="ascii")
        try:
            node_id = control.register(public_key)
        finally:
            public_key.unlink()
        sites = {**read_state(home.sites_file), name: {**entry, "node_id": node_id}}
        write_bytes(home.sites_file, json.dumps(sites, indent=1).encode(), mode=PUBLIC)
        restored.append(name)
    return restored
