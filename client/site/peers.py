"""The other sites whose keys this site has compared: ``trust/peers.json`` maps a site's name to its key's digits.

A person compares the digits with a person at the other hospital, not with the coordinator, and enters them with
`client trust add`. From then on the gate takes part in a sum only with the sites entered here (`known_peers` in
policy.yaml): a coordinator that invents hospitals, or swaps the key of a true one, gets no sum.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from privacy.trust.peers import GROUPS, peer_digits
from privacy.trust.roster import SITE_NAME
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, write_json

_DIGITS = re.compile(rf"\d{{5}}( \d{{5}}){{{GROUPS - 1}}}")


@dataclass(frozen=True, kw_only=True)
class KnownPeers:
    """The compared keys in the file ``path``, for the consortium with this id."""

    path: Path
    consortium: str

    def load(self) -> dict[str, str]:
        """Return the digits by name of the site; InputError when the file was changed into something else."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path}: cannot be read; expected what `client trust add` writes") from error
        if not isinstance(found, dict) or not all(
            SITE_NAME.accepts(name) and isinstance(digits, str) and _DIGITS.fullmatch(digits)
            for name, digits in found.items()
        ):
            raise InputError(f"{self.path}: expected names of sites with {GROUPS} groups of five digits each")
        return found

    def add(self, site: str, digits: str) -> None:
        """Enter a site's digits. InputError for a malformed name or number, or for other digits than are there."""
        plain = re.sub(r"\D", "", digits)
        grouped = " ".join(plain[at : at + 5] for at in range(0, len(plain), 5))
        if not SITE_NAME.accepts(site):
            raise InputError(f"SITE {site!r}: expected {SITE_NAME.expected()}")
        if not _DIGITS.fullmatch(grouped):
            raise InputError(f"DIGITS: expected {GROUPS} groups of five digits, as `client trust show` prints them")
        known = self.load()
        if known.get(site, grouped) != grouped:
            raise InputError(
                f"site {site}: other digits were compared before; ask that hospital whether it made new keys, then"
                f" `client trust remove {site}` and add the new ones"
            )
        write_json(self.path, dict(sorted({**known, site: grouped}.items())), mode=PUBLIC)

    def remove(self, site: str) -> None:
        """Forget a site; InputError when it is not there."""
        known = self.load()
        if site not in known:
            raise InputError(f"site {site}: not among the compared sites ({', '.join(known) or 'there are none'})")
        del known[site]
        write_json(self.path, known, mode=PUBLIC)

    def unknown(self, identities: Mapping[str, str], own: str) -> list[str]:
        """Return the sites among ``identities`` (name -> key in hex) whose key was not compared, without ``own``."""
        known = self.load()
        return [
            name
            for name, key in sorted(identities.items())
            if name != own and known.get(name) != peer_digits(self.consortium, name, key)
        ]
