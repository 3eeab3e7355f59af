"""kill -9 of every process of a federation at seeded random moments: the run ends as the undisturbed one does."""

import itertools
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import FAST
from tests.e2e.deployment import SCRIPTS, Deployment, alive, eventually
from tests.e2e.test_coordinator import children_of

pytestmark = pytest.mark.timeout(900)

# Both sites have to take part in every round, so that the survivors of each are those of the undisturbed run.
RUN = (
    *FAST,
    "model.shape=[16,16,16]",
    "rounds.count=5",
    "rounds.min_sites=2",
    "rounds.attempts=100",
    "rounds.deadline_s=30",
    "train.local_steps=4",
)
VICTIMS = ("superlink", "executor", "serverapp", "command", "site executor", "site supernode")
KILLS = 20  # each victim three times or four, however many runs that takes


@pytest.fixture(scope="module")
def calm(federation: Deployment) -> dict[str, Any]:
    return federation.run("name=calm", *RUN)["report"]


class Killer:
    """One run that is followed by `server run`, whatever happens to that command, and whose processes are killed."""

    def __init__(self, federation: Deployment, seed: int) -> None:
        self.federation, self.name = federation, f"kills-{seed}"
        self._random = random.Random(seed)
        self._events = federation.home / "runs" / self.name / "events.jsonl"
        self.done: list[str] = []
        self._follow()

    @property
    def over(self) -> bool:
        """Whether the run has ended."""
        return self.command.poll() is not None

    def _events_so_far(self) -> int:
        return len(self._events.read_bytes().splitlines()) if self._events.exists() else 0

    def _follow(self) -> None:
        with (self.federation.folder / f"{self.name}.err").open("ab") as errors:
            self.command = subprocess.Popen(
                [
                    *(str(SCRIPTS / "server"), "run", "--home", str(self.federation.home), "--json"),
                    *(f"name={self.name}", *RUN),
                ],
                cwd=self.federation.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def _pid(self, victim: str) -> int | None:
        """Process id of a victim that is alive now."""
        if victim == "command":
            return self.command.pid if self.command.poll() is None else None
        if victim.startswith("site "):
            site = self.federation.site(self._random.choice(("north", "south")))
            pid = self.federation.children(site).get(victim.removeprefix("site "))
        elif victim == "serverapp":
            executor = self.federation.children(self.federation.home).get("executor")
            found = children_of(executor) if executor else []
            pid = found[0] if found else None
        else:
            pid = self.federation.children(self.federation.home).get(victim)
        return pid if pid and alive(pid) else None

    def strike(self, victim: str) -> bool:
        """Kill the victim once the run has told of one to six things more (a round tells of seven), and a random time.

        So a kill meets any part of a round, and a run at work; False when it was over before. A command that was
        killed is started again, as a person would.
        """
        then = self._events_so_far() + self._random.randint(1, 6)
        try:
            eventually(
                lambda: self.over or self._events_so_far() >= then, 180, f"{self.name} goes on after {self.done}"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._last_words()}") from None
        time.sleep(self._random.uniform(0.0, 1.0))
        pid = eventually(lambda: self.over or self._pid(victim), 60, f"{victim} is alive")
        if self.over:
            return False
        os.kill(pid, signal.SIGKILL)
        self.done.append(victim)
        if victim == "command":
            self.command.wait()
            self._follow()
        return True

    def _last_words(self) -> str:
        """The ends of what the run, its command and the sites told: for whoever reads of a test that failed."""
        homes = [self.federation.home, *(self.federation.site(name) for name in ("north", "south"))]
        told = [self._events, self.federation.folder / f"{self.name}.err"]
        told += [log for home in homes for log in sorted((home / "logs").glob("*.log"))]
        return "\n".join(
            f"{file.relative_to(self.federation.folder)}: {line}"
            for file in told
            if file.exists()
            for line in _tail(file)
        )

    def report(self) -> dict[str, Any]:
        """Wait for the end."""
        out, _ = self.command.communicate(timeout=400)
        errors = (self.federation.folder / f"{self.name}.err").read_text()
        assert self.command.returncode == 0, errors
        return dict(json.loads(out)["report"])

    def close(self) -> None:
        if self.command.poll() is None:
            self.command.kill()
        self.command.wait()


def _tail(file: Path) -> list[str]:
    return file.read_text(errors="replace").splitlines()[-4:]


@pytest.mark.e2e
def test_random_kills_change_no_bit_and_count_nothing_twice(federation: Deployment, calm: dict[str, Any]) -> None:
    order = random.Random(0)
    victims = [victim for _ in range(4) for victim in order.sample(VICTIMS, len(VICTIMS))][:KILLS]
    for seed in itertools.count():
        if not victims:
            break
        killer = Killer(federation, seed)
        try:
            while victims and killer.strike(victims[0]):
                victims.pop(0)
            same_as(calm, killer.report())
        finally:
            killer.close()
        print(killer.name, killer.done)


def same_as(calm: dict[str, Any], report: dict[str, Any]) -> None:
    """A disturbed run's result is the undisturbed one's."""
    assert report["adapter_sha256"] == calm["adapter_sha256"]
    assert [entry["round"] for entry in report["history"]] == [1, 2, 3, 4, 5]
    for disturbed, entry in zip(report["history"], calm["history"], strict=True):
        for key in ("sites", "norms"):
            assert disturbed[key] == entry[key], (entry["round"], key)
        assert disturbed["metrics"]["loss"] == entry["metrics"]["loss"]
        # Nothing depends on an evaluation, so it is not repeated for a site that was killed meanwhile.
        patients = disturbed["evaluation"]["patients"].items()
        assert patients <= entry["evaluation"]["patients"].items()


@pytest.mark.e2e
def test_a_site_that_is_away_for_two_rounds_comes_back(federation: Deployment, calm: dict[str, Any]) -> None:
    """Rounds go on with the other site; the one that was stopped takes part again once it is back."""
    pid = federation.children(federation.site("south"))["supernode"]
    os.kill(pid, signal.SIGSTOP)  # silent, as behind a cut cable
    try:
        changes = ("rounds.min_sites=1", "rounds.count=3", "rounds.deadline_s=6", "rounds.evaluate_every=0")
        process = subprocess.Popen(
            [str(SCRIPTS / "server"), "run", "--home", str(federation.home), "--json", "name=away", *RUN, *changes],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        events = federation.home / "runs" / "away" / "events.jsonl"
        eventually(lambda: events.exists() and rounds_done(events) >= 2, 120, "two rounds without south")
    finally:
        os.kill(pid, signal.SIGCONT)
    out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    history = json.loads(out)["report"]["history"]
    assert [sorted(entry["sites"]) for entry in history[:2]] == [["north"]] * 2
    again = federation.run("name=back", *RUN)["report"]
    assert again["adapter_sha256"] == calm["adapter_sha256"]


def rounds_done(events: Path) -> int:
    return sum('"round_done"' in line for line in events.read_text().splitlines())
