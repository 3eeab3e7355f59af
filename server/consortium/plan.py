"""Make and sign a run's federation plan, and say what it promises and costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.dp.outlook import Outlook, masked_table, outlook, table
from privacy.trust import certificates
from server.config.compose import compose_run
from server.config.federation_plan import make_plan
from server.consortium.admission import LONGEST_DAYS, Admissions
from server.deployment.home import ServerHome
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, write_bytes


@dataclass(frozen=True, kw_only=True)
class SignedPlan:
    """A plan, its signed file, what it says in words, and what its privacy terms cost (None without noise)."""

    plan: FederationPlan
    content: bytes
    words: tuple[str, ...]
    outlook: Outlook | None

    @property
    def sha256(self) -> str:
        """Hash of the file, which sites pin and people compare by telephone."""
        return plan_hash(self.content)


def sign_plan(home: ServerHome, overrides: Sequence[str], days: int) -> SignedPlan:
    """Write plan.json in the home, from the settings of `server run`. InputError where they promise nothing."""
    if not 1 <= days <= LONGEST_DAYS:
        raise InputError(f"--days {days}: expected 1 to {LONGEST_DAYS}")
    admissions = Admissions(home)
    config = compose_run(overrides, len(admissions.roster().names()))
    made = make_plan(admissions.parties(), config, admissions.next_plan_version(), days)
    # Before anything is signed: two accountants must agree on what the plan promises.
    exact, bits = made.mask_terms, 32 if made.mask_terms is None else made.mask_terms.ring_bits
    found = None if made.terms is None else outlook(made.terms, made.parameters, made.rounds, bits)
    every = config.rounds.evaluate_every
    scored = -(-made.rounds // every) if every else 0
    key, log = home.signing_key(), home.public_log()
    content = made.to_signed(key)
    log.certify(key, home.document_keys().lasting(certificates.SITE_DAYS))
    log.add("plan", name=made.name, version=made.version, plan=plan_hash(content))
    write_bytes(home.plan_file, content, mode=PUBLIC)
    admissions.hand_out()
    words = list(made.in_words())
    if found is not None:
        words += ["what the privacy terms cost and allow:", *table(found)]
    elif exact is not None:
        words += ["what the sums cost:", *masked_table(made.parameters, made.rounds, scored, bits)]
    return SignedPlan(plan=made, content=content, words=tuple(words), outlook=found)
