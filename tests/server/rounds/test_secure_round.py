"""The coordinator's driver and the hospital's handler, through Flower messages: drop-outs, restarts and liars."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message
from flwr.clientapp import ClientApp

from client.gate.secure_inputs import SecureInputs, read_input
from client.gate.secure_site import SecureSite, SecureSites
from privacy.dp.encoding import fine_integers
from privacy.dp.noise import NoiseStream, integer_gaussian
from privacy.dp.terms import PrivacyTerms
from privacy.secagg import dealing, setup
from privacy.secagg.context import to_sign
from privacy.secagg.errors import ROUND_SPENT, SecAggError
from privacy.secagg.masks import RINGS
from privacy.secagg.messages import Masked
from privacy.secagg.replay import FileReplay
from privacy.secagg.shamir import split
from privacy.wire.messages import MESSAGE_TYPES, Refusal, Reply, TrainTask, parse_request, reply
from privacy.wire.secure_records import SECURE_KINDS
from server.rounds.ring_sum import RingSum
from server.rounds.secure_aggregation import SecureAggregation, SecureRules
from server.rounds.steps import Link
from server.sites.attendance import ConnectedSite
from shared_model.core.errors import InputError
from simulations.engine.local_grid import LocalGrid, NoAnswer
from tests.builders.secagg_rounds import Federation, name, plain_sum

RUN_ID = "ab" * 16
VECTOR = np.ones(9, np.float32)
PLAN = b"p" * 32
KEY = b"k" * 32  # of the inputs that a site keeps


def task(round_number: int) -> TrainTask:
    return TrainTask(round=round_number, rounds=9, local_steps=1, batch_size=1, lr=0.1, seed=0)


class Hospitals:
    """A client app for all sites; ``fault`` says what site i does with a request: answer, nothing, lie, restart."""

    def __init__(self, federation: Federation, folder: Path) -> None:
        self.federation, self.folder = federation, folder
        self.sites, self.asked = SecureSites(), Counter()
        self.vectors = federation.inputs(0)
        self.faults: dict[tuple[int, str], str] = {}
        self.replays = {i: FileReplay(folder / f"{i}.replay") for i in range(federation.size)}
        for i in range(federation.size):
            self.restart(i)

    def restart(self, i: int) -> None:
        site = self.federation.site(i, replay=self.replays[i])
        self.sites.enrol(name(i), SecureSite(site, PLAN, SecureInputs(self.folder / f"inputs{i}", KEY)))

    def app(self) -> ClientApp:
        flower = ClientApp()
        for kind in ("query", "train", "evaluate"):
            getattr(flower, kind)()(self.answer)
        return flower

    def answer(self, message: Message, context) -> Message:
        i = context.node_config["site"]
        asked = parse_request(message.content)
        self.asked[asked.kind] += 1
        fault = self.faults.get((i, asked.kind))
        if fault == "silent":
            raise NoAnswer
        if fault == "fail":
            raise RuntimeError("Jane Doe")
        if fault == "restart":
            self.restart(i)
            del self.faults[i, asked.kind]
        back = {"kind": asked.kind, "site": name(i), "round": asked.round, "run_id": asked.run_id}
        secure = self.sites.find_simulated(name(i))
        try:
            if asked.kind in SECURE_KINDS:
                content = reply(Reply(**back, secure=secure.answer(asked)))
            else:
                secure.open(asked)
                masked, ring = secure.mask(asked, self.vectors[i])
                if fault == "lie":
                    masked = replace(masked, commitment=bytes(32))
                content = reply(Reply(**back, secure=masked, ring=ring, metrics={"loss": float(i)}))
        except SecAggError as error:
            refusal = Refusal(code="secure", text=str(error))
            content = reply(Reply(**back, refusal=refusal, secure=error.complaint))
        return Message(content, reply_to=message)


class Run:
    """Hospitals, a grid and the coordinator's driver."""

    def __init__(self, federation: Federation, **rules) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.federation = federation
        self.hospitals = Hospitals(federation, Path(self.folder.name))
        self.grid = LocalGrid(self.hospitals.app(), [{"site": i} for i in range(federation.size)])
        link = Link(grid=self.grid, run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64)
        terms = federation.terms
        settings = {
            "threshold": terms.threshold,
            "least_survivors": terms.least_survivors,
            "colluders": 1,
            "ring_bits": federation.bits,
            "steps": 2,
            "deadline_s": 60.0,
            "stage_s": 60.0,
        }
        self.driver = SecureAggregation(link, federation.cohort, SecureRules(**{**settings, **rules}), PLAN)
        nodes = sorted(self.grid.get_node_ids())
        self.sites = [ConnectedSite(node=node, name=name(i), patients=1) for i, node in enumerate(nodes)]
        self.told: list = []

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.grid.close()
        self.hospitals.sites.close()
        for replay in self.hospitals.replays.values():
            replay.close()
        self.folder.cleanup()

    def sum(self, round_number: int, sites=None, **more):
        return self.driver.sum(
            self.sites if sites is None else sites,
            self.federation.length,
            lambda site, drop: self.told.append((site, drop)),
            round_number=round_number,
            task=task(round_number),
            vector=VECTOR,
            **more,
        )

    def check(self, outcome, sites) -> None:
        assert outcome.failed == ""
        assert outcome.sites == tuple(name(i) for i in sites)
        assert (outcome.total == plain_sum(self.hospitals.vectors, sites)).all()


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_sums_over_flower_are_exact_and_a_set_up_serves_its_steps(bits):
    with Run(Federation(size=4, bits=bits)) as run:
        for number in (1, 2, 3):
            outcome = run.sum(number)
            run.check(outcome, range(4))
            assert outcome.per_site == {name(i): {"loss": float(i)} for i in range(4)}
            assert outcome.drops == ()
            assert len(outcome.record.inputs) == len(outcome.sites)
        assert run.hospitals.asked == {
            "secure_keys": 8, "secure_shares": 8, "train": 12, "secure_confirm": 12, "secure_reveal": 12
        }  # fmt: skip
        assert set(run.hospitals.asked) <= set(MESSAGE_TYPES)


@pytest.mark.parametrize("kind", [*SECURE_KINDS, "train"])
def test_one_failing_site_at_any_stage_costs_no_sum(kind):
    with Run(Federation(size=5)) as run:
        run.hospitals.faults[2, kind] = "fail"
        outcome = run.sum(1)
        run.check(outcome, [0, 1, 3, 4] if kind in ("secure_keys", "secure_shares", "train") else range(5))
        assert [(d.site, d.reason) for d in outcome.drops] == [(name(2), "error")]
        assert "Jane" not in outcome.drops[0].detail
        run.hospitals.faults.clear()
        run.check(run.sum(2), [0, 1, 3, 4] if kind in ("secure_keys", "secure_shares") else range(5))
        run.check(run.sum(3), range(5))


def test_a_silent_site_is_given_up_at_the_stages_deadline():
    with Run(Federation(size=4), stage_s=4.0) as run:
        run.hospitals.faults[2, "secure_confirm"] = "silent"
        outcome = run.sum(1)
        run.check(outcome, range(4))
        assert [(d.site, d.reason) for d in outcome.drops] == [(name(2), "timeout")]
        assert outcome.wall_s >= 4.0


@pytest.mark.parametrize("kind", [*SECURE_KINDS, "train"])
def test_too_many_failing_sites_fail_the_attempt_and_the_next_one_is_whole(kind):
    with Run(Federation(size=4)) as run:
        run.hospitals.faults = {(i, kind): "fail" for i in (0, 3)}
        outcome = run.sum(1, attempt=1)
        assert outcome.total is None
        assert outcome.sites == ()
        assert "least" in outcome.failed
        assert outcome.spent == (kind == "secure_reveal")
        assert [d.site for d in outcome.drops] == [name(0), name(3)]
        run.hospitals.faults.clear()
        run.check(run.sum(1, attempt=2), range(4))


@pytest.mark.parametrize("kind", ["train", "secure_confirm", "secure_shares"])
def test_a_site_that_restarts_drops_out_and_comes_back_with_the_next_set_up(kind):
    with Run(Federation(size=5, steps=4)) as run:
        run.check(run.sum(1), range(5)) if kind == "train" else None
        run.hospitals.faults[1, kind] = "restart"
        outcome = run.sum(2)
        assert [(d.site, d.reason) for d in outcome.drops] == [(name(1), "refused")]
        assert outcome.drops[0].detail.startswith("secure: this site has no such set-up")
        assert outcome.total is not None
        run.check(run.sum(3), range(5))


def test_a_vector_whose_commitment_is_not_signed_is_left_out():
    with Run(Federation(size=5)) as run:
        run.hospitals.faults[3, "train"] = "lie"
        outcome = run.sum(1, attempt=4)
        run.check(outcome, [0, 1, 2, 4])
        assert [(d.site, d.reason, d.attempt) for d in outcome.drops] == [(name(3), "secure", 4)]
        assert run.told[0][0] == name(3)


@pytest.mark.parametrize("strict", [True, False])
def test_a_dealer_that_is_proven_wrong_is_left_out_from_then_on(monkeypatch, strict):
    with Run(Federation(size=5, strict=strict)) as run:
        made = Counter()

        def wrong(secret, threshold, points):
            made[secret] += 1
            return split(b"x" * 32 if len(made) == 1 else secret, threshold, points)

        monkeypatch.setattr(dealing, "split", wrong)
        outcome = run.sum(1)
        assert outcome.total is None
        [drop] = outcome.drops
        assert drop.reason == "secure"
        monkeypatch.undo()
        others = [i for i in range(5) if name(i) != drop.site]
        assert outcome.spent
        again = run.sum(1)
        if strict:  # without noise no other sum of this round is given, so the run goes on with the next
            assert again.total is None
            assert again.spent
            assert all(d.detail.endswith(ROUND_SPENT) for d in again.drops)
            again = run.sum(2)
        run.check(again, others)


def test_a_site_that_joins_later_is_taken_in_at_once():
    with Run(Federation(size=5, steps=4)) as run:
        run.check(run.sum(1, run.sites[:4]), range(4))
        run.check(run.sum(2), range(5))


def test_sites_outside_the_roster_are_not_asked():
    with Run(Federation(size=4)) as run:
        strange = [*run.sites[:3], replace(run.sites[3], name="stranger")]
        run.check(run.sum(1, strange), range(3))


def test_terms_that_no_site_accepts_are_the_coordinators_own_fault():
    with Run(Federation(size=4), threshold=2) as run, pytest.raises(SecAggError, match="threshold"):
        run.sum(1)


def test_two_coordinators_plans_do_not_mix():
    with Run(Federation(size=4)) as run:
        run.driver = SecureAggregation(run.driver._link, run.federation.cohort, run.driver._rules, b"another plan")
        outcome = run.sum(1)
        assert outcome.total is None
        assert {d.reason for d in outcome.drops} == {"refused"}
        assert "not for this site's model" in outcome.drops[0].detail


def test_what_a_site_put_in_is_kept_there_and_opens_what_it_signed(tmp_path):
    with Run(Federation(size=3, bits=16), steps=3) as run:
        outcomes = [run.sum(number) for number in range(1, 7)]
        files = sorted((run.hospitals.folder / "inputs1").glob("*.sealed"))
        assert [path.name for path in files] == [f"{i:08d}.sealed" for i in (3, 4, 5, 6)]
        kept = read_input(files[-1], KEY, 1)
        assert (kept.run_id, kept.round) == (RUN_ID, 6)
        assert Masked.from_bytes(outcomes[-1].record.inputs[1]).commitment == kept.commitment
        assert files[0].stat().st_mode & 0o777 == 0o600
        assert kept.vector.dtype == RINGS[16]
        assert kept.vector.tobytes()[:64] not in files[-1].read_bytes()
        with pytest.raises(InputError, match="cannot be read as an input"):
            read_input(files[-1], b"x" * 32, 1)
        changed = SecureInputs(tmp_path / "changed", KEY)
        changed.keep(RUN_ID, 6, kept.commitment, kept.opening, kept.vector + np.uint16(1), False)
        with pytest.raises(InputError, match="not the one that was committed to"):
            read_input(next((tmp_path / "changed").iterdir()), KEY, 1)


def test_a_dealer_of_garbage_is_left_out_and_the_run_goes_on(monkeypatch):
    """H2: before, each attempt ended with all honest sites refusing, whatever the number of attempts."""
    with Run(Federation(size=5)) as run:
        bad = run.federation.keys[2].public_key().public_bytes_raw()
        honest = setup.make_deal

        def garbage(site, context, threshold, share_key, steps, adverts, cohort, identity):
            deal = honest(site, context, threshold, share_key, steps, adverts, cohort, identity)
            if identity.public_key().public_bytes_raw() != bad:
                return deal
            spoilt = replace(deal, boxes={other: bytes(len(box)) for other, box in deal.boxes.items()})
            return replace(spoilt, signature=identity.sign(to_sign("deal", context, spoilt.body_to_sign())))

        monkeypatch.setattr(setup, "make_deal", garbage)
        first, second = run.sum(1), run.sum(1)
        assert first.total is None
        assert ("site-002", "secure") in {(drop.site, drop.reason) for drop in first.drops}
        assert second.sites == ("site-000", "site-001", "site-003", "site-004")
        assert np.array_equal(second.total, plain_sum(run.hospitals.vectors, [0, 1, 3, 4]))


def test_wire_bytes_count_both_directions():
    with Run(Federation(size=3, bits=16, length=20_000)) as run:
        outcome = run.sum(1)
        ring, shared = 3 * 2 * 20_000, 3 * VECTOR.nbytes
        assert ring + shared < outcome.wire_bytes < ring + shared + 40_000


def test_noised_releases_sum_up_to_the_same_mean_with_and_without_masks():
    terms = PrivacyTerms(
        mode="shared", z=2.0, q=0.5, steps=10, clip=1.0, delta=1e-5, cohort=20, sites=4, survivors=3, colluders=1
    )  # fmt: skip
    how, stream = terms.encoding(), NoiseStream()
    length = 300
    with Run(Federation(size=4, bits=how.bits, length=length)) as run:
        run.hospitals.vectors = {
            i: how.release(
                fine_integers(np.full(length, 0.01 * i, np.float32), terms.clip, stream),
                integer_gaussian(how.sigma_site, length, stream),
            )
            for i in range(4)
        }
        mask = np.ones(length, bool)
        singly = RingSum(terms, mask, plain_sum(run.hospitals.vectors, range(4)))
        outcome = run.sum(1)
        assert outcome.total is not None
        whole = RingSum(terms, mask, outcome.total)
        assert (whole.mean() == singly.mean()).all()
        assert whole.excess() == ""
