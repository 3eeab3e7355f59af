"""Which attempts at each round of a run were begun: ``OUT/attempts.json``, written before anything is sent to a site.

A site pays for what it releases in an attempt, even if the coordinator dies before it uses the release. Checkpoints
only know finished rounds, so the count has a file of its own. Each start goes on counting where the start before it was
killed or gave up. If the coordinator is killed between this file and the exchange, an attempt counts although nobody
paid for it. So a report may state too much, never too little.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from server.record.history import Drop
from server.record.journal import KEEP
from shared_model.core.errors import InputError
from shared_model.core.files import ORDINARY, write_text

_FILE = "attempts.json"


@dataclass(frozen=True, kw_only=True)
class _Tried:
    """Attempts begun at a round, and what the failed ones among them dropped."""

    begun: int = 0
    drops: tuple[Drop, ...] = ()


class Attempts:
    """The attempts of the run ``run_id`` in the folder ``out``; InputError when the file was changed or damaged."""

    def __init__(self, out: Path, run_id: str) -> None:
        self._path, self._run_id = out / _FILE, run_id
        self._rounds = _read(self._path, run_id)

    def count(self, number: int) -> int:
        """Return how many attempts at round ``number`` were begun, including those of earlier starts."""
        return self._of(number).begun

    def drops(self, number: int) -> tuple[Drop, ...]:
        """Return the drops of the failed attempts at round ``number``."""
        return self._of(number).drops

    def begin(self, number: int) -> int:
        """Count one more attempt at round ``number``, durably, and return its number; StorageError on a full disk."""
        tried = self._of(number)
        self._write(number, replace(tried, begun=tried.begun + 1))
        return tried.begun + 1

    def note_failure(self, number: int, drops: tuple[Drop, ...]) -> None:
        """Keep the drops of the last begun attempt, now that it has failed."""
        tried = self._of(number)
        self._write(number, replace(tried, drops=(*tried.drops, *drops)))

    def _of(self, number: int) -> _Tried:
        return self._rounds.get(number, _Tried())

    def _write(self, number: int, tried: _Tried) -> None:
        # A run never goes back before its oldest checkpoint: older rounds are in its history for good.
        recent = {earlier: one for earlier, one in self._rounds.items() if earlier >= number - KEEP}
        self._rounds = {**recent, number: tried}
        rounds = {str(one): asdict(tried) for one, tried in self._rounds.items()}
        write_text(self._path, json.dumps({"run_id": self._run_id, "rounds": rounds}), mode=ORDINARY)


def _read(path: Path, run_id: str) -> dict[int, _Tried]:
    """Return the rounds in ``path``; empty when there is no such file or it belongs to another run."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rounds = {int(number): _tried(**one) for number, one in content["rounds"].items()}
        return rounds if content["run_id"] == run_id else {}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: cannot be read ({type(error).__name__}), so that it is not known what the sites have released;"
            " put it back as it was, or choose another output folder"
        ) from error


def _tried(begun: int, drops: list[dict[str, str | int]]) -> _Tried:
    return _Tried(begun=int(begun), drops=tuple(Drop(**drop) for drop in drops))  # type: ignore[arg-type]
