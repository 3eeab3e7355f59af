"""What goes wrong in each row of the fault lab's table. The seed decides which site and which rounds."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulations.engine.faults import FAULTS, Fault

LIE = -4.0
CUT_SHARE = 0.25  # of all answers, in the row "cut"


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One row. ``overrides`` of the federation; ``faults`` of sites; ``liar``: who sends LIE times its update.

    ``cuts``: (place of the site, round) whose answers are lost. ``killed``: the round in which the coordinator's
    process gets SIGKILL; it is started again on the same folder. ``killed_site``: the site whose process gets SIGKILL
    when it is asked to train in round ``site_round``, and does not come back.
    """

    name: str
    what: str
    overrides: tuple[str, ...] = ()
    faults: tuple[Fault, ...] = ()
    liar: str = ""
    cuts: frozenset[tuple[int, int]] = frozenset()
    killed: int = 0
    killed_site: str = ""
    site_round: int = 0


def scenarios(seed: int, sites: Sequence[str], rounds: int, deadline_s: float) -> list[Scenario]:
    """All rows, in the table's order. The same arguments give the same rows."""
    found = [Scenario(name="healthy", what="nothing fails")]
    for what, words in FAULTS.items():
        drawn = random.Random(f"{seed} {what}")
        site = drawn.choice(sites)
        # Silence costs the deadline each time.
        count = 1 if what in ("silence", "slow") else max(1, rounds // 3)
        struck = tuple(sorted(drawn.sample(range(1, rounds + 1), count)))
        fault = Fault(what=what, site=site, rounds=struck, seconds=1.5 * deadline_s)
        where = f"{site}, round {' and '.join(map(str, struck))}"
        found.append(
            Scenario(name=what, what=f"{words.replace('``seconds``', 'the deadline')}: {where}", faults=(fault,))
        )
    drawn = random.Random(f"{seed} cut")
    places = [(place, number) for place in range(len(sites)) for number in range(1, rounds + 1)]
    cuts = frozenset(drawn.sample(places, max(1, int(CUT_SHARE * len(places)))))
    left = drawn.randrange(len(sites))
    since = drawn.randint(2, rounds)
    gone = frozenset((left, number) for number in range(since, rounds + 1))
    liar = drawn.choice(sites)
    robust: Mapping[str, tuple[str, ...]] = {
        "mean": ("aggregate.weighting=equal",),
        "trimmed": ("aggregate.weighting=equal", "aggregate.rule=trimmed", "aggregate.trim=0.25"),
        "median": ("aggregate.weighting=equal", "aggregate.rule=median"),
    }
    return [
        *found,
        Scenario(name="cut", what=f"{len(cuts)} of {len(places)} answers are lost on their way", cuts=cuts),
        Scenario(name="leave", what=f"{sites[left]} is gone from round {since} on", cuts=gone),
        *(
            Scenario(
                name=f"lie, {rule}",
                what=f"{liar} sends {LIE:g} times its update in each round",
                overrides=overrides,
                liar=liar,
            )
            for rule, overrides in robust.items()
        ),
        Scenario(
            name="kill",
            what="the coordinator's process is killed (SIGKILL) in a round and started again",
            killed=drawn.randint(1, rounds),
        ),
        _killed_site(random.Random(f"{seed} kill site"), sites, rounds),
    ]


def _killed_site(drawn: random.Random, sites: Sequence[str], rounds: int) -> Scenario:
    site, number = drawn.choice(sites), drawn.randint(2, rounds)
    return Scenario(
        name="kill site",
        what=f"the process of {site} is killed (SIGKILL) in round {number} and not started again",
        killed_site=site,
        site_round=number,
    )
