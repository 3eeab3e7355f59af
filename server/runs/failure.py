"""Carry an error of ours from the ServerApp to `server run`. The SuperLink passes on only an exception's text."""

from __future__ import annotations

import re

from shared_model.core.errors import FedKT3DError, InputError

_REPORTED = re.compile(r"exception: exit (\d+): (.+)", re.DOTALL)


class ReportedError(Exception):
    """The exception that the ServerApp raises in place of an error of ours."""

    def __init__(self, error: FedKT3DError) -> None:
        super().__init__(f"exit {error.exit_code}: {error}")


def read_failure(details: str) -> FedKT3DError | None:
    """Return our error from the details of a finished run; None if the failure was not one of ours."""
    found = _REPORTED.search(details)
    if found is None:
        return None
    kind = InputError if int(found[1]) == InputError.exit_code else FedKT3DError
    return kind(" ".join(found[2].split()))
