"""What a site keeps for itself from one round to the next: named arrays in a file of its own cache. They never travel.

``keep`` writes what was known before the round beside what is known after it. So a round that is asked for again (its
answer came too late, or the coordinator started anew from a checkpoint) begins where it began the first time and gives
the same update. A run that starts over with round 1 forgets what an earlier one left.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.site.config import SiteConfig
from shared_model.core.errors import InputError
from shared_model.core.files import write_bytes
from shared_model.network.spec import ModelSpec

# The folder in the site's cache. `client forget` deletes it with all that was made from patients.
FOLDER = "between_rounds"
Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """The file of one strategy (``what``) at one site, for runs of one model and seed."""

    path: Path

    @classmethod
    def of(cls, site: SiteConfig, spec: ModelSpec, seed: int, what: str) -> Memory:
        """Find the file. InputError if the site has no folder for derived files."""
        if site.cache is None:
            raise InputError(f"site {site.site}: this run keeps something at the site; give a folder as 'cache'")
        key = hashlib.sha256(f"{seed} {spec.to_json()}".encode()).hexdigest()[:16]
        return cls(path=site.cache / FOLDER / f"{what}-{site.site}-{key}.npz")

    def before(self, number: int) -> tuple[int, Arrays]:
        """Return the round that left the state before round ``number``, and the state; (0, nothing) if none did."""
        rounds, before, after = self._read()
        if number > rounds[1]:
            return rounds[1], after
        return (rounds[0], before) if number == rounds[1] else (0, {})

    def newest(self) -> Arrays:
        """Return the state after the newest round; nothing if there was none."""
        return self._read()[2]

    def keep(self, number: int, after: Arrays) -> None:
        """Write the state after round ``number``, and the one before it."""
        since, before = self.before(number)
        content = io.BytesIO()
        named = {f"before.{name}": array for name, array in before.items()}
        named |= {f"after.{name}": array for name, array in after.items()}
        np.savez(content, allow_pickle=False, rounds=np.array([since, number]), **named)
        write_bytes(self.path, content.getvalue())

    def _read(self) -> tuple[tuple[int, int], Arrays, Arrays]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                since, number = (int(value) for value in file["rounds"])
                found = [
                    {name.removeprefix(prefix): file[name] for name in file.files if name.startswith(prefix)}
                    for prefix in ("before.", "after.")
                ]
        except FileNotFoundError:
            return (0, 0), {}, {}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{self.path}: is damaged; delete it, and the site begins anew") from error
        return (since, number), found[0], found[1]
