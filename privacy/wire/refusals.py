"""Why a site refused a request: a code from a fixed list. The details stay in the site's log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REFUSALS: Mapping[str, str] = {
    "schema": "the request does not follow the message schema that this site has installed",
    "wrong_model": "the request's model is not the one that this site has installed",
    "bad_task": "the task holds a value outside the allowed range",
    "site_config": "the site's own configuration cannot be read; see the site's log",
    "no_patients": "the site has no patients for this task",
    "data": "the site's data could not be read; see the site's log",
    "policy": "the site's policy refuses the request",
    "secure": "the site refuses this secure aggregation",
    "training_failed": "training failed at the site; see the site's log",
    "evaluation_failed": "evaluation failed at the site; see the site's log",
    "not_finite": "the site's result holds values that are not finite",
    "internal": "the site failed; see the site's log",
}
# Refusals with a text as well as a code. The policy and privacy/secagg write these texts. Neither quotes the request.
WORDED = ("policy", "secure")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a site refused: a code of REFUSALS and, only for codes in WORDED, a text that our code wrote."""

    code: str
    text: str = ""
