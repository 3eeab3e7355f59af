"""An error of ours on its way from the ServerApp to `server run`: the SuperLink carries an exception's text alone."""

from __future__ import annotations

import re

from shared_model.core.errors import FedKT3DError, InputError

_REPORTED = re.compile(r"exception: exit (\d+): (.+)", re.DOTALL)


class ReportedError(Exception):
    """What the ServerApp raises in the place of an error of ours."""

    def __init__(self, error: FedKT3DError) -> None:
        super().__init__(f"exit {error.exit_code}: {error}")


def read_failure(details: str) -> FedKT3DError | None:
    """Return the error that the details of a finished run tell of; None for a failure that was not one of ours."""
    found = _REPORTED.search(details)
    if found is None:
        return None
    kind = InputError if int(found[1]) == InputError.exit_code else FedKT3DError
    return kind(" ".join(found[2].split()))
