"""What `server run` shows: progress from the run's live events, and one table from its report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table

from server.config.privacy import privacy_line
from server.record.events import LOUD
from server.record.history import RoundRecord
from server.rounds.public_gate import stop_lines
from server.runs.follow import Outcome
from server.runs.index import Event

# Those metrics of a round that fit on a screen, with their headings. The report holds all metrics.
COLUMNS = {
    "loss": "loss",
    "dose_score_gy": "dose Gy",
    "dvh_score_gy": "DVH Gy",
    "mae_ref5_gy": "MAE>=5 Gy",
    "public_gy": "public Gy",
}


class Progress:
    """On a terminal: a bar over the rounds, with drops and notices as lines above it. Elsewhere: one line per event."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),  # holds words of the sites
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("waiting for the server app", total=None)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._bar.stop()

    def event(self, event: Event) -> None:
        """Show one event of the run (server/record/events.py writes them)."""
        text = event_line(event)
        if not self._live:
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
            return
        kind, number = str(event.get("kind", "")), int(event.get("round", 0))
        if kind in LOUD:
            self._console.print(text, style="yellow", highlight=False, markup=False)
        done = number if kind in ("round_done", "resumed", "finished", "evaluated") else max(0, number - 1)
        total = event.get("rounds")
        self._bar.update(self._task, description=text, completed=done, total=total if total else None)


def event_line(event: Event) -> str:
    """Return one event in words: round, kind, site, reason, and the numbers that fit on a screen."""
    kind, number = str(event.get("kind", "")), int(event.get("round", 0))
    words = [kind.replace("_", " "), *(str(event[key]) for key in ("site", "reason", "detail") if event.get(key))]
    if event.get("sites"):
        words.append(f"{event['sites']} sites")
    metrics = event.get("metrics", {})
    words += [f"{COLUMNS[name]} {metrics[name]:.4g}" for name in COLUMNS if name in metrics]
    if event.get("wire_bytes"):
        words.append(f"{event['wire_bytes'] / 1e6:.1f} MB")
    if event.get("wall_s"):
        words.append(f"{event['wall_s']:.1f} s")
    where = f"round {number}/{event.get('rounds', '?')}: " if number and kind not in ("resumed", "finished") else ""
    return where + " ".join(words)


def rounds_table(report: Mapping[str, Any]) -> Table:
    """Return a table with one row per round: sites, dropped sites and why, the metrics of COLUMNS, training wall time.

    Raises KeyError or TypeError when a run of this version did not write the history.
    """
    history = [RoundRecord.from_plain(entry) for entry in report.get("history", [])]
    table = Table(title=", ".join(f"{site}: {patients} patients" for site, patients in report["sites"].items()))
    scores = [{**one.shown_metrics(), **(one.evaluation.metrics if one.evaluation else {})} for one in history]
    columns = [name for name in COLUMNS if any(name in row for row in scores)]
    for heading in ("round", "sites", "dropped", *(COLUMNS[name] for name in columns), "wall s"):
        table.add_column(heading)
    for one, row in zip(history, scores, strict=True):
        drops = ", ".join(f"{drop.site}: {drop.reason}" for drop in one.drops) or "-"
        numbers = [f"{row[name]:.4g}" if name in row else "-" for name in columns]
        number = f"{one.round} taken back" if one.rolled_back else str(one.round)
        table.add_row(number, str(len(one.sites)), drops, *numbers, f"{one.wall_s:.1f}")
    table.caption = "\n".join([*stop_lines(report), privacy_line(report["privacy"])])
    return table


def outcome_record(outcome: Outcome) -> dict[str, Any]:
    """Return what `server run --json` prints."""
    return {
        "run_id": outcome.run_id,
        "out": str(outcome.out),
        "adapter": str(outcome.adapter),
        "wall_s": round(outcome.wall_s, 2),
        "report": outcome.report,
    }
