"""The messages between sites and coordinator, in the order of the protocol. An index names a site (Cohort).

Terms (context.py) -> Advert; Adverts -> Deal; Inbox -> Masked and the masked vector; Survivors -> Confirmation;
Confirmations -> Reveal. The coordinator's messages hold the set-up's hash. In a site's messages the signature covers
that hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from privacy.secagg.context import HASH_BYTES, MOST_SITES, MOST_STEPS
from privacy.secagg.layout import SIGNATURE_BYTES, BySite, BytesField, Field, Many, Number, Packed, Raw, SignedPacked
from privacy.secagg.shamir import SHARE_BYTES
from shared_model.core.fields import MessageError

KEY_BYTES = 32
TAG_BYTES = 16  # of AES-GCM
STEP_SHARES = 2 * SHARE_BYTES  # of the seed and of the mask key, for one step
STEP_COMMITMENTS = 2 * HASH_BYTES
SEED, KEY = 0, 1  # the two kinds of shares

_SITE, _STEP, _ROUND = Number(2), Number(2), Number(4)
_BOX = BytesField(MOST_STEPS * STEP_SHARES + TAG_BYTES)
_COMMITMENTS = BytesField(MOST_STEPS * STEP_COMMITMENTS)


@dataclass(frozen=True, kw_only=True)
class Advert(SignedPacked):
    """A site's keys for one set-up: one X25519 key for receiving shares, and for each step a mask key and H(seed).

    ``ledger``: what the site shows of its privacy ledger (privacy/secagg/heads.py); empty without one.
    """

    site: int
    share_key: bytes
    mask_keys: tuple[bytes, ...]
    commitments: tuple[bytes, ...]
    ledger: bytes
    signature: bytes

    TAG: ClassVar[int] = 2
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": _SITE,
        "share_key": Raw(KEY_BYTES),
        "mask_keys": Many(Raw(KEY_BYTES), MOST_STEPS),
        "commitments": Many(Raw(HASH_BYTES), MOST_STEPS),
        "ledger": BytesField(1200),
        "signature": Raw(SIGNATURE_BYTES),
    }


@dataclass(frozen=True, kw_only=True)
class Adverts(Packed):
    """Every site's Advert, as bytes."""

    setup: bytes
    round: int
    adverts: Mapping[int, bytes]

    TAG: ClassVar[int] = 3
    LAYOUT: ClassVar[dict[str, Field]] = {
        "setup": Raw(HASH_BYTES),
        "round": _ROUND,
        "adverts": BySite(BytesField(2 * MOST_STEPS * HASH_BYTES + 2048), MOST_SITES),
    }


@dataclass(frozen=True, kw_only=True)
class Deal(SignedPacked):
    """A site's shares for all others. Each share is sealed for its receiver. Commitments stop anyone changing it later.

    ``commitments`` (own share included): for each step the SHA-256 of the seed's share and of the mask key's share.
    """

    site: int
    boxes: Mapping[int, bytes]
    commitments: Mapping[int, bytes]
    signature: bytes

    TAG: ClassVar[int] = 4
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": _SITE,
        "boxes": BySite(_BOX, MOST_SITES),
        "commitments": BySite(_COMMITMENTS, MOST_SITES),
        "signature": Raw(SIGNATURE_BYTES),
    }


@dataclass(frozen=True, kw_only=True)
class Inbox(Packed):
    """Opens step ``step`` for one site: the shares that the others dealt to it, and their commitments.

    It comes with every step, so a site that missed one step can go on with the next. It must be the same each time.
    """

    setup: bytes
    round: int
    step: int
    boxes: Mapping[int, bytes]
    commitments: Mapping[int, bytes]

    TAG: ClassVar[int] = 5
    LAYOUT: ClassVar[dict[str, Field]] = {
        "setup": Raw(HASH_BYTES),
        "round": _ROUND,
        "step": _STEP,
        "boxes": BySite(_BOX, MOST_SITES),
        "commitments": BySite(_COMMITMENTS, MOST_SITES),
    }


@dataclass(frozen=True, kw_only=True)
class Masked(SignedPacked):
    """Accompanies a masked vector: its hash, and a hiding commitment to the unmasked vector for a later audit."""

    site: int
    step: int
    masked: bytes
    commitment: bytes
    signature: bytes

    TAG: ClassVar[int] = 6
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": _SITE,
        "step": _STEP,
        "masked": Raw(HASH_BYTES),
        "commitment": Raw(HASH_BYTES),
        "signature": Raw(SIGNATURE_BYTES),
    }


@dataclass(frozen=True, kw_only=True)
class Survivors(Packed):
    """Whose masked vectors the coordinator has added up."""

    setup: bytes
    round: int
    step: int
    sites: tuple[int, ...]

    TAG: ClassVar[int] = 7
    LAYOUT: ClassVar[dict[str, Field]] = {
        "setup": Raw(HASH_BYTES),
        "round": _ROUND,
        "step": _STEP,
        "sites": Many(_SITE, MOST_SITES),
    }

    def __post_init__(self) -> None:
        if list(self.sites) != sorted(set(self.sites)):
            raise MessageError("schema", "secure aggregation: survivors must be in order, each only once")

    def signed_part(self) -> bytes:
        """Return what each survivor signs, in addition to the step's context."""
        return b"".join(_SITE.write(site) for site in self.sites)


@dataclass(frozen=True, kw_only=True)
class Confirmation(Packed):
    """A survivor's signature over the set of survivors that the coordinator showed it."""

    site: int
    step: int
    signature: bytes

    TAG: ClassVar[int] = 8
    LAYOUT: ClassVar[dict[str, Field]] = {"site": _SITE, "step": _STEP, "signature": Raw(SIGNATURE_BYTES)}


@dataclass(frozen=True, kw_only=True)
class Confirmations(Packed):
    """The survivors' signatures."""

    setup: bytes
    round: int
    step: int
    signatures: Mapping[int, bytes]

    TAG: ClassVar[int] = 9
    LAYOUT: ClassVar[dict[str, Field]] = {
        "setup": Raw(HASH_BYTES),
        "round": _ROUND,
        "step": _STEP,
        "signatures": BySite(Raw(SIGNATURE_BYTES), MOST_SITES),
    }


@dataclass(frozen=True, kw_only=True)
class Reveal(Packed):
    """ONE of the sender's two shares from each site that dealt: the kind (SEED or KEY) and the share."""

    site: int
    step: int
    shares: Mapping[int, bytes]

    TAG: ClassVar[int] = 10
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": _SITE,
        "step": _STEP,
        "shares": BySite(Raw(1 + SHARE_BYTES), MOST_SITES),
    }


@dataclass(frozen=True, kw_only=True)
class Complaint(SignedPacked):
    """A site's signed refusal of a set-up: the dealers whose shares it cannot open, or that break their commitment."""

    site: int
    dealers: tuple[int, ...]
    signature: bytes

    TAG: ClassVar[int] = 11
    LAYOUT: ClassVar[dict[str, Field]] = {
        "site": _SITE,
        "dealers": Many(_SITE, MOST_SITES),
        "signature": Raw(SIGNATURE_BYTES),
    }
