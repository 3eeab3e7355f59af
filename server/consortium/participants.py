"""Who may take part in a deployed run. The coordinator's folder decides: its register, roster and signed plan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from privacy.agreement.federation_plan import FederationPlan, plan_hash
from privacy.dp.terms import SUMMED
from privacy.secagg.context import Cohort
from privacy.trust.identity import read_input
from privacy.trust.membership import check_not_expired
from server.config.federation_plan import Parties, make_plan
from server.config.run import RunConfig
from server.consortium.admission import Admissions
from server.deployment.home import ServerHome
from server.record.public_log import RunLog, file_hash
from server.sites.attendance import Members, Register
from shared_model.core.errors import InputError


def members_of(home: ServerHome, config: RunConfig) -> Members:
    """Return who may take part; in every mode but none also which sites the sums are over, and the plan's hash.

    If the signed federation plan is this run's, exactly its sites take part. Otherwise all sites that the roster admits
    take part. InputError when the plan names a site that was revoked since.
    """
    register = Register(home.sites_file)
    log = partial(RunLog, log=home.public_log(), roster=file_hash(read_input(home.roster_file)))
    if config.privacy.mode not in SUMMED:
        return Members(register=register, log=log(plan=""))
    admissions = Admissions(home)
    roster = admissions.roster()
    content = read_input(home.plan_file) if home.plan_file.exists() else b""
    plan = admissions.plan(content) if content else None
    if plan is None or not _is_of(plan, config):
        return Members(register=register, cohort=Cohort.of(roster), log=log(plan=""))
    check_not_expired(plan.expires, f"{home.plan_file}: the plan", "`server plan` makes a new one")
    admitted = roster.identities()
    gone = sorted(name for name, key in plan.sites.items() if admitted.get(name) != key)
    if gone:
        raise InputError(
            f"{home.plan_file}: names {', '.join(gone)}, revoked since; make a new plan with `server plan` and have"
            " the other sites accept it"
        )
    digest = plan_hash(content)
    return Members(register=register, cohort=plan.cohort, plan=bytes.fromhex(digest), log=log(plan=digest))


def _is_of(plan: FederationPlan, config: RunConfig) -> bool:
    """Return whether the plan is this run's. The roster may have grown since, and software may be newer."""
    if plan.mode not in SUMMED or len(plan.sites) != config.privacy.sites:
        return False
    parties = Parties(
        consortium=plan.consortium,
        roster_version=plan.roster_version,
        sites=plan.sites,
        certificates=plan.certificates,
    )
    made = make_plan(parties, config, plan.version)
    return replace(made, software=plan.software, expires=plan.expires) == plan
