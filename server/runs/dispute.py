"""`server dispute`: after a sum that somebody doubts, which site's own signed messages speak against it.

Without an opening it hands out what was signed. With openings, which people at the hospitals made and carried here, it
judges each. It asks no site for anything: no message of the federation can make a site open its part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from privacy.secagg.audit import OpenedInput, SumRecord, described, judge
from privacy.trust.identity import read_input
from server.deployment.home import ServerHome
from server.record.signed_sums import record_files
from server.runs.index import find
from shared_model.core.errors import FedKT3DError, InputError, naming
from shared_model.core.files import PUBLIC, write_bytes


def dispute(
    number: Annotated[
        int, typer.Argument(metavar="ROUND", min=0, help="The round whose sum is in doubt; 0: the statistics'.")
    ],
    home_folder: Annotated[Path, typer.Option("--home", help="The coordinator's folder, made by `server init`.")],
    run: Annotated[str | None, typer.Option("--run", help="Name of the run; default: the last one.")] = None,
    attempt: Annotated[int, typer.Option(min=0, help="Which attempt of the round; 0: the last that gave a sum.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write what was signed to this file, for the sites of the sum.")
    ] = None,
    openings: Annotated[
        list[Path] | None, typer.Option("--opening", help="A site's opening (`client dispute --open`); repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
) -> None:
    """Hand out what the sites signed for one sum; judge the openings of sites. Exit 1 if one does not fit."""
    path = _chosen(record_files(find(ServerHome.load(home_folder), run).out, number), attempt)
    content = read_input(path)
    with naming(path):
        record = SumRecord.from_json(content)
    in_sum = [record.cohort.name(site) for site in sorted(record.inputs)]
    lines = [f"round {number}, sum of {record.terms.length} numbers of {', '.join(in_sum)}; all signatures hold"]
    judged, whole = judge(record, read_openings(openings or []))
    told: dict[str, Any] = {"round": number, "sites": in_sum, "context": record.context.hex()}
    if out is not None:
        write_bytes(out, content, mode=PUBLIC)
        lines.append(f"  {out}: give it to each of these sites: client dispute {out.name} --home HOME")
    if judged:
        told |= {"openings": [asdict(one) for one in judged], "whole": whole}
        lines += [f"  {line}" for line in described(judged, whole)]
    print(json.dumps(told, indent=1) if as_json else "\n".join(lines))
    if whole is False or any(one.wrong for one in judged):
        raise FedKT3DError(f"round {number}: an opening contradicts what was signed, or all openings the sum")


def read_openings(files: Sequence[Path]) -> list[OpenedInput]:
    """Read openings; InputError naming the file that is none."""
    found = []
    for path in files:
        with naming(path):
            found.append(OpenedInput.from_bytes(read_input(path)))
    return found


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dispute)


def _chosen(files: Sequence[Path], attempt: int) -> Path:
    chosen = [path for path in files if attempt in (0, int(path.stem.partition("-")[2]))]
    if not chosen:
        kept = ", ".join(str(int(path.stem.partition("-")[2])) for path in files)
        raise InputError(f"--attempt: no sum of attempt {attempt}; there is one of {kept}")
    return chosen[-1]
