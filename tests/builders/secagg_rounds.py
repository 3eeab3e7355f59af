"""Sites and a coordinator of secure aggregation in one process, for tests: every message passes through its bytes."""

from dataclasses import dataclass, field, replace

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.secagg.context import Cohort, Floors, SumTerms, least_threshold
from privacy.secagg.masks import RINGS
from privacy.secagg.messages import Advert, Adverts, Confirmations, Deal
from privacy.secagg.replay import MemoryReplay
from privacy.secagg.server import Server
from privacy.secagg.site import MaskingSite

CONFIG = b"c" * 32
MODEL = b"m" * 32


def sent(message):
    """The message as the other side reads it."""
    return type(message).from_bytes(message.to_bytes())


def name(index: int) -> str:
    return f"site-{index:03d}"


@dataclass
class Federation:
    """``size`` sites with identities, the roster that all have pinned, and terms that fit it."""

    size: int = 5
    steps: int = 1
    bits: int = 32
    length: int = 257
    threshold: int | None = None
    least: int | None = None
    strict: bool = True
    keys: list = field(default_factory=list)
    sites: dict = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = [ed25519.Ed25519PrivateKey.generate() for _ in range(self.size)]
        self.cohort = Cohort(
            consortium="0" * 32,
            names=tuple(name(i) for i in range(self.size)),
            keys=tuple(key.public_key().public_bytes_raw() for key in self.keys),
        )
        threshold = self.threshold or least_threshold(self.size, 1)
        self.terms = SumTerms(
            session=b"s" * 16,
            nonce=b"n" * 16,
            round=1,
            steps=self.steps,
            config=CONFIG,
            roster=self.cohort.digest,
            threshold=threshold,
            least_survivors=self.least or threshold,
            colluders=1,
            ring_bits=self.bits,
            length=self.length,
        )
        self.sites = {i: self.site(i) for i in range(self.size)}
        self.server = Server(self.terms, self.cohort)

    def site(self, index: int, floors: Floors | None = None, replay=None) -> MaskingSite:
        return MaskingSite(
            name=name(index),
            identity=self.keys[index],
            cohort=self.cohort,
            floors=floors or Floors(sites=2, survivors=2, one_sum_a_round=self.strict),
            replay=replay or MemoryReplay(),
        )

    def inputs(self, seed: int) -> dict[int, np.ndarray]:
        """One vector a site, over the whole ring."""
        rng, dtype = np.random.default_rng(seed), RINGS[self.bits]
        top = np.iinfo(dtype).max
        return {i: rng.integers(0, top, size=self.length, dtype=dtype, endpoint=True) for i in range(self.size)}

    def advertise(self, missing=(), terms: SumTerms | None = None) -> dict[int, Advert]:
        return {i: sent(s.begin(terms or self.terms, CONFIG)) for i, s in self.sites.items() if i not in missing}

    def exchange_keys(self, missing=(), terms: SumTerms | None = None) -> Adverts:
        for i, advert in self.advertise(missing, terms).items():
            self.server.add_advert(name(i), advert)
        return sent(self.server.adverts())

    def exchange_shares(self, adverts: Adverts, missing=()) -> dict[int, Deal]:
        deals = {i: sent(self.sites[i].deal(adverts)) for i in adverts.adverts if i not in missing}
        for i, deal in deals.items():
            self.server.add_deal(name(i), deal)
        return deals

    def set_up(self, no_keys=(), no_shares=()) -> None:
        self.exchange_shares(self.exchange_keys(no_keys), no_shares)

    def mask(self, vectors, missing=(), round_number: int = 1, model: bytes = MODEL, models=None):
        """Open a step and have every site that is not missing send its vector; returns the step."""
        step = self.server.open_step(round_number, model)
        for site in self.server.dealers:
            i = self.cohort.index(site)
            if i in missing:
                continue
            self.sites[i].open_step(sent(self.server.inbox(site, step)), (models or {}).get(i, model))
            masked, vector, _ = self.sites[i].mask(vectors[i])
            step.add_masked(site, sent(masked), vector)
        return step

    def confirm(self, step, missing=()) -> Confirmations:
        survivors = sent(step.survivors())
        for i in survivors.sites:
            if i not in missing:
                step.add_confirmation(name(i), sent(self.sites[i].confirm(survivors)))
        return sent(step.confirmations())

    def reveal(self, step, confirmations: Confirmations, missing=()) -> np.ndarray:
        for i in confirmations.signatures:
            if i not in missing:
                step.add_reveal(name(i), sent(self.sites[i].reveal(confirmations)))
        return step.total()

    def step(self, vectors, *, masked=(), confirmed=(), revealed=(), round_number: int = 1) -> tuple[np.ndarray, list]:
        """One whole step; the arguments say who is gone at which stage. Returns the sum and who is in it."""
        step = self.mask(vectors, masked, round_number)
        confirmations = self.confirm(step, confirmed)
        return self.reveal(step, confirmations, revealed), list(step.survivors().sites)

    def renewed(self, **changes) -> SumTerms:
        """Terms of a later set-up; the coordinator starts it."""
        self.terms = replace(self.terms, **{"nonce": b"o" * 16, **changes})
        self.server = Server(self.terms, self.cohort)
        return self.terms


def plain_sum(vectors, sites) -> np.ndarray:
    """The sum that secure aggregation must give, modulo the ring."""
    total = np.zeros_like(next(iter(vectors.values())))
    for i in sites:
        total += vectors[i]
    return total
