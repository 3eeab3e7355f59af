"""Privacy modes, and the terms of one run: who is hidden, behind how much noise, for how many releases.

shared  patient-level: in each step every site releases its clipped gradient sum with a share of the noise (default)
local   patient-level: DP-SGD at the site, which adds all of the noise itself; several local steps per round
site    hospital-level: each site releases its whole clipped update with a share of the noise
masked  no noise: the exact sum of multi-step updates, under masks (privacy/secagg/exact_sums.py)
none    updates as they are, for tests and simulations; both ends must choose this mode explicitly

A mode has noise, or masks, or both. The terms below are those of the noise. They are public, fixed before the first
release, and the same at every site. The accounting follows from the terms alone, never from data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from privacy.dp import encoding
from privacy.dp.accountant import Charge
from privacy.dp.encoding import FINE, Encoding
from privacy.dp.noise import SAMPLER_TV
from privacy.dp.public_terms import PublicTerms
from shared_model.core.errors import InputError
from shared_model.core.fields import MessageError, OneOf, Real, Rule, Whole, check_fields

MODES: tuple[str, ...] = ("shared", "local", "site", "masked", "none")
# Modes whose answers carry noise that a ledger is charged for.
NOISED: tuple[str, ...] = ("shared", "local", "site")
# Modes whose noise is drawn in the ring and adds up over the sites. In mode local each site adds all of it before.
NOISE_SHARED: tuple[str, ...] = ("shared", "site")
# Modes whose answers leave a site only under masks.
SUMMED: tuple[str, ...] = ("shared", "local", "site", "masked")

# Modes in which a run may ask for noised counts of patients before its first round: those whose sums are masked, and
# whose promise is to patients or to nobody. The noise of the counts is for patients, and mode site hides hospitals.
COUNTED: tuple[str, ...] = ("shared", "local", "masked")


@dataclass(frozen=True, kw_only=True)
class PrivacyTerms(PublicTerms):
    """Terms of a private run. Raises MessageError ("bad_task") on a value out of range.

    ``z``: noise of an accepted sum, divided by ``clip``; ``q``: probability that a patient takes part in a step;
    ``steps``: most releases of a site; ``clip``: largest norm of a unit's vector; ``cohort``: patients that all sites
    declared; ``sites``: N of the roster; ``survivors``: m, fewest sites in an accepted sum; ``colluders``: t;
    ``bits``: bits of the ring, 0 for the smallest ring that fits; ``views``: how many draws of plan, side, timestep
    and noise are averaged into a patient's one gradient. ``local_steps``: K; with K above 1 (mode shared) a patient's
    vector is not one gradient but the mean of the K along a path of K steps of ``local_lr`` on this patient alone
    (DP-FedAvg with the patient as the unit: their delta, over the public K x local_lr). It is clipped once and released
    once a round, so the accounting is the same. ``hold_s``: a site lets an answer go at a multiple of so many seconds
    after it was asked; 0: as soon as it is done. Then its time may tell how many were drawn, and q counts as 1.
    """

    what: ClassVar[str] = "privacy terms"
    mode: str
    z: float
    q: float
    steps: int
    clip: float
    delta: float
    cohort: int
    sites: int
    survivors: int
    colluders: int
    bits: int = 0
    views: int = 2
    local_steps: int = 1
    local_lr: float = 0.01
    hold_s: float = 0.0

    RULES: ClassVar[Mapping[str, Rule]] = {
        "mode": OneOf(NOISED),
        "z": Real(0.1, 10_000.0),
        "q": Real(0.0, 1.0, above=True),
        "steps": Whole(1, 10_000_000),
        "clip": Real(0.0, 1e6, above=True),
        "delta": Real(0.0, 0.01, above=True),
        "cohort": Whole(1, 10_000_000),
        "sites": Whole(1, 10_000),
        "survivors": Whole(1, 10_000),
        "colluders": Whole(0, 10_000),
        "bits": Whole(0, 64),
        "views": Whole(1, 256),
        "local_steps": Whole(1, 1000),
        "local_lr": Real(0.0, 10.0, above=True),
        "hold_s": Real(0.0, 1e6),
    }

    def __post_init__(self) -> None:
        check_fields(self, "privacy terms", self.RULES)
        if not 1 <= self.colluders < self.survivors <= self.sites:
            raise MessageError(
                "bad_task",
                f"privacy terms: {self.sites} sites, at least {self.survivors} in a sum, {self.colluders} colluders:"
                " expected 1 <= colluders < survivors <= sites",
            )
        if self.mode != "shared" and self.local_steps != 1:
            raise MessageError("bad_task", "privacy terms: local_steps: only mode shared has steps on one patient")
        if self.mode == "site" and self.q != 1.0:
            raise MessageError("bad_task", "privacy terms: mode site takes every site in every round; expected q = 1")
        if self.mode in NOISE_SHARED:
            try:
                self.encoding()
            except InputError as error:
                raise MessageError("bad_task", str(error)) from error

    @property
    def honest(self) -> int:
        """Sites whose noise is surely in a sum and unknown to colluders: m - t; in mode local only the site itself."""
        return self.survivors - self.colluders if self.mode in NOISE_SHARED else 1

    @property
    def z_alone(self) -> float:
        """Noise over ``clip`` against everyone else together: only the site's own share."""
        return self.z / math.sqrt(self.honest)

    @property
    def counted_q(self) -> float:
        """The q that the accounts count with: an answer whose time tells of the draw hides nothing by drawing."""
        return self.q if self.hold_s > 0.0 else 1.0

    @property
    def units(self) -> int:
        """Most clipped vectors in one sum: one per patient, or in mode site one per site."""
        return self.sites if self.mode == "site" else self.cohort

    @property
    def divisor(self) -> float:
        """Divisor of a decoded sum. It is public and does not depend on who took part."""
        return self.q * self.units

    def encoding(self) -> Encoding:
        """Return how a release with shared noise is encoded; InputError when no ring fits."""
        return _encoding(self)

    def check_size(self, size: int) -> None:
        """Raise InputError when the sampler's error over all releases of ``size`` numbers is too large for delta."""
        if size * self.steps * SAMPLER_TV > self.delta / 10:
            raise InputError(
                f"privacy: {self.steps} releases of {size} numbers: too many for delta {self.delta:g}, since each"
                f" number drawn may be {SAMPLER_TV:.0e} from exact; train a smaller adapter, or take fewer steps"
            )

    def charge(self, count: int = 1) -> Charge:
        """Return what ``count`` releases cost one patient.

        In mode site one patient may move their hospital's vector from one vector of norm C to another, by up to 2 C.
        """
        part = 0.5 if self.mode == "site" else 1.0
        return Charge(z=part * self.z, z_alone=part * self.z_alone, q=self.counted_q, count=count)


@lru_cache(maxsize=64)
def _encoding(terms: PrivacyTerms) -> Encoding:
    return encoding.encoding(
        clip=terms.clip,
        sigma_site=terms.z_alone * FINE,
        cohort=terms.units,
        sites=terms.sites,
        bits=terms.bits or None,
    )
