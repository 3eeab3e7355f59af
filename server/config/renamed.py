"""Keys that were renamed. An old key is an error that tells the new name; it is never translated silently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_model.core.errors import InputError

# A key of a run that held one value -> the key that holds it now; a group -> the group that holds its keys now.
_OF_A_RUN = {"rounds": "rounds.count", "privacy": "privacy.mode"}
_GROUPS_OF_A_RUN = {"dp": "privacy", "round": "rounds"}


def refuse_old_keys(overrides: Sequence[str], renamed: Mapping[str, str] | None = None) -> None:
    """Raise InputError with the new name if one of the overrides (``KEY=VALUE``) uses an old key.

    ``renamed``: old key -> new key, for a command that does not take a run's keys; None: the renamed keys of a run.
    """
    keys, groups = (_OF_A_RUN, _GROUPS_OF_A_RUN) if renamed is None else (renamed, {})
    for override in overrides:
        given, _, value = override.partition("=")
        key = given.strip().lstrip("+~")
        group, _, rest = key.partition(".")
        new = ""
        # In rounds={count:3} the value is a mapping with keys of a group. That is no old key: Hydra reads it.
        if key in keys and not value.lstrip().startswith("{"):
            new = keys[key]
        elif group in groups:
            new = f"{groups[group]}.{rest}" if rest else groups[group]
        if new:
            whole = f"{new}={value}" if key in keys or rest else f"{new}.KEY=VALUE"
            raise InputError(f"{override}: the key {key!r} is called {new} now; write {whole}")
