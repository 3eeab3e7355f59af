"""The keys that sign a consortium's documents: plans, rosters, admissions. One is current, earlier ones are retired.

Each is certified by the CA, which is another key, and ends. Three questions have three answers. What is accepted anew
must be signed by the current key, within its dates: a retired one may be retired because it was stolen. What was
accepted before stays readable under any of them. Heads of the transparency log are in between: their key may be
certified by a retired one that has not ended, so that sites go on until each has its next admission.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.trust import certificates
from shared_model.core.errors import InputError

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----\n")


@dataclass(frozen=True, kw_only=True)
class DocumentKeys:
    """Certificates (PEM) of the ``current`` key and of ``retired`` ones, oldest first; ``authority``: the CA's."""

    authority: bytes
    current: bytes
    retired: tuple[bytes, ...] = ()

    def accepting(self) -> ed25519.Ed25519PublicKey:
        """Return the key that signs new documents; InputError when it has ended."""
        key, until = self._key(self.current), certificates.expires(self.current)
        if until <= _now():
            raise InputError(
                f"the key that signs the consortium's documents ended on {until.date().isoformat()}; the coordinator"
                " makes a new one with `server rotate`, and `server renew SITE` brings it to each site"
            )
        certificates.check_dates(self.current, "the key that signs the consortium's documents")
        return key

    def kept(self) -> tuple[ed25519.Ed25519PublicKey, ...]:
        """Return all keys, also ended ones, for documents that were accepted before."""
        return tuple(map(self._key, (self.current, *self.retired)))

    def lasting(self, days: int = 0) -> tuple[ed25519.Ed25519PublicKey, ...]:
        """Return the keys that do not end within so many days from now."""
        then = _now() + dt.timedelta(days=days)
        return tuple(self._key(pem) for pem in (self.current, *self.retired) if certificates.expires(pem) > then)

    def rotated(self, certificate: bytes) -> DocumentKeys:
        """Return the keys with ``certificate`` (PEM) as the current one; InputError for one older than the current."""
        if certificate == self.current:
            return self
        self._key(certificate)
        if certificate in self.retired or certificates.begins(certificate) < certificates.begins(self.current):
            raise InputError("the key that signed this was retired; ask the coordinator for the newest file")
        return replace(self, current=certificate, retired=(*self.retired, self.current))

    def joined(self, chain: bytes) -> DocumentKeys:
        """Return the keys of a site that gets the certificates in ``chain`` (``bundle``), of which the last is current.

        InputError when the CA did not issue one of them, or the last is older than the current one here.
        """
        found = read_bundle(chain)
        if not found:
            raise InputError("admission: signer must be certificates in PEM")
        made = self.rotated(found[-1])
        missing = [pem for pem in found[:-1] if pem not in made.retired]
        for pem in missing:
            self._key(pem)
        return replace(made, retired=tuple(sorted((*made.retired, *missing), key=certificates.begins)))

    def bundle(self, *, current: bool = False) -> bytes:
        """Return the file of the retired certificates; with the current one as its last if ``current``."""
        return b"".join((*self.retired, *((self.current,) if current else ())))

    def _key(self, certificate: bytes) -> ed25519.Ed25519PublicKey:
        return certificates.check_issued(certificate, self.authority, certificates.DOCUMENTS, dated=False)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


def read_bundle(content: bytes) -> tuple[bytes, ...]:
    """Return the certificates (PEM) in a file of ``DocumentKeys.bundle``."""
    return tuple(_CERTIFICATE.findall(content))
