"""What the benchmarks of a peer's round beside one of ours share: options, our side, and the figures they print."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from simulations.benchmarks.printing import print_numbers
from simulations.benchmarks.sites import measure


def options(doc: str | None) -> argparse.ArgumentParser:
    """The options that all of them take."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--sites", type=int, default=100)
    parser.add_argument("--rounds", type=_rounds, default=3)
    parser.add_argument("--megabytes", type=float, default=4.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser


def _rounds(text: str) -> int:
    if int(text) < 2:
        raise argparse.ArgumentTypeError("expected 2 or more, since the first one holds the start-up")
    return int(text)


def print_beside(
    peer: str, title: str, asked: argparse.Namespace, theirs: Callable[[int], Mapping[str, float]]
) -> None:
    """Measure both and print them. ``theirs``: from a vector's size to ``round_s`` and ``whole_s`` of the peer."""
    ours = measure(asked.sites, asked.rounds, asked.megabytes, asked.workers)
    found = theirs(int(asked.megabytes * 1e6 / 4))
    round_s = ours["wall_s"] / asked.rounds
    numbers = {
        "sites": asked.sites,
        "rounds": asked.rounds,
        "ours_round_s": round(round_s, 3),
        f"{peer}_round_s": round(found["round_s"], 3),
        "ours_whole_s": ours["wall_s"],
        f"{peer}_whole_s": round(found["whole_s"], 1),
        "ratio": round(round_s / found["round_s"], 4),
        "goal": 0.5,
    }
    print_numbers(title, numbers, as_json=asked.json)
