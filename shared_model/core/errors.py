"""The one exception tree. Every message is one line, safe to show on screen at the place where it is raised.

Exit codes of the three commands: 0 done, 1 a fault of ours, 2 bad input, 3 refused by a site's policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FedKT3DError(Exception):
    """Base of all errors that a command reports as one clear line."""

    exit_code = 1


class InputError(FedKT3DError):
    """Bad input: names the file or key, what was expected and what to do. May name local paths: never send it away."""

    exit_code = 2


class FieldError(InputError):
    """A value that breaks the rule of its ``key``; ``item`` is the element of a list that does.

    A reader that knows the line of each key turns it into an error with file and line.
    """

    def __init__(self, key: str, text: str, item: object = None) -> None:
        super().__init__(f"{key}: {text}")
        self.key, self.text, self.item = key, text, item


class PolicyError(FedKT3DError):
    """A site's own policy refused a request; the text is written for the coordinator and holds nothing private."""

    exit_code = 3


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's path before the text of an InputError that is raised inside, where it does not stand there yet."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise InputError(f"{path}: {error}") from error
