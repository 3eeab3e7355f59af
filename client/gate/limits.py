"""Holds a request against the site's own policy and the federation plan that it has pinned. They win over any message.

Both are read anew for each request, so that a change counts at once, and checked before any of the site's data is read.
A refusal is a PolicyError: one line that names the key at fault and nothing private.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from client.gate.plan_answers import PlanAnswers
from client.site.config import SiteConfig
from client.site.home import ClientHome
from client.site.policy import Policy
from privacy.agreement.federation_plan import FederationPlan, check_current, check_request, plan_hash
from privacy.dp.ledger import SiteLedger
from privacy.dp.terms import SUMMED
from privacy.secagg.context import Floors
from privacy.trust.identity import read_input
from privacy.wire.messages import EvaluateTask, Request, StatisticsTask, TrainTask
from privacy.wire.secure_records import SECURE_KINDS
from shared_model.core.errors import PolicyError
from shared_model.network.spec import ModelSpec

MEGABYTE = 1_000_000
VALUE_BYTES = 4  # a vector travels as float32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A site's policy, its pinned plan, if it has one, and its privacy ledger; without one, no private mode.

    ``plan_digest``: SHA-256 of the plan's file, empty without one; both ends put it into secure aggregation.
    ``answers``: how often this site has answered under each plan.
    """

    policy: Policy
    plan: FederationPlan | None = None
    plan_digest: bytes = b""
    ledger: SiteLedger | None = None
    answers: PlanAnswers | None = None

    @classmethod
    def of_home(cls, home: ClientHome) -> Limits:
        """Read both from a site's folder; InputError when either cannot be read or is not signed as it should be."""
        policy, plan = Policy.load(home.policy), home.pinned_plan()
        digest = b"" if plan is None else bytes.fromhex(plan_hash(read_input(home.plan_file)))
        answers = PlanAnswers(path=home.folder / "state" / "plan_answers.json")
        ledger = policy.ledger_in(home.folder)
        return cls(policy=policy, ledger=ledger, plan=plan, plan_digest=digest, answers=answers)

    def floors(self) -> Floors:
        """Return the least that this site's policy and pinned plan demand of the sums that its releases enter.

        Several sums of one round may be revealed where each has noise of its own; client/gate/secure_site.py holds
        sums without noise to one a round.
        """
        sites = survivors = max(Floors.sites, self.policy.least_sites)
        terms = None if self.plan is None else self.plan.mask_terms or self.plan.terms
        if terms is None:
            return Floors(sites=sites, survivors=survivors, one_sum_a_round=False)
        return Floors(
            sites=max(sites, terms.sites),
            survivors=max(survivors, terms.survivors),
            colluders=terms.colluders,
            one_sum_a_round=False,
        )

    def check_request(self, site: SiteConfig, asked: Request, now: datetime) -> None:
        """Raise PolicyError when ``asked`` goes beyond the limits; ``now`` is the site's local time."""
        policy = self.policy
        task = "train" if asked.kind in SECURE_KINDS else asked.kind
        if task not in policy.tasks:
            raise PolicyError(f"tasks: this site does not answer {task}")
        if policy.hours and not any(window.holds(now) for window in policy.hours):
            raise PolicyError("hours: outside this site's hours")
        self._check_plan(asked)
        self._check_mode(asked)
        adapter = ModelSpec.from_json(asked.spec_json).adapter
        if adapter not in policy.adapters:
            raise PolicyError(f"adapters: {adapter} may not leave this site")
        patients = len(site.validation if asked.kind == "evaluate" else site.patients())
        # Who holds nobody back adds nothing to a sum of scores, which would not come without them.
        nobodys = patients == 0 and asked.kind == "evaluate" and asked.secure is not None
        if patients < policy.least_patients and not nobodys:  # do not say how many there are
            raise PolicyError(f"least_patients: this site has fewer than {policy.least_patients} for {asked.kind}")
        if asked.vector is not None:
            self.check_size(asked.vector.size)
        for key, value in _asked_work(asked).items():
            limit = getattr(policy, key)
            if value > limit:
                raise PolicyError(f"{key}: at most {limit} at this site; asked for {value}")

    def check_size(self, values: int) -> None:
        """Raise PolicyError when an adapter of so many values is too large to leave."""
        if values * VALUE_BYTES > self.policy.max_adapter_mb * MEGABYTE:
            raise PolicyError(f"max_adapter_mb: at most {self.policy.max_adapter_mb:g} at this site")

    def filter_metrics(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Keep the metrics that may leave: those that the policy names and, where there is a plan, the plan too."""
        names = set(self.policy.metrics) & set(self.policy.metrics if self.plan is None else self.plan.metrics)
        return {name: value for name, value in metrics.items() if name in names}

    def _check_plan(self, asked: Request) -> None:
        if self.plan is None:
            if self.policy.require_plan:
                raise PolicyError("require_plan: this site has accepted no federation plan")
            return
        if self.plan.mode not in self.policy.modes:
            raise PolicyError(f"modes: this site does not take part in mode {self.plan.mode}")
        if self.plan.least_sites < self.policy.least_sites:
            raise PolicyError(f"least_sites: at least {self.policy.least_sites} at this site")
        check_current(self.plan)
        if self.answers is not None and isinstance(asked.task, TrainTask | StatisticsTask):
            self.answers.check(self.plan_digest.hex(), self.plan.answers)
        check_request(self.plan, asked)

    def _check_mode(self, asked: Request) -> None:
        """Raise PolicyError unless the site takes part in the request's mode, whatever its plan says."""
        mode = "none" if asked.task is None else asked.task.mode
        if isinstance(asked.task, TrainTask) and mode not in self.policy.modes:
            raise PolicyError(f"modes: this site does not take part in mode {mode}")
        # Scores without noise, which no ledger is charged for.
        if asked.kind == "evaluate" and mode not in self.policy.modes:
            raise PolicyError(
                f"modes: {asked.kind} in mode {mode} sends exact numbers, and this site does not take part in it"
            )
        if asked.kind in SECURE_KINDS and not set(SUMMED) & set(self.policy.modes):
            raise PolicyError(f"modes: this site takes part in none of the modes {', '.join(SUMMED)}")


def _asked_work(asked: Request) -> dict[str, int]:
    """Return what the task asks for under each key of the policy that limits it."""
    task = asked.task
    if isinstance(task, TrainTask):
        return {"max_rounds": task.rounds, "max_local_steps": task.local_steps, "max_batch_size": task.batch_size}
    if isinstance(task, EvaluateTask):
        return {
            "max_local_steps": task.tune_steps,
            "max_batch_size": task.tune_batch if task.tune_steps else 0,
            "max_rounds": task.round,
            "max_sampler_steps": task.sampler_steps,
            "max_candidates": task.candidates,
        }
    return {}
