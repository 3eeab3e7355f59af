"""The key ``address`` of `simulate run`: a Ray cluster that is running already."""

from __future__ import annotations

import re

from shared_model.core.errors import InputError

_HOST_PORT = re.compile(r"[^\s:/]+:(\d{1,5})")


def ray_address(value: object, engine: str) -> str | None:
    """HOST:PORT, or None for null. InputError for another form, and with an engine other than Ray."""
    if value is None:
        return None
    text = str(value)
    found = _HOST_PORT.fullmatch(text)
    if found is None or not 0 < int(found[1]) < 65536:
        raise InputError(f"address={value!r}: expected HOST:PORT of a Ray cluster's head, such as 10.0.0.5:6379")
    if engine != "ray":
        raise InputError(f"address={value}: is that of a Ray cluster; expected engine=ray, not {engine}")
    return text
