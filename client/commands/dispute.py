"""`client dispute`: after a sum that somebody doubts, hold this site's part against what it signed, and open it.

A person at the hospital does this with files. No message of the federation makes a site open anything, and without
`--open` nothing leaves the machine: the site's own part is judged here.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from client.gate.secure_inputs import KeptInput, find_input, inputs_key
from client.gate.secure_site import INPUTS_FOLDER
from client.site.home import ClientHome
from privacy.secagg.audit import OpenedInput, SumRecord, described, judge
from privacy.secagg.errors import SecAggError
from privacy.trust.identity import read_input
from privacy.trust.passphrase import read_private_key
from privacy.trust.signed import private_key
from shared_model.core.errors import FedKT3DError, InputError, naming
from shared_model.core.files import PRIVATE, create_file


def dispute(
    signed: Annotated[Path, typer.Argument(metavar="SIGNED", help="What was signed, from `server dispute --out`.")],
    home_folder: Annotated[Path, typer.Option("--home", help="The site's folder, made by `client init`.")],
    show: Annotated[
        Path | None, typer.Option("--open", help="New file: this site's vector UNMASKED, for whoever judges the sum.")
    ] = None,
    without_noise: Annotated[
        bool, typer.Option("--without-noise", help="With --open: also a vector that has no noise of this site in it.")
    ] = False,
    openings: Annotated[
        list[Path] | None, typer.Option("--opening", help="Another site's opening, to judge it here; repeatable.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else.")] = False,
) -> None:
    """Check that this site's part in a sum fits what it signed. Only with --open does a file show it. Exit 1 if not."""
    home = ClientHome.load(home_folder)
    with naming(signed):
        record = SumRecord.from_json(read_input(signed))
    kept = _own_input(home, record)
    opened = [] if kept is None else [_opened(home, record, kept)]
    for path in openings or []:
        with naming(path):
            opened.append(OpenedInput.from_bytes(read_input(path)))
    judged, whole = judge(record, opened)
    told: dict[str, Any] = {"round": record.round, "site": home.site, "kept": kept is not None}
    told |= {"openings": [asdict(one) for one in judged], "whole": whole}
    lines = [f"round {record.round}, sum of {record.terms.length} numbers over {len(record.inputs)} sites"]
    if kept is None:
        lines.append(f"{home.site}: what it put in is not kept any more, or it is not in this sum")
    lines += described(judged, whole)
    if show is not None:
        lines.append(_write_opening(home, record, kept, show, without_noise))
    print(json.dumps(told, indent=1) if as_json else "\n  ".join(lines))
    if whole is False or any(one.wrong for one in judged):
        raise FedKT3DError(f"round {record.round}: an opening contradicts what was signed, or all openings the sum")


def _own_input(home: ClientHome, record: SumRecord) -> KeptInput | None:
    """Return what this site kept of this very sum. Without it, the record's sites must be those that it has pinned.

    A kept input has the sum's hash, which covers every key, the terms and the model: so a forged record is none of it.
    """
    if home.site in record.cohort.names:
        key = inputs_key(private_key(read_private_key(home.identity_key)))
        site = record.cohort.index(home.site)
        kept = find_input(home.folder / "state" / INPUTS_FOLDER, key, site, record.context)
        if kept is not None:
            return kept
    if record.cohort.digest != home.cohort(home.pinned_plan()).digest:
        raise SecAggError("roster", "the record is of other sites or keys than those that this site has pinned")
    return None


def _opened(home: ClientHome, record: SumRecord, kept: KeptInput) -> OpenedInput:
    return OpenedInput(site=record.cohort.index(home.site), opening=kept.opening, vector=kept.vector)


def _write_opening(home: ClientHome, record: SumRecord, kept: KeptInput | None, path: Path, without_noise: bool) -> str:
    """Write this site's opening, readable by its owner alone; return what it shows, in words."""
    if kept is None:
        raise InputError("--open: this site has no input of this sum to open; only the last few are kept")
    if not kept.noised and not without_noise:
        raise InputError(
            "--open: this vector has no noise of this site in it. Whoever gets the file has this site's update of the"
            " round in clear, and may learn of its patients. If the hospital agrees to that: --without-noise"
        )
    create_file(path, _opened(home, record, kept).to_bytes(), PRIVATE)
    noise = "with this site's own noise alone: the larger epsilon holds" if kept.noised else "WITHOUT NOISE"
    return f"{path}: this site's vector of round {record.round}, UNMASKED, {noise}; give it to those who judge, sealed"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(dispute)
