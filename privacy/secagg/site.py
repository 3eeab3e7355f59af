"""A site's part in secure aggregation, as a state machine. It refuses a message that does not come next or fit.

Call ``begin`` and ``deal`` once per set-up, then ``open_step``, ``mask``, ``confirm`` and ``reveal`` for each step.
Each step has secrets of its own. They are wiped once the step is revealed or a later step begins. Nothing here waits,
sends or reads a clock. ``ReplayState`` keeps what must outlive the process.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import ed25519

from privacy.secagg.context import Cohort, Floors, SumTerms, digest, setup_context, step_context, to_sign
from privacy.secagg.dealing import StepSecrets, agree, derive, open_key
from privacy.secagg.errors import SecAggError
from privacy.secagg.heads import PeerHeads
from privacy.secagg.masks import Ring, apply_masks, is_ring_vector, masked_hash
from privacy.secagg.messages import (
    KEY,
    SEED,
    Advert,
    Adverts,
    Confirmation,
    Confirmations,
    Deal,
    Inbox,
    Masked,
    Reveal,
    Survivors,
)
from privacy.secagg.replay import ReplayState
from privacy.secagg.setup import SiteSetup

SALT_BYTES = 32


@dataclass
class _Step:
    """The open step. ``done``: the last thing that happened: opened, masked or confirmed."""

    number: int
    round: int
    model: bytes
    context: bytes
    frozen: bytes = b""
    done: str = "opened"
    survivors: Survivors | None = None


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What opens a site's part in one sum in an audit, together with the vector itself. It stays at the site.

    ``seed`` and ``mask_key``: that step's secrets. With them anybody can take the site's masks off what it sent.
    """

    context: bytes
    salt: bytes
    seed: bytes
    mask_key: bytes


def input_commitment(context: bytes, site: int, salt: bytes, vector: Ring) -> bytes:
    """Return a commitment to a vector (d,) before it is masked. The salt hides the vector, the hash binds it."""
    return digest("input", context, site.to_bytes(2, "big"), salt, vector.data.cast("B"))


class MaskingSite:
    """One site. ``identity`` is the key that the cohort has for ``name``; SecAggError ("roster") otherwise."""

    def __init__(
        self,
        *,
        name: str,
        identity: ed25519.Ed25519PrivateKey,
        cohort: Cohort,
        floors: Floors,
        replay: ReplayState,
        heads: PeerHeads | None = None,
    ) -> None:
        self._index = cohort.index(name)
        if identity.public_key().public_bytes_raw() != cohort.keys[self._index]:
            raise SecAggError("roster", f"the key of {name} in the pinned roster is not this site's own key")
        self._identity, self._cohort, self._floors, self._replay = identity, cohort, floors, replay
        self._heads = heads or PeerHeads()
        self._setup: SiteSetup | None = None
        self._step: _Step | None = None
        self._next_step = 0

    @property
    def terms(self) -> SumTerms | None:
        """Terms of the open set-up, as this site accepted them."""
        return None if self._setup is None else self._setup.terms

    def begin(self, terms: SumTerms, config: bytes, ledger: Callable[[], bytes] = bytes) -> Advert:
        """Check the terms against the pinned roster and the site's own floors. Make keys for every step.

        ``config``: hash (32 bytes) of what this site itself knows about the run. ``ledger`` returns what it shows of
        its privacy ledger (``LedgerHead``); called once, when nothing can be refused any more.
        """
        terms.check(self._cohort)
        if terms.config != config:
            raise SecAggError("terms", "the terms are not for this site's model and federation plan")
        self._floors.check(terms, self._cohort)
        self._check_round(terms.session, terms.round)
        self._replay.begin(setup_context(terms, self._cohort))
        self.end()
        self._setup = SiteSetup(
            terms=terms,
            cohort=self._cohort,
            site=self._index,
            identity=self._identity,
            ledger=ledger(),
            heads=self._heads,
        )
        self._next_step = 0
        return self._setup.advert

    def deal(self, message: Adverts) -> Deal:
        """Check the others' keys and deal them shares of this site's secrets. Once per set-up."""
        return self._open_setup(message.setup).deal(message)

    def twin(self) -> MaskingSite:
        """Return another machine of the same site, for set-ups beside those of this one; they share the record."""
        return MaskingSite(
            name=self._cohort.name(self._index),
            identity=self._identity,
            cohort=self._cohort,
            floors=self._floors,
            replay=self._replay,
            heads=self._heads,
        )

    def names(self, survivors: Survivors) -> tuple[str, ...]:
        """Return the names of the sites in a set of survivors."""
        return tuple(self._cohort.name(site) for site in survivors.sites)

    def holds(self, setup: bytes) -> bool:
        """Return whether the set-up with this hash is the open one."""
        return self._setup is not None and self._setup.hash == setup

    def open_step(self, message: Inbox, model: bytes, frozen: bytes = b"") -> None:
        """Open the next step, before its work is done. ``model``: hash of the work that this site was asked to do.

        ``frozen``: given for a vector without noise of its own. Then one sum of a round is revealed, and all sums under
        this hash (32 bytes) are over the same sites, so that two sums never differ by a few sites' vectors.
        A step may be skipped but never used twice. The secrets of earlier steps are wiped.
        """
        setup = self._open_setup(message.setup)
        if not self._next_step <= message.step < setup.terms.steps:
            raise SecAggError("replay", f"step {message.step} was used before, or is not in this set-up")
        if message.round < setup.terms.round:
            raise SecAggError("replay", "the round comes before the set-up's first round")
        if frozen or self._floors.one_sum_a_round:
            self._replay.check(setup.terms.session, message.round)
        deal_hash = setup.take(message)
        for secrets in setup.steps[: message.step]:
            secrets.wipe()
        context = step_context(deal_hash, sorted(setup.dealers), message.step, message.round, model)
        self._step = _Step(number=message.step, round=message.round, model=model, context=context, frozen=frozen)
        self._next_step = message.step + 1

    def mask(self, vector: Ring) -> tuple[Masked, Ring, Opening]:
        """Return a masked copy of ``vector`` (d,), a signed commitment to it, and what opens that commitment."""
        setup, step, secrets = self._require_stage("opened")
        terms = setup.terms
        if not is_ring_vector(vector, terms.ring_bits, terms.length):
            raise SecAggError("vector", f"expected {terms.length} values over the ring of {terms.ring_bits} bits")
        key, me = open_key(secrets.mask_key), self._index
        masks = [(derive(bytes(secrets.seed), "self", step.context, me), 1)]
        for other in sorted(setup.dealers - {me}):
            shared = agree(key, setup.adverts[other].mask_keys[step.number], self._cohort, other)
            masks.append((derive(shared, "pair", step.context, *sorted((me, other))), 1 if me < other else -1))
        salt = os.urandom(SALT_BYTES)
        commitment = input_commitment(step.context, me, salt, vector)
        masked = vector.copy()
        apply_masks(masked, masks)
        hashed = masked_hash(masked)
        unsigned = Masked(site=me, step=step.number, masked=hashed, commitment=commitment, signature=bytes(64))
        signature = self._identity.sign(to_sign("input", step.context, unsigned.body_to_sign()))
        step.done = "masked"
        return (
            Masked(site=me, step=step.number, masked=hashed, commitment=commitment, signature=signature),
            masked,
            Opening(context=step.context, salt=salt, seed=bytes(secrets.seed), mask_key=key.private_bytes_raw()),
        )

    def confirm(self, message: Survivors) -> Confirmation:
        """Sign the set of survivors: only one set per step, with this site and enough others in it."""
        setup, step, _ = self._require_stage("masked", message.setup, message.step)
        survivors = set(message.sites)
        if message.round != step.round or self._index not in survivors or not survivors <= setup.dealers:
            raise SecAggError("survivors", "the survivors lack this site, or hold a site that dealt no shares")
        setup.check_enough(len(survivors), "have survived")
        if step.frozen:
            self._replay.check_sites(step.frozen, self._names(message))
        step.survivors, step.done = message, "confirmed"
        signature = self._identity.sign(to_sign("survivors", step.context, message.signed_part()))
        return Confirmation(site=self._index, step=step.number, signature=signature)

    def reveal(self, message: Confirmations) -> Reveal:
        """Return one share for each site: of the seed for a survivor, of the mask key for a site that dropped out.

        It reveals only if ``threshold`` survivors signed exactly the set that this site signed. It records the sum
        before it returns the shares.
        """
        setup, step, secrets = self._require_stage("confirmed", message.setup, message.step)
        survivors = step.survivors
        if survivors is None or not set(message.signatures) <= set(survivors.sites) or message.round != step.round:
            raise SecAggError("survivors", "a site that is not a survivor sent a confirmation")
        if len(message.signatures) < setup.terms.threshold:
            raise SecAggError("too_few", f"fewer than {setup.terms.threshold} sites confirmed the survivors")
        signed = to_sign("survivors", step.context, survivors.signed_part())
        for site, signature in message.signatures.items():
            self._cohort.verify(site, signature, signed)
        names = "\n".join(self._cohort.name(site) for site in survivors.sites).encode()
        what = hashlib.sha256(setup.terms.config + step.model + names).digest()
        if step.frozen:
            self._replay.freeze(step.frozen, self._names(survivors))
        if step.frozen or self._floors.one_sum_a_round:
            self._replay.reveal(setup.terms.session, step.round, what)
        shares = {
            dealer: bytes([SEED]) + held[0] if dealer in survivors.sites else bytes([KEY]) + held[1]
            for dealer, held in secrets.held.items()
        }
        secrets.wipe()
        self._step = None
        if self._next_step == setup.terms.steps:
            self.end()
        return Reveal(site=self._index, step=step.number, shares=shares)

    def end(self) -> None:
        """Forget the set-up and all its secrets. The record of what was done stays."""
        if self._setup is not None:
            self._setup.wipe()
        self._setup = self._step = None

    def _names(self, survivors: Survivors) -> bytes:
        """Hash of the names of the sites in a sum."""
        return digest("sites", *(name.encode() for name in self.names(survivors)))

    def _check_round(self, session: bytes, round_number: int) -> None:
        if self._floors.one_sum_a_round:
            self._replay.check(session, round_number)

    def _open_setup(self, setup_hash: bytes) -> SiteSetup:
        if self._setup is None or self._setup.hash != setup_hash:
            raise SecAggError("stage", "this site has no such set-up open (it may have been restarted since)")
        return self._setup

    def _require_stage(
        self, done: str, setup_hash: bytes | None = None, number: int | None = None
    ) -> tuple[SiteSetup, _Step, StepSecrets]:
        """Return set-up, open step and its secrets; SecAggError unless ``done`` came last and the message fits."""
        setup, step = self._setup if setup_hash is None else self._open_setup(setup_hash), self._step
        if setup is None or step is None or step.done != done:
            raise SecAggError("stage", "this message does not come next at this site")
        if number is not None and number != step.number:
            raise SecAggError("stage", "the message is not for the open step")
        return setup, step, setup.steps[step.number]
