"""The federation plan: what a run will ask of its sites. The consortium signs it; each site pins it before it joins.

A site that has pinned a federation plan refuses every request that does not fit it. The plan states the most that a
request may ask for (steps, rounds, metrics). A site's own policy may allow less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from privacy.agreement.plan_words import MODE_WORDS, masks_in_words, statistics_in_words, terms_in_words
from privacy.dp.accountant import Charge
from privacy.dp.terms import COUNTED, MODES, NOISED, SUMMED, PrivacyTerms
from privacy.secagg.context import Cohort
from privacy.secagg.exact_sums import MaskTerms
from privacy.trust import signed
from privacy.trust.peers import check_identities, peer_digits
from privacy.trust.roster import CONSORTIUM, DIGEST, SITE_NAME, TIME, utc_now
from privacy.wire.messages import EvaluateTask, Request, StatisticsTask, TrainTask
from shared_model.core.errors import InputError, PolicyError
from shared_model.core.fields import OneOf, Rule, Text, Whole, check_values

SCHEMA = 1
KIND = "plan"
_WORD = Text(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", 64, "a name (letters, digits, _ . + -)")
_PEM = Text(r"[\x20-\x7e\n]+", 8000, "PEM")
_MOST_METRICS, _MOST_PACKAGES = 64, 32


@dataclass(frozen=True, kw_only=True)
class FederationPlan:
    """One run's promise. ``model``: canonical JSON of the specification; ``parameters``: numbers in one update.

    ``manifest``, ``prior`` and ``normalisation``: hashes that the site's own installation must agree with.
    ``privacy``: the terms of the noise without the mode (privacy/dp/terms.py), empty in modes masked and none.
    ``masks``: the terms of exact sums (privacy/secagg/exact_sums.py), in modes masked and local. ``sites``: identity
    keys (hex) of the sites that take part, by name; in every mode but none the sums are over exactly these sites.
    ``stopping``: when the run stops, in words. ``certificates``: each site's certificate (PEM), issued by the CA.
    ``statistics``: the terms of noised counts of the patients before the first round, without the mode; empty for none.
    ``version``: grows with each plan of a coordinator. ``expires``: a time in UTC. ``answers``: the most training
    answers that a site gives under this plan, repeated rounds and repeated runs included.
    """

    consortium: str
    name: str
    roster_version: int
    sites: Mapping[str, str]
    mode: str
    privacy: Mapping[str, Any]
    masks: Mapping[str, Any]
    model: str
    manifest: str
    prior: str
    parameters: int
    normalisation: str
    least_sites: int
    rounds: int
    local_steps: int
    batch_size: int
    sampler_steps: int
    candidates: int
    metrics: tuple[str, ...]
    software: Mapping[str, str]
    stopping: str
    certificates: Mapping[str, str]
    version: int
    expires: str
    answers: int
    statistics: Mapping[str, Any] = field(default_factory=dict)

    RULES: ClassVar[Mapping[str, Rule]] = {
        "schema": Whole(SCHEMA, SCHEMA),
        "consortium": CONSORTIUM,
        "name": _WORD,
        "roster_version": Whole(1, 2**31),
        "mode": OneOf(MODES),
        "model": Text(r"\{[\x20-\x7e]*\}", 20_000, "the model's specification in JSON"),
        "manifest": DIGEST,
        "prior": Text(r"[0-9a-z:]{1,80}", 80, "the prior's hash"),
        "parameters": Whole(1, 10**9),
        "normalisation": DIGEST,
        "least_sites": Whole(1, 10_000),
        "rounds": Whole(1, 1_000_000),
        "local_steps": Whole(1, 1_000_000),
        "batch_size": Whole(1, 4096),
        "sampler_steps": Whole(1, 1000),
        "candidates": Whole(1, 64),
        "stopping": Text(r"[\x20-\x7e]+", 200, "printable ASCII"),
        "version": Whole(1, 2**31),
        "expires": TIME,
        "answers": Whole(1, 10_000_000),
    }

    def to_signed(self, key_pem: bytes) -> bytes:
        """Sign the plan with the consortium's document key."""
        document = {"schema": SCHEMA, **asdict(self), "metrics": list(self.metrics)}
        if not self.statistics:  # sites of an older version read a plan that asks for nothing new
            del document["statistics"]
        return signed.sign(KIND, document, key_pem)

    @staticmethod
    def from_signed(content: bytes, signer: signed.Signer, consortium: str) -> FederationPlan:
        """Verify and read a federation plan; InputError unless it is ``consortium``'s and ``signer`` signed it."""
        document = signed.verify(KIND, content, signer)
        metrics, software = document.pop("metrics", None), document.pop("software", None)
        privacy, masks = document.pop("privacy", None), document.pop("masks", None)
        statistics = document.pop("statistics", {})
        sites, certified = document.pop("sites", None), document.pop("certificates", None)
        check_values("schema", KIND, document, FederationPlan.RULES)
        if document.pop("consortium") != consortium:
            raise InputError("plan: it belongs to another consortium")
        _check_privacy(document["mode"], privacy, masks, statistics)
        _check_sites(document["mode"], masks or privacy, sites, certified)
        if not isinstance(metrics, list) or len(metrics) > _MOST_METRICS or not all(map(_WORD.accepts, metrics)):
            raise InputError("plan: metrics must be a list of names")
        if not isinstance(software, dict) or not all(map(_WORD.accepts, [*software, *software.values()])):
            raise InputError("plan: software must map packages to versions")
        if len(software) > _MOST_PACKAGES:
            raise InputError(f"plan: software names more than {_MOST_PACKAGES} packages")
        del document["schema"]
        return FederationPlan(
            consortium=consortium,
            privacy=privacy,
            masks=masks,
            statistics=statistics,
            sites=sites,
            certificates=certified,
            metrics=tuple(metrics),
            software=software,
            **document,
        )

    @property
    def cohort(self) -> Cohort:
        """The sites that take part, with their keys, for secure aggregation."""
        names = tuple(sorted(self.sites))
        keys = tuple(bytes.fromhex(self.sites[name]) for name in names)
        return Cohort(consortium=self.consortium, names=names, keys=keys)

    @property
    def terms(self) -> PrivacyTerms | None:
        """The terms of the noise; None in modes masked and none."""
        return PrivacyTerms.from_plain({"mode": self.mode, **self.privacy}) if self.privacy else None

    @property
    def statistics_terms(self) -> PrivacyTerms | None:
        """The terms of the noised counts; None without."""
        return PrivacyTerms.from_plain({"mode": "shared", **self.statistics}) if self.statistics else None

    @property
    def charges(self) -> tuple[Charge, ...]:
        """What the whole plan costs a patient: its statistics and all its rounds."""
        counts, rounds = self.statistics_terms, self.terms
        return (
            *(() if counts is None else (counts.charge(),)),
            *(() if rounds is None else (rounds.charge(rounds.steps),)),
        )

    @property
    def mask_terms(self) -> MaskTerms | None:
        """The terms of exact sums; None in the other modes."""
        return MaskTerms.from_plain(self.masks) if self.masks else None

    def in_words(self) -> list[str]:
        """Tell a person what the site would agree to."""
        model = json.loads(self.model)
        megabytes = self.parameters * 4 / 1e6
        return [
            f"run: {self.name}, by consortium {self.consortium} (roster version {self.roster_version})",
            f"sites: {', '.join(sorted(self.sites)) or 'whoever the roster admits'}",
            *(self._keys_in_words() if self.mode in SUMMED else []),
            f"privacy: {MODE_WORDS[self.mode]}",
            *([] if self.terms is None else terms_in_words(self.terms)),
            *([] if self.mask_terms is None else masks_in_words(self.mask_terms)),
            *([] if self.statistics_terms is None else statistics_in_words(self.statistics_terms, self.charges)),
            f"model: prior {model['prior']} ({self.prior[:16]}), adapter {model['adapter']}, grid "
            # The specification of a U-shaped network names no grid: each patient has one.
            f"{model.get('shape', 'of each patient')}",
            f"leaves this site in a round: one update of {self.parameters} numbers ({megabytes:.1f} MB)"
            f"{', under masks' if self.mode in SUMMED else ', how many patients it trained on'}"
            f", and these means over patients: {', '.join(self.metrics) or 'none'}",
            f"a round counts with {self.least_sites} sites or more",
            f"at most: {self.rounds} rounds of {self.local_steps} steps, {self.batch_size} patients a step;"
            f" {self.sampler_steps} sampling steps and {self.candidates} candidates a patient when it scores",
            f"the run stops: {self.stopping}",
            f"plan version {self.version}, until {self.expires[:10]}; a site answers at most {self.answers} times,"
            " repeated rounds and runs included",
            f"software: {', '.join(f'{name} {version}' for name, version in sorted(self.software.items()))}",
        ]

    def _keys_in_words(self) -> list[str]:
        """List each site's key: whoever signs the plan assigns the keys and could have invented those of others."""
        keys = [
            f"  digits of {name}: {peer_digits(self.consortium, name, key)}" for name, key in sorted(self.sites.items())
        ]
        return [*keys, "  compare them with each site directly, not through the coordinator: client trust add"]


def _check_privacy(mode: str, privacy: object, masks: object, statistics: object) -> None:
    if not isinstance(statistics, dict) or (statistics and mode not in COUNTED):
        raise InputError(f"plan: statistics: expected terms, and only in modes {', '.join(COUNTED)}")
    if statistics:
        PrivacyTerms.from_plain({**statistics, "mode": "shared"})
    if not isinstance(privacy, dict) or (mode in NOISED) != (privacy != {}):
        raise InputError("plan: privacy: expected terms in a mode with noise, and no terms in the others")
    if not isinstance(masks, dict) or (mode in ("local", "masked")) != (masks != {}):
        raise InputError("plan: masks: expected terms in modes masked and local, and no terms in the others")
    if privacy:
        PrivacyTerms.from_plain({**privacy, "mode": mode})
    if masks:
        MaskTerms.from_plain(masks)


def _check_sites(mode: str, terms: Mapping[str, Any], sites: object, certified: object) -> None:
    if not isinstance(sites, dict) or not all(
        SITE_NAME.accepts(name) and DIGEST.accepts(key) for name, key in sites.items()
    ):
        raise InputError("plan: sites must map names of sites to their identity keys")
    if (
        not isinstance(certified, dict)
        or set(certified) != set(sites)
        or not all(map(_PEM.accepts, certified.values()))
    ):
        raise InputError("plan: certificates must map each of its sites to one certificate in PEM")
    check_identities(sites)
    if mode in SUMMED and len(sites) != terms["sites"]:
        raise InputError(f"plan: its terms are for {terms['sites']} sites, but it names {len(sites)}")


def plan_hash(content: bytes) -> str:
    """Return the SHA-256 of a signed plan's file, in hex. A site pins it, and people compare it by telephone."""
    return hashlib.sha256(content.rstrip(b"\r\n")).hexdigest()


def check_request(plan: FederationPlan, asked: Request) -> None:
    """Raise PolicyError when a request does not fit the pinned plan. The text names the key and the plan's limit."""
    if _model(asked.spec_json) != _model(plan.model):
        raise PolicyError("plan: the request's model is not the one in this site's pinned plan")
    if asked.manifest_hash != plan.manifest:
        raise PolicyError("plan: the request's manifest is not the one in this site's pinned plan")
    if asked.vector is not None and asked.vector.size != plan.parameters:
        raise PolicyError(f"plan: an update has {plan.parameters} numbers under this site's pinned plan")
    _check_terms(plan, asked)
    for key, value in _requested_numbers(asked).items():
        limit = getattr(plan, key)
        if value > limit:
            raise PolicyError(f"plan: {key} at most {limit} in this site's pinned plan; the request asks for {value}")


def check_current(plan: FederationPlan) -> None:
    """Raise PolicyError when the plan has expired."""
    if utc_now() > plan.expires:
        raise PolicyError(f"plan: it expired on {plan.expires[:10]}; accept a new one")


def _check_terms(plan: FederationPlan, asked: Request) -> None:
    if isinstance(asked.task, StatisticsTask):
        if asked.task.terms != plan.statistics_terms:
            raise PolicyError("plan: the request's statistics are not those in this site's pinned plan")
        return
    if isinstance(asked.task, TrainTask) and asked.task.terms != plan.terms:
        raise PolicyError("plan: the request's privacy terms are not those in this site's pinned plan")
    if plan.terms is not None and asked.kind == "evaluate":
        raise PolicyError(f"plan: in mode {plan.mode} this site answers no evaluate request")
    if asked.task is not None and asked.task.mask_terms != plan.mask_terms:
        raise PolicyError("plan: the request's mask terms are not those in this site's pinned plan")


def _requested_numbers(asked: Request) -> dict[str, int]:
    task = asked.task
    if isinstance(task, TrainTask):
        return {"rounds": task.rounds, "local_steps": task.local_steps, "batch_size": task.batch_size}
    if isinstance(task, EvaluateTask):
        tuned = {"local_steps": task.tune_steps, "batch_size": task.tune_batch} if task.tune_steps else {}
        return {"rounds": task.round, "sampler_steps": task.sampler_steps, "candidates": task.candidates, **tuned}
    return {}


def _model(spec_json: str) -> object:
    """Read a specification, so that two of them compare whatever the order of their keys."""
    try:
        spec = json.loads(spec_json)
    except (ValueError, RecursionError):
        spec = None
    if not isinstance(spec, dict):
        raise PolicyError("plan: the request's model is not a specification")
    return spec
