"""The one error of secure aggregation. We write all its texts. They name sites by roster name, stages and limits."""

from __future__ import annotations

from collections.abc import Sequence

from privacy.secagg.layout import Packed
from shared_model.core.errors import FedKT3DError

# What went wrong, for a program; the text says it to a person.
CODES = (
    "roster",  # the roster is not the one pinned here, or a site is not in it
    "terms",  # the numbers give no security, or are below this site's own floors
    "replay",  # a set-up or a round was used before
    "stage",  # a message does not come next, or belongs to another set-up
    "too_few",  # there are fewer sites than the terms want; the step or the set-up ends
    "signature",  # the named site did not sign this for this context
    "keys",  # keys cannot be used, or are used twice
    "shares",  # shares cannot be opened, break their commitment, or do not fit together
    "survivors",  # a site may not sign this set of survivors
    "ledger",  # a site's privacy ledger went back
    "vector",  # the length or ring is not the one in the terms
)


# When this site helped to reveal a round, each later refusal of that round ends with this text. The coordinator then
# goes on with the next round.
ROUND_SPENT = "was revealed already"
# Two exact sums over different sites, subtracted, nearly show the updates of the sites that differ.
OTHER_SITES = "sums without noise stay over the sites of the first one; this one is over others"


class SecAggError(FedKT3DError):
    """A message or a step is refused. No secret has left. ``blamed``: names of the sites at fault, if known."""

    # A site's signed word against dealers, for the coordinator (messages.Complaint).
    complaint: Packed | None = None

    def __init__(self, code: str, text: str, blamed: Sequence[str] = ()) -> None:
        if code not in CODES:
            raise ValueError(f"no such code: {code}")
        super().__init__(text)
        self.code = code
        self.blamed = tuple(blamed)
