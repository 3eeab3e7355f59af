"""Keys that have another name now: whoever gives an old one is told the new one, and nothing is guessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shared_model.core.errors import InputError

# A key of a run that held one value -> the key that holds it now; a group -> the group that holds its keys now.
_OF_A_RUN = {"rounds": "rounds.count", "privacy": "privacy.mode"}
_GROUPS_OF_A_RUN = {"dp": "privacy", "round": "rounds"}


def refuse_old_keys(overrides: Sequence[str], renamed: Mapping[str, str] | None = None) -> None:
    """InputError that says the new name, where one of the overrides (``KEY=VALUE``) gives an old key.

    ``renamed``: old -> new key of a command that takes no run's keys; None: those of a run.
    """
    keys, groups = (_OF_A_RUN, _GROUPS_OF_A_RUN) if renamed is None else (renamed, {})
    for override in overrides:
        given, _, value = override.partition("=")
        key = given.strip().lstrip("+~")
        group, _, rest = key.partition(".")
        new = ""
        # A mapping gives keys of a group, as in rounds={count:3}: no old key, and Hydra's to read.
        if key in keys and not value.lstrip().startswith("{"):
            new = keys[key]
        elif group in groups:
            new = f"{groups[group]}.{rest}" if rest else groups[group]
        if new:
            whole = f"{new}={value}" if "." in new else f"{new}.KEY=VALUE"
            raise InputError(f"{override}: the key {key!r} is called {new} now; write {whole}")
