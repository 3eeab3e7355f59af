"""All exceptions of this project. Every message is one line and safe to show on the screen of whoever runs the code.

Exit codes of the three commands: 0 done, 1 a fault in this program, 2 bad input, 3 refused by a site's policy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class FedKT3DError(Exception):
    """Base class of all errors that a command reports as one clear line."""

    exit_code = 1


class InputError(FedKT3DError):
    """Bad input. The text names the file or key, what was expected and what to do.

    It may name local paths: never send it to another party.
    """

    exit_code = 2


class FieldError(InputError):
    """The value of ``key`` breaks its rule. For a list, ``item`` is the element that breaks it.

    Code that knows the line of each key turns this into an error with file and line.
    """

    def __init__(self, key: str, text: str, item: object = None) -> None:
        super().__init__(f"{key}: {text}")
        self.key, self.text, self.item = key, text, item


class PolicyError(FedKT3DError):
    """A site's own policy refused a request. The coordinator reads the text, so it holds nothing private."""

    exit_code = 3


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """If the block raises an InputError, put the file's path before its text, unless the text starts with it."""
    try:
        yield
    except InputError as error:
        if str(error).startswith(f"{path}:"):
            raise
        raise InputError(f"{path}: {error}") from error
