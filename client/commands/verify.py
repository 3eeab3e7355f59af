"""`client verify`: holds the coordinator's transparency log against what this site did and saw itself."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from client.site.home import ClientHome
from client.site.seen_log import OwnRound, SeenLog, read_heads
from privacy.trust.public_log import RoundEntry, StatisticsEntry, TreeHead
from shared_model.core.errors import FedKT3DError
from shared_model.core.files import PUBLIC, write_bytes


@dataclass(frozen=True, kw_only=True)
class OwnVerdict:
    """What the log says of a round that this site worked in. ``what``: in words; ``wrong``: it contradicts the site.

    Round 0 are the statistics before the first.
    """

    run: str
    round: int
    what: str
    wrong: bool = False


def verdicts(own: Sequence[OwnRound], logged: Sequence[RoundEntry | StatisticsEntry], site: str) -> list[OwnVerdict]:
    """Hold each of this site's own rounds against the log's last entry for that round."""
    last = {(entry.run, entry.round): entry for entry in logged}
    newest: dict[str, int] = {}
    for later in logged:
        newest[later.run] = max(newest.get(later.run, 0), later.round)
    found = []
    for did in own:
        entry = last.get((did.run, did.round))
        what, wrong = "in the log", False
        if entry is None and did.round == StatisticsEntry.round:
            # A sum can fail after it was signed, and the run goes on without; `server verify` holds the card to it.
            what = "no receipt: without one, a card of this run must have no ranges"
        elif entry is None:
            wrong = newest.get(did.run, 0) > did.round
            what = "LEFT OUT: the log has later rounds of this run" if wrong else "no receipt yet"
        elif isinstance(entry, RoundEntry) and entry.before != did.vector:
            what, wrong = "ANOTHER MODEL: the log says that the sites worked on another vector than this site got", True
        elif site not in entry.sites:
            what = "in the log, without this site's answer"
        elif did.signed and entry.sites not in {tuple(sorted(sites)) for sites in did.signed}:
            what, wrong = "OTHER SITES: this site signed no sum over the sites that the log names", True
        found.append(OwnVerdict(run=did.run, round=did.round, what=what, wrong=wrong))
    return found


def compared(own: Sequence[TreeHead], theirs: Sequence[TreeHead]) -> tuple[int, bool]:
    """Return the largest size of which both sites have a head (0: none), and whether all such heads agree."""
    roots = {head.size: head.root for head in own}
    common = [head for head in theirs if head.size in roots]
    return max((head.size for head in common), default=0), all(roots[head.size] == head.root for head in common)


def verify(
    home_folder: Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")],
    compare: Annotated[
        Path | None, typer.Option("--compare", help="Another site's file of heads, from its `client verify --heads`.")
    ] = None,
    heads: Annotated[
        Path | None, typer.Option("--heads", help="Write this site's heads to a file, for other sites to compare.")
    ] = None,
    new_log: Annotated[
        bool, typer.Option("--new-log", help="Put the log seen so far aside. Ask the coordinator first why it must.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
) -> None:
    """Verify the coordinator's log: it only grew, and this site's rounds are in it as they were. Exit 1 if not."""
    home = ClientHome.load(home_folder)
    log = SeenLog(home)
    if new_log:
        aside = log.begin_anew()
        _print({"aside": str(aside)} if as_json else [f"{home.site}: the log seen so far is in {aside}"])
        return
    kept = log.heads()
    found = verdicts(log.own_rounds(), log.proven(kept), home.site)
    record: dict[str, Any] = {"site": home.site, "heads": len(kept), "entries": kept[-1].size if kept else 0}
    record |= {"root": kept[-1].root if kept else "", "refused": log.refused(), "rounds": [asdict(v) for v in found]}
    newest = f", newest of {kept[-1].size} entries, root {kept[-1].root[:16]}" if kept else ""
    lines = [f"{home.site}: {len(kept)} heads, each continues the one before{newest}"]
    lines += [f"  run {v.run[:8]} {f'round {v.round}' if v.round else 'statistics'}: {v.what}" for v in found]
    if heads is not None:
        write_bytes(heads, log.kept_heads(), mode=PUBLIC)
        lines.append(f"  {heads}: give it to other sites: client verify --compare {heads.name}")
    agree = True
    if compare is not None:
        size, agree = compared(kept, read_heads(compare, home))
        record |= {"compared": size, "agree": agree}
        same = f"the same log, compared up to entry {size}" if agree else "ANOTHER LOG was shown to that site"
        lines.append(f"  {compare}: {same if size else 'no head of the same size yet: compare after the next round'}")
    _print(record if as_json else lines)
    wrong = [v for v in found if v.wrong]
    if wrong or log.refused() or not agree:
        raise FedKT3DError(
            f"the log contradicts this site: {len(wrong)} rounds, {log.refused()} refused receipts"
            f"{'' if agree else ', another site has another log'}; keep {log.folder} and speak with the other sites"
        )


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(verify)


def _print(output: dict[str, Any] | list[str]) -> None:
    print(json.dumps(output, indent=1) if isinstance(output, dict) else "\n".join(output))
