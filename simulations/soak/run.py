"""`make soak`: a coordinator and five sites in real processes, many short rounds, seeded faults; ends by itself.

``python -m simulations.soak.run [--rounds 500] [--seed 0] [--out out/soak] [--minutes 1440] [--faults NAME,...]``. The
processes are kept alive as our systemd units would (units.py), so "nobody" in the table means: neither hospital nor
coordinator had to do anything. Writes ``faults.csv`` and ``soak.md`` after each fault. Exit 0: all rounds done, nobody
acted who should not have had to, and no round was charged more often than it was tried.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from simulations.soak import report
from simulations.soak.faults import COORDINATOR, FAULTS, NOBODY, SITE, DeployedFault, SmallDisk
from simulations.soak.federation import Federation, SoakError
from simulations.soak.ledgers import account, charges, sums, tries
from simulations.soak.units import memory_mb

FIRST_ROUND_S = 900.0
HARNESS = "the harness failed"
BACK_S = 900.0  # the longest wait for a victim's next answer, before a person looks
QUIET_ROUNDS = (1, 2)  # between two faults
MEASURE_EVERY = 3  # faults


class Soak:
    """One soak of ``federation`` with ``faults``; ``end``: when it gives up (monotonic)."""

    def __init__(self, federation: Federation, faults: Sequence[DeployedFault], end: float) -> None:
        self._federation, self._faults, self._end = federation, faults, end
        self._rng = random.Random(federation.seed)
        self._rows: list[report.Row] = []
        self._sizes: list[report.Size] = []
        self._began = time.monotonic()
        self.skipped: dict[str, str] = {}
        self.why = ""

    def run(self, out: Path) -> report.Result:
        """Set up, strike until the run is over, and return what was found; written to ``out`` after each fault too."""
        federation = self._federation
        try:
            federation.set_up()
            federation.until(lambda: federation.rounds_done() >= 1, FIRST_ROUND_S, "the first round")
            self._began = time.monotonic()
            self._measure("start")
            for fault in self._order():
                if not self._quiet():
                    break
                self._rows.append(self._strike(fault))
                print(f"{self._rows[-1]}", flush=True)
                if len(self._rows) % MEASURE_EVERY == 0:
                    self._measure(f"after {len(self._rows)}")
                report.write(self.result(), out)
            if not federation.until(lambda: federation.over, max(0.0, self._end - time.monotonic())):
                self.why = self.why or ("" if federation.over else "the time was up")
        except (SoakError, SystemExit) as error:
            self.why = str(error) if isinstance(error, SoakError) else "stopped by a signal"
        self._measure("end")
        return self.result()

    def _order(self) -> Iterator[DeployedFault]:
        """Each fault once in random order, and again, until the run or the time is over."""
        while True:
            for fault in self._rng.sample(self._faults, len(self._faults)):
                if self._federation.over or time.monotonic() > self._end:
                    return
                yield fault

    def _quiet(self) -> bool:
        """Let one or two rounds pass, and a random time; False where the run is over."""
        federation = self._federation
        then = federation.rounds_done() + self._rng.randint(*QUIET_ROUNDS)
        pause = self._rng.uniform(0.0, 3.0)
        left = max(0.0, self._end - time.monotonic())
        federation.until(lambda: federation.rounds_done() >= then, min(BACK_S, left))
        federation.until(lambda: False, pause)
        return not federation.over and time.monotonic() < self._end and federation.rounds_done() < federation.rounds - 1

    def _strike(self, fault: DeployedFault) -> report.Row:
        federation = self._federation
        victim = "coordinator" if fault.of_coordinator else fault.victim or self._rng.choice(federation.names)
        began, at, number, resumed = time.monotonic(), time.time(), federation.rounds_done(), federation.resumed
        acted, failed = fault.who, ""
        try:
            fault.act(federation, victim, self._rng)
        except (SoakError, OSError) as error:  # the other faults are struck all the same
            acted, failed = HARNESS, f"{type(error).__name__}: {error}"
        healed = time.time()
        if not federation.until(lambda: federation.answered(victim, healed), BACK_S) and not federation.over:
            acted = COORDINATOR if fault.of_coordinator else SITE  # what a person would try first
            unit = federation.unit(victim)
            unit.stop()
            unit.start()
            federation.until(lambda: federation.answered(victim, healed), BACK_S)
        if federation.resumed > resumed:
            acted = COORDINATOR if acted == NOBODY else f"{acted}, coordinator"
        return report.Row(
            number=len(self._rows) + 1,
            at=round(began - self._began, 1),
            round=number,
            fault=fault.name,
            victim=victim,
            expected=fault.who,
            acted=acted,
            back_s=round(time.monotonic() - began, 1),
            rounds_meanwhile=federation.rounds_done() - number,
            said=(failed or "; ".join(federation.said_of(victim, at)))[:200],
        )

    def _measure(self, when: str) -> None:
        federation = self._federation
        memory = memory_mb(federation.mark)
        self._sizes.append(
            report.Size(when=when, round=federation.rounds_done(), memory=memory, disk=federation.disk_mb())
        )

    def result(self) -> report.Result:
        """Return what was found so far."""
        federation = self._federation
        events = federation.events.look()
        tried, in_sums = tries(events), sums(events, federation.report())
        sites = [(name, charges(federation.site(name) / "ledger")) for name in federation.names]
        return report.Result(
            seed=federation.seed,
            rounds=federation.rounds,
            done=federation.rounds_done(),
            wall_s=time.monotonic() - self._began,
            why=self.why,
            resumed=federation.resumed,
            skipped=self.skipped,
            rows=tuple(self._rows),
            accounts=tuple(account(name, charged, tried, in_sums) for name, charged in sites),
            sizes=tuple(self._sizes),
        )


def soak(rounds: int, seed: int, out: Path, minutes: float, names: Sequence[str]) -> report.Result:
    """Soak a federation in the new folder ``out/federation``; leaves no process behind, whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out / "federation"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    federation = Federation(folder, rounds, seed)
    small = SmallDisk(federation.site(FAULTS["full disk"].victim))
    with small, closing(federation.commands), federation.supervisor:
        chosen = [FAULTS[name] for name in names if not (name == "full disk" and small.why_not)]
        one = Soak(federation, chosen, time.monotonic() + 60.0 * minutes)
        if small.why_not and "full disk" in names:
            one.skipped = {"full disk": small.why_not}
        found = one.run(out)
        report.write(found, out)
    return found


def main() -> None:
    """Read the options, soak, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("out/soak"))
    parser.add_argument("--minutes", type=float, default=1440.0, help="give up after so many")
    parser.add_argument("--faults", default=",".join(FAULTS), help="names, separated by commas; default: all")
    args = parser.parse_args()
    # An end by a signal is an end too: nothing is left behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))
    names = args.faults.split(",")
    unknown = sorted(set(names) - set(FAULTS))
    if unknown:
        parser.error(f"--faults {', '.join(unknown)}: expected some of {', '.join(FAULTS)}")
    found = soak(args.rounds, args.seed, args.out, args.minutes, names)
    print("\n".join(report.lines(found)))
    sys.exit(not found.good)


if __name__ == "__main__":
    main()
