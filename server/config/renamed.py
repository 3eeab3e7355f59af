"""Keys that have another name now: whoever gives an old one is told the new one, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Sequence

from shared_model.core.errors import InputError

# A key that held one value -> the key that holds it now.
_KEYS = {"rounds": "rounds.count", "privacy": "privacy.mode"}
# A group -> the group that holds its keys now.
_GROUPS = {"dp": "privacy", "round": "rounds"}


def refuse_old_keys(overrides: Sequence[str]) -> None:
    """InputError that says the new name, where one of the overrides (``KEY=VALUE``) gives an old key."""
    for override in overrides:
        given, _, value = override.partition("=")
        key = given.strip().lstrip("+~")
        new = _new_name(key, value)
        if new:
            whole = f"{new}={value}" if "." in new else f"{new}.KEY=VALUE"
            raise InputError(f"{override}: the key {key!r} is called {new} now; write {whole}")


def _new_name(key: str, value: str) -> str:
    """The name that an old key has now; empty for any other key."""
    if key in _KEYS:
        # A mapping gives keys of a group, as in rounds={count:3}: no old key, and Hydra's to read.
        return "" if value.lstrip().startswith("{") else _KEYS[key]
    group, _, rest = key.partition(".")
    if group not in _GROUPS:
        return ""
    return f"{_GROUPS[group]}.{rest}" if rest else _GROUPS[group]
