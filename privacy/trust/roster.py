"""The roster: which sites a consortium has admitted or revoked, and their keys. One signed document that only grows.

``{"schema", "consortium", "version", "sites": {name: {"identity", "certificate", "node_key", "state", "since"}},
"retired": [...]}``. ``identity`` is the site's raw Ed25519 public key in hex, ``certificate`` and ``node_key`` are
SHA-256 fingerprints, ``since`` is UTC. Every change raises ``version`` by one. ``retired`` holds each key that was ever
revoked. No such key is admitted again, under any name.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from privacy.trust import signed
from privacy.trust.peers import check_identities
from shared_model.core.errors import InputError
from shared_model.core.fields import OneOf, Rule, Text, Whole, check_values

SCHEMA = 1
KIND = "roster"
SITE_NAME = Text(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", 32, "a site's name (letters, digits, _ and -)")
CONSORTIUM = Text(r"[0-9a-f]{32}", 32, "a consortium's id (32 hex digits)")
DIGEST = Text(r"[0-9a-f]{64}", 64, "64 hex digits")
TIME = Text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", 25, "a time in UTC")
_MOST_SITES = 1000


@dataclass(frozen=True, kw_only=True)
class RosterEntry:
    """One site's entry: its keys, and whether they are admitted or revoked."""

    identity: str
    certificate: str
    node_key: str
    state: str
    since: str

    RULES: ClassVar[Mapping[str, Rule]] = {
        "identity": DIGEST,
        "certificate": DIGEST,
        "node_key": DIGEST,
        "state": OneOf(("admitted", "revoked")),
        "since": TIME,
    }


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The sites of one consortium at one version. A change returns a new roster. ``sites`` is in order of names."""

    consortium: str
    version: int = 1
    sites: Mapping[str, RosterEntry] = field(default_factory=dict)
    retired: tuple[str, ...] = ()

    def admitted(self, site: str) -> bool:
        """Return whether the site may take part."""
        return site in self.sites and self.sites[site].state == "admitted"

    def shuts_out(self, site: str, key: str) -> bool:
        """Return whether ``key`` was revoked, or differs from the key of ``site`` here. A new site is not shut out."""
        return key in self.retired or (site in self.sites and self.sites[site].identity != key)

    def knows(self, key: str) -> bool:
        """Return whether a key (``identity`` or ``node_key``) belongs to a site, or did until it was revoked."""
        return key in self.retired or any(key in (entry.identity, entry.node_key) for entry in self.sites.values())

    def admit(self, site: str, *, identity: str, certificate: str, node_key: str) -> Roster:
        """Add a site; InputError when the name is taken or the roster knows one of the keys already."""
        if self.admitted(site):
            raise InputError(f"site {site}: admitted already; `server revoke {site}` first to change its keys")
        check_identities({site: identity})
        if self.knows(identity) or self.knows(node_key):
            raise InputError(f"site {site}: a key in its request was used before; a key is never accepted twice")
        entry = RosterEntry(
            identity=identity, certificate=certificate, node_key=node_key, state="admitted", since=utc_now()
        )
        return self._with(site, entry)

    def renew(self, site: str, certificate: str) -> Roster:
        """Replace an admitted site's certificate with a fresh one for the same key."""
        return self._with(site, replace(self._entry(site), certificate=certificate))

    def revoke(self, site: str) -> Roster:
        """Mark a site as revoked and retire its keys."""
        entry = self._entry(site)
        retired = tuple(sorted({*self.retired, entry.identity, entry.node_key}))
        return replace(self._with(site, replace(entry, state="revoked", since=utc_now())), retired=retired)

    def _entry(self, site: str) -> RosterEntry:
        if not self.admitted(site):
            raise InputError(
                f"site {site}: not one of the admitted sites ({', '.join(self.names()) or 'there are none'})"
            )
        return self.sites[site]

    def names(self) -> list[str]:
        """Names of the admitted sites."""
        return [name for name in self.sites if self.admitted(name)]

    def identities(self) -> dict[str, str]:
        """Identity keys (hex) of the admitted sites, by name."""
        return {name: self.sites[name].identity for name in self.names()}

    def _with(self, site: str, entry: RosterEntry) -> Roster:
        return replace(self, version=self.version + 1, sites=dict(sorted({**self.sites, site: entry}.items())))

    def to_signed(self, key_pem: bytes) -> bytes:
        """Sign the roster with the consortium's document key."""
        document: dict[str, Any] = {"schema": SCHEMA, **asdict(self)}
        return signed.sign(KIND, {**document, "retired": list(self.retired)}, key_pem)

    @staticmethod
    def from_signed(content: bytes, signer: signed.Signer, consortium: str) -> Roster:
        """Verify and read a roster; InputError unless it is ``consortium``'s and ``signer`` signed it."""
        document = signed.verify(KIND, content, signer)
        rules: dict[str, Rule] = {"schema": Whole(SCHEMA, SCHEMA), "consortium": CONSORTIUM}
        rules["version"] = Whole(1, 2**31)
        sites, retired = document.pop("sites", None), document.pop("retired", None)
        check_values("schema", KIND, document, rules)
        if document["consortium"] != consortium:
            raise InputError("roster: it belongs to another consortium")
        if not isinstance(sites, dict) or len(sites) > _MOST_SITES or not all(map(SITE_NAME.accepts, sites)):
            raise InputError(f"roster: sites must map names to entries; a name is {SITE_NAME.expected()}")
        if not isinstance(retired, list) or not all(map(DIGEST.accepts, retired)):
            raise InputError("roster: retired must be a list of keys")
        entries = {name: _entry(name, raw) for name, raw in sites.items()}
        return Roster(consortium=consortium, version=document["version"], sites=entries, retired=tuple(retired))


def _entry(name: str, raw: object) -> RosterEntry:
    if not isinstance(raw, dict):
        raise InputError(f"roster: site {name}: expected keys and values")
    check_values("schema", f"roster: site {name}", raw, RosterEntry.RULES)
    return RosterEntry(**raw)


def utc_now() -> str:
    """Return the time now, in the roster's form."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
