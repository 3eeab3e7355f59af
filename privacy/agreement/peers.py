"""What a site checks of the other sites that a plan names, before it agrees to sums with them."""

from __future__ import annotations

from functools import lru_cache

from privacy.agreement.federation_plan import FederationPlan
from privacy.trust import certificates
from privacy.trust.roster import Roster
from shared_model.core.errors import InputError


def check_peers(plan: FederationPlan, authority: bytes, roster: Roster) -> None:
    """Raise InputError unless the consortium's CA certified each key for its name, valid today, and none is revoked.

    ``authority``: the CA's certificate (PEM) from this site's own invitation; ``roster``: the newest that it has. A
    roster that is as new as the plan or newer must admit each of the plan's sites with the plan's key. An older one
    cannot know all of them, and shuts out those whose keys it knows as revoked or as other keys.
    """
    for name, key in sorted(plan.sites.items()):
        _check_certificate(plan.certificates[name].encode(), authority, name, key)
        admitted = roster.admitted(name) and roster.sites[name].identity == key
        if roster.shuts_out(name, key) or (roster.version >= plan.roster_version and not admitted):
            raise InputError(
                f"plan: names {name} with a key that this site's roster (version {roster.version}) does not admit"
            )


def _check_certificate(content: bytes, authority: bytes, name: str, key: str) -> None:
    if _certified_key(content, authority, name) != key:
        raise InputError(f"plan: the certificate of {name} is for another key than the plan's")
    certificates.check_dates(content, f"certificate of {name}")


@lru_cache(maxsize=1024)
def _certified_key(content: bytes, authority: bytes, name: str) -> str:
    """Return the key (hex) that the CA certified. Kept, since verifying takes a millisecond a site and request."""
    return certificates.check_issued(content, authority, name).public_bytes_raw().hex()
