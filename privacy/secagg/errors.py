"""The one error of secure aggregation. Its texts are ours: they name sites by their roster names, stages and limits."""

from __future__ import annotations

from collections.abc import Sequence

from shared_model.core.errors import FedKT3DError

# What went wrong, for a program; the text says it to a person.
CODES = (
    "roster",  # not the roster, or not a site of the roster, that is pinned here
    "terms",  # numbers that give no security, or below this site's own floors
    "replay",  # a set-up or a round that was used before
    "stage",  # a message that does not come next, or of another set-up
    "too_few",  # fewer sites than the terms want; the step or the set-up ends
    "signature",  # not signed by the site that it names, for this very context
    "keys",  # keys that cannot be used, or are used twice
    "shares",  # shares that cannot be opened, break their commitment, or do not fit together
    "survivors",  # a set of survivors that a site may not sign
    "vector",  # another length or ring than the terms say
)


# Ends the text of each refusal of a round that this site helped to reveal: the coordinator goes on with the next one.
ROUND_SPENT = "was revealed already"


class SecAggError(FedKT3DError):
    """A message or a step is refused; nothing secret has left. ``blamed``: names of the sites at fault, if known."""

    def __init__(self, code: str, text: str, blamed: Sequence[str] = ()) -> None:
        if code not in CODES:
            raise ValueError(f"no such code: {code}")
        super().__init__(text)
        self.code = code
        self.blamed = tuple(blamed)
