"""What a site remembers of the privacy ledgers of its peers, so that a ledger that went back is seen.

With its keys each site signs how many charges its ledger holds, their last hash, the number of this showing and the
hash of the showing before. A ledger that was restored from an older copy, or a second live copy of a home, repeats a
number or continues from another showing than its peers saw last. They then refuse to deal shares to it. A peer that
missed more than SHOWINGS of them cannot check the link; it still sees a number or a count of charges that fell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from privacy.dp.ledger_record import SHOWINGS, Shown
from privacy.secagg.errors import SecAggError
from privacy.secagg.layout import Field, Many, Number, Packed, Raw
from shared_model.core.errors import InputError
from shared_model.core.files import write_json

WENT_BACK = "shows a privacy ledger that went back, or two copies of it are in use"


@dataclass(frozen=True, kw_only=True)
class LedgerHead(Packed):
    """A ``Shown`` in bytes, inside a site's signed keys."""

    TAG: ClassVar[int] = 12
    LAYOUT: ClassVar[dict[str, Field]] = {
        "number": Number(8),
        "records": Number(8),
        "head": Raw(32),
        "mark": Raw(16),
        "before": Many(Raw(32), SHOWINGS),
    }

    number: int
    records: int
    head: bytes
    mark: bytes
    before: tuple[bytes, ...]

    @classmethod
    def of(cls, shown: Shown) -> LedgerHead:
        """Return what a site showed of its ledger."""
        return cls(
            number=shown.number,
            records=shown.records,
            head=bytes.fromhex(shown.head),
            mark=bytes.fromhex(shown.mark),
            before=tuple(map(bytes.fromhex, shown.before)),
        )

    def shown(self) -> Shown:
        """Return it as its site made it."""
        before = tuple(showing.hex() for showing in self.before)
        return Shown(
            number=self.number, records=self.records, head=self.head.hex(), mark=self.mark.hex(), before=before
        )


class PeerHeads:
    """The newest showing of each peer's ledger, by identity key (hex); kept in ``path``, or in memory alone."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._memory: dict[str, Shown] = {}

    def see(self, heads: Mapping[str, tuple[str, bytes]]) -> None:
        """Check and remember showings: key -> (name, bytes of a LedgerHead, or none). Durable when it returns.

        SecAggError names the sites whose ledger went back. Then nothing is remembered.
        """
        known = self._read()
        after, bad = dict(known), []
        for key, (name, content) in heads.items():
            shown = LedgerHead.from_bytes(content).shown() if content else None
            if not follows(known.get(key), shown):
                bad.append(name)
            elif shown is not None:
                after[key] = shown
        if bad:
            raise SecAggError("ledger", f"{bad[0]} {WENT_BACK}", bad)
        if after != known:
            self._write(after)

    def _read(self) -> dict[str, Shown]:
        if self._path is None:
            return self._memory
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(key): Shown(**{**value, "before": tuple(value["before"])}) for key, value in found.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{self._path}: cannot be read; restore it: it says what peers have shown") from error

    def _write(self, heads: dict[str, Shown]) -> None:
        self._memory = heads
        if self._path is not None:
            write_json(self._path, {key: asdict(shown) for key, shown in sorted(heads.items())})


def follows(known: Shown | None, shown: Shown | None) -> bool:
    """Return whether a ledger may show this after what it showed before (None: nothing was seen, or there is none)."""
    if known is None or shown is None:
        return known is None
    apart = shown.number - known.number
    if apart < 1 or shown.records < known.records:
        return False
    return apart > len(shown.before) or shown.before[apart - 1] == known.hash
