"""A site's folder of an earlier version becomes one of this version: `client upgrade`, and `client start` by itself.

From schema 2 (November 2026, before sites compared keys) to 3:

- `policy.yaml` gets the key ``known_peers``, with the stricter value. The site refuses sums until `client trust` knows
  the other hospitals.
- The privacy ledger gets an id. Its charges stay: what was spent is spent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from client.site.home import RECORD, SCHEMA
from client.site.policy import Policy
from privacy.flower.processes import sole_instance
from shared_model.core.files import write_bytes
from shared_model.core.located import read_located
from shared_model.core.migration import Keep, Step, migrate

_KNOWN_PEERS = """
# Take part in sums only with hospitals whose keys somebody here has compared with them (`client trust`).
# Added by the upgrade.
known_peers: true
"""


def upgrade_site(folder: Path) -> list[str]:
    """Bring a site's folder to this version's layout; returns what was done, a line each.

    InputError while `client start` of any version runs for it, or where its files cannot be read.
    """
    record = folder.resolve() / RECORD
    lock = record.parent / "state" / "start.lock"
    if not record.is_file() or not lock.parent.is_dir():
        return []
    with sole_instance(lock, "the site"):
        return migrate(record, SCHEMA, STEPS)


def schema_of(folder: Path) -> int:
    """Return the schema of a site's folder that ``ClientHome.load`` reads, an older one too."""
    return int(json.loads((folder / RECORD).read_text(encoding="utf-8"))["schema"])


def upgraded_policy(path: Path) -> str | None:
    """Return the text of policy.yaml as this version needs it; None where it is so already."""
    if "known_peers" in read_located(path).mapping():
        return None
    text = path.read_text(encoding="utf-8")
    return text.rstrip("\n") + "\n" + _KNOWN_PEERS


def _from_2(folder: Path, keep: Keep) -> list[str]:
    done, policy = [], folder / "policy.yaml"
    text = upgraded_policy(policy)
    if text is not None:
        Policy.parse(text, policy.name)  # before anything changes
        keep(policy)
        write_bytes(policy, text.encode(), mode=policy.stat().st_mode & 0o777)
        done.append("policy.yaml: known_peers: true; compare keys with the other hospitals (client trust)")
    ledger = Policy.load(policy).ledger_in(folder)
    if ledger.made and ledger.give_id(keep):
        done.append("privacy ledger: has an id now; its charges are as they were")
    return done


STEPS: Mapping[int, Step] = {2: _from_2}
