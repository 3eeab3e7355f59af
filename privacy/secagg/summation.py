"""One sum at the coordinator: add masked vectors to a running total, agree on the survivors, take the masks off.

It holds one vector, however many sites there are. When all vectors are added, two kinds of masks remain: each
survivor's own mask, and the mask that each survivor shares with each site that dropped out, whose other half never
came. Both are computed again from secrets that ``threshold`` survivors reveal together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric import x25519

from privacy.secagg.context import Cohort, SumTerms, step_context, to_sign
from privacy.secagg.dealing import agree, derive, fits_commitment, seed_commitment
from privacy.secagg.errors import SecAggError
from privacy.secagg.masks import RINGS, Ring, apply_masks, is_ring_vector, masked_hash
from privacy.secagg.messages import (
    KEY,
    SEED,
    Advert,
    Confirmation,
    Confirmations,
    Masked,
    Reveal,
    Survivors,
)
from privacy.secagg.shamir import join


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """What the coordinator keeps of a finished set-up: keys and commitments of the sites that dealt shares.

    ``signed``: the keys of all sites that sent any, as they signed them; ``hash`` is over these.
    """

    terms: SumTerms
    cohort: Cohort
    setup: bytes
    hash: bytes
    signed: Mapping[int, bytes]
    adverts: Mapping[int, Advert]
    commitments: Mapping[int, Mapping[int, bytes]]


class Summation:
    """One step: ``add_masked`` as vectors arrive, then ``survivors``, ``confirmations`` and ``total``.

    ``add_confirmation`` and ``add_reveal`` take the answers in between.
    """

    def __init__(self, dealt: Dealt, number: int, round_number: int, model: bytes) -> None:
        self._dealt = dealt
        self.number, self.round, self.model = number, round_number, model
        self.context = step_context(dealt.hash, sorted(dealt.adverts), number, round_number, model)
        self._total: Ring | None = None
        self._masked: dict[int, Masked] = {}
        self._survivors: Survivors | None = None
        self._signatures: dict[int, bytes] = {}
        self._asked = False
        self._reveals: dict[int, Reveal] = {}

    @property
    def dealt(self) -> Dealt:
        """The finished set-up that this sum belongs to."""
        return self._dealt

    @property
    def inputs(self) -> dict[str, Masked]:
        """Each survivor's signed commitment to its input, for a later audit."""
        return {self._dealt.cohort.name(site): self._masked[site] for site in sorted(self._masked)}

    def add_masked(self, site: str, message: Masked, vector: Ring) -> None:
        """Add one masked vector (d,) to the total. On a SecAggError the total stays as it was."""
        index, terms = self._sender(site, message.site, message.step), self._dealt.terms
        if self._survivors is not None or index in self._masked:
            raise SecAggError("stage", f"the vector of {site} came twice or too late", [site])
        if not is_ring_vector(vector, terms.ring_bits, terms.length):
            raise SecAggError("vector", f"the vector of {site} has another length or ring", [site])
        if masked_hash(vector) != message.masked:
            raise SecAggError("vector", f"the masked vector of {site} is not the one that it signed", [site])
        self._dealt.cohort.verify(index, message.signature, to_sign("input", self.context, message.body_to_sign()))
        if self._total is None:
            self._total = vector.astype(RINGS[terms.ring_bits], copy=True)
        else:
            self._total += vector
        self._masked[index] = message

    def survivors(self) -> Survivors:
        """Close the set of sites that are in the sum. Return what each of them has to sign."""
        if self._survivors is None:
            self._check_enough(len(self._masked), "sent their vector", self._dealt.terms.least_survivors)
            sites = tuple(sorted(self._masked))
            self._survivors = Survivors(setup=self._dealt.setup, round=self.round, step=self.number, sites=sites)
        return self._survivors

    def add_confirmation(self, site: str, message: Confirmation) -> None:
        """Accept a survivor's signature over the set of survivors."""
        index = self._sender(site, message.site, message.step)
        survivors = self._survivors
        if survivors is None or index not in survivors.sites or index in self._signatures or self._asked:
            raise SecAggError("stage", f"the confirmation of {site} came twice, too early or too late", [site])
        signed = to_sign("survivors", self.context, survivors.signed_part())
        self._dealt.cohort.verify(index, message.signature, signed)
        self._signatures[index] = message.signature

    def confirmations(self) -> Confirmations:
        """Close the confirmations. Return what each site that confirmed is sent."""
        self._check_enough(len(self._signatures), "confirmed the survivors", self._dealt.terms.threshold)
        self._asked = True
        return Confirmations(
            setup=self._dealt.setup,
            round=self.round,
            step=self.number,
            signatures=dict(sorted(self._signatures.items())),
        )

    def add_reveal(self, site: str, message: Reveal) -> None:
        """Accept a survivor's shares. SecAggError names the site if its dealer did not commit to one of the shares."""
        index = self._sender(site, message.site, message.step)
        if not self._asked or index not in self._signatures or index in self._reveals:
            raise SecAggError("stage", f"the shares of {site} came twice or too early", [site])
        if set(message.shares) != set(self._dealt.adverts):
            raise SecAggError("shares", f"{site} did not reveal one share of each site", [site])
        for dealer, share in message.shares.items():
            kind, content = share[0], share[1:]
            commitments = self._dealt.commitments[dealer][index]
            if kind != self._kind(dealer) or not fits_commitment(
                content, commitments, self._dealt.hash, dealer, index, self.number, kind
            ):
                raise SecAggError("shares", f"{site} revealed a share that its dealer did not commit to", [site])
        self._reveals[index] = message

    def total(self, threads: int = 1) -> Ring:
        """Take the masks off and end the step. Return the sum (d,) of the survivors' vectors, modulo the ring.

        SecAggError ("too_few"), or ("shares") naming a site whose shares, though as committed, give no fitting secret.
        """
        self._check_enough(len(self._reveals), "revealed their shares", self._dealt.terms.threshold)
        total, survivors = self._total, self._masked
        if total is None:
            raise SecAggError("stage", "this sum was taken already")
        masks: list[tuple[bytes, int]] = []
        for dealer in sorted(self._dealt.adverts):
            secret = self._secret(dealer)
            if dealer in survivors:
                masks.append((derive(secret, "self", self.context, dealer), -1))
            else:
                masks.extend(self._leftover_masks(dealer, x25519.X25519PrivateKey.from_private_bytes(secret)))
        apply_masks(total, masks, threads)
        self._total = None
        return total

    def _leftover_masks(self, dropped: int, key: x25519.X25519PrivateKey) -> list[tuple[bytes, int]]:
        """Return the masks that survivors share with a site that dropped out, with the signs that take them off."""
        masks = []
        for site in sorted(self._masked):
            public = self._dealt.adverts[site].mask_keys[self.number]
            shared = agree(key, public, self._dealt.cohort, site)
            seed = derive(shared, "pair", self.context, *sorted((site, dropped)))
            masks.append((seed, -1 if site < dropped else 1))
        return masks

    def _secret(self, dealer: int) -> bytes:
        """Join a dealer's secret and compare it with what the dealer signed: H(b), or the public key."""
        threshold, name = self._dealt.terms.threshold, self._dealt.cohort.name(dealer)
        revealers = sorted(self._reveals)[:threshold]
        advert = self._dealt.adverts[dealer]
        try:
            secret = join({site + 1: self._reveals[site].shares[dealer][1:] for site in revealers})
        except ValueError:
            secret = b""
        if dealer in self._masked:
            fits = seed_commitment(secret, self._dealt.setup, dealer, self.number) == advert.commitments[self.number]
        else:
            fits = len(secret) == len(advert.share_key) and (
                x25519.X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
                == advert.mask_keys[self.number]
            )
        if not fits:
            raise SecAggError("shares", f"the shares that {name} dealt do not fit together", [name])
        return secret

    def _kind(self, dealer: int) -> int:
        return SEED if dealer in self._masked else KEY

    def _sender(self, site: str, claimed: int, step: int) -> int:
        """Return the index of the site that sent a message. A site may speak only for itself, and for this step."""
        index = self._dealt.cohort.index(site)
        if claimed != index or index not in self._dealt.adverts or step != self.number:
            raise SecAggError("stage", f"{site} sent a message for another site or step", [site])
        return index

    def _check_enough(self, sites: int, what: str, least: int) -> None:
        if sites < least:
            raise SecAggError("too_few", f"{sites} sites {what}; the terms want at least {least}")
