"""What a run records besides its vector: sites, drops with reasons, metrics and wire bytes.

Nothing here comes from a site unchecked. Names, codes and numbers have passed the message schema. We wrote all texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

DROP_REASONS: Mapping[str, str] = {
    "refused": "the site refused",
    "error": "the site's app failed and sent no usable answer",
    "schema": "the answer breaks the message schema",
    "wrong_shape": "the update has another length than the shared vector",
    "not_finite": "the update holds values that are not finite",
    "norm_exceeded": "the update is too large",
    "secure": "the site's part in secure aggregation is wrong",
    "wrong_round": "the answer belongs to another run, round, site or kind of request",
    "wrong_name": "the node was not admitted under the site name that it states",
    "duplicate": "a second answer of the same site",
    "timeout": "no answer before the deadline, though the site is connected",
    "disconnected": "the site lost its connection before it answered",
    "stopped": "the site was stopped by its own staff before it answered",
}


@dataclass(frozen=True, kw_only=True)
class Drop:
    """One site whose answer did not count. ``reason``: a key of DROP_REASONS; ``detail``: our own words or code."""

    site: str
    reason: str
    detail: str = ""
    attempt: int = 1

    def line(self) -> str:
        """Return the drop as one line for a person."""
        return f"{self.site}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Metrics of one evaluate exchange: the mean weighted by patients, and per site."""

    metrics: Mapping[str, float]
    per_site: Mapping[str, Mapping[str, float]]
    patients: Mapping[str, int]
    drops: tuple[Drop, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PublicVerdict:
    """Error on public patients (Gy) before a round, after it, and the best before it; ``why`` it was taken back."""

    before_gy: float
    best_gy: float
    after_gy: float
    why: str = ""

    @property
    def stands_gy(self) -> float:
        """Error of the vector that the next round starts from."""
        return self.before_gy if self.why else self.after_gy


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """One finished round. ``sites`` maps an accepted site to its weight; ``wire_bytes`` counts both directions.

    ``public``: the verdict on the round (server/rounds/public_gate.py), None if it was not judged.
    """

    round: int
    lr: float
    attempt: int
    sites: Mapping[str, int]
    norms: Mapping[str, float]
    metrics: Mapping[str, float]
    per_site: Mapping[str, Mapping[str, float]]
    drops: tuple[Drop, ...]
    wire_bytes: int
    wall_s: float
    evaluation: Evaluation | None = None
    public: PublicVerdict | None = None

    @property
    def rolled_back(self) -> bool:
        """Whether the round was taken back: the shared vector after it is the one before it."""
        return self.public is not None and bool(self.public.why)

    def shown_metrics(self) -> dict[str, float]:
        """Return metrics for a person: the sites' own, and the error on public patients of the vector that stays."""
        own = {} if self.public is None else {"public_gy": self.public.stands_gy}
        return {**self.metrics, **own}

    def to_plain(self) -> dict[str, Any]:
        """Return the record as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> RoundRecord:
        """Read back what ``to_plain`` wrote."""
        values = dict(plain)
        values["drops"] = _drops(values["drops"])
        if values["evaluation"] is not None:
            evaluation = dict(values["evaluation"])
            evaluation["drops"] = _drops(evaluation["drops"])
            values["evaluation"] = Evaluation(**evaluation)
        if values.get("public") is not None:
            values["public"] = PublicVerdict(**values["public"])
        return cls(**values)


def _drops(plain: Sequence[Mapping[str, Any]]) -> tuple[Drop, ...]:
    return tuple(Drop(**drop) for drop in plain)


def weighted_mean(per_site: Mapping[str, Mapping[str, float]], weights: Mapping[str, int]) -> dict[str, float]:
    """Average each metric over the sites that sent it. The sums are exact (math.fsum) in any order of sites."""
    names = sorted({name for metrics in per_site.values() for name in metrics})
    means = {}
    for name in names:
        sites = [site for site, metrics in per_site.items() if name in metrics]
        total = math.fsum(weights[site] * per_site[site][name] for site in sites)
        means[name] = total / sum(weights[site] for site in sites)
    return means
