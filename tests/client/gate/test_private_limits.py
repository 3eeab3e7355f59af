"""Private modes at a real site: mode list, masks, plan, ledger and budget, through the app."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Metadata, RecordDict

from client.app import client_app
from client.gate.secure_site import SITES
from client.site.budget import budget_report
from client.site.config import SiteConfig
from client.site.policy import Policy, default_policy_text
from privacy.dp.accountant import epsilon
from privacy.dp.terms import PrivacyTerms
from privacy.flower.internals.envelopes import make_message
from privacy.secagg.exact_sums import MaskTerms
from privacy.wire.messages import EvaluateTask, Reply, Request, TrainTask, parse_reply, request
from server.config.run import RunConfig
from server.rounds.result import QuorumError
from shared_model.network.spec import ModelSpec
from tests.builders.hospital_homes import CONFIG, Homes, Pulls

SPEC = ModelSpec(prior="none", adapter="lora").to_json()
LOCAL = PrivacyTerms(
    mode="local", z=4.0, q=1.0, steps=8, clip=1.0, delta=1e-5, cohort=6, sites=2, survivors=2, colluders=1
)  # fmt: skip
EXACT = MaskTerms(sites=3, survivors=3, colluders=1, cohort=9, weighting="patients", bound=10.0)
SITE = SiteConfig(site="a", data="cases", root=Path("/nowhere"), train=("p1", "p2", "p3"), validation=("v1",))


class Training:
    """Counts what it is asked for."""

    def __init__(self) -> None:
        self.rounds = 0

    def model(self, spec_json: str) -> tuple[str, int]:
        return "a" * 64, 8

    def private_round(self, site, spec_json, vector, task, terms):  # type: ignore[no-untyped-def]
        self.rounds += 1
        return np.full(8, 0.5, np.float32)

    def evaluate_round(self, *_: object) -> dict[str, float]:
        self.rounds += 1
        return {"loss": 1.0}


def asked(mode: str = "local") -> RecordDict:
    noise = "" if mode == "masked" else replace(LOCAL, mode=mode).to_json()
    exact = EXACT.to_json() if mode in ("local", "masked") else ""
    task = TrainTask(round=1, rounds=4, local_steps=1, batch_size=2, lr=0.1, seed=0, privacy=noise, masks=exact)
    message = Request(
        kind="train", run_id="ab" * 16, spec_json=SPEC, manifest_hash="a" * 64, task=task,
        vector=np.zeros(8, np.float32),
    )  # fmt: skip
    return request(message)


def answer(home: Path, content: RecordDict, training: Training, kind: str = "train") -> Reply:
    node = {"site-config": str(home / "site.yaml"), "home": str(home)}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    message = make_message(metadata=Metadata(1, "m", 1, 7, "", "1", 0.0, 60.0, kind), content=content)
    return parse_reply(client_app(training)(message, context).content)  # type: ignore[arg-type]


def local_run(*, rounds: int, steps: int) -> RunConfig:
    """A run in mode local over the three hospitals of ``Homes``."""
    return replace(
        CONFIG,
        rounds=replace(CONFIG.rounds, count=rounds),
        train=replace(CONFIG.train, local_steps=steps),
        privacy=replace(CONFIG.privacy, mode="local"),
    )


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    """Three hospitals without a plan that take part in mode local."""
    made = Homes(tmp_path / "homes")
    for name in made.homes:
        made.change_policy(name, "modes: [shared]", "modes: [local]")
    yield made
    SITES.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site's folder without a plan, whose policy allows every mode."""
    record = {"schema": 3, "site": "a", "consortium": "0" * 32, "name": "c", "server": "127.0.0.1:1"}
    (tmp_path / "client.json").write_text(json.dumps(record))
    replace(SITE, root=tmp_path).save(tmp_path / "site.yaml")
    policy = default_policy_text().replace("require_plan: true", "require_plan: false")
    (tmp_path / "policy.yaml").write_text(policy.replace("modes: [shared]", "modes: [shared, local, site]"))
    Policy.load(tmp_path / "policy.yaml").ledger_in(tmp_path).create()
    return tmp_path


def refusal(reply: Reply) -> str:
    assert reply.refusal is not None
    return f"{reply.refusal.code}: {reply.refusal.text}"


def test_a_local_round_is_charged_once_for_each_step_and_tells_nothing_else(homes: Homes, tmp_path: Path) -> None:
    result = homes.run(tmp_path / "out", client_app(Pulls()), local_run(rounds=1, steps=2))
    [record] = result.history
    assert record.metrics == {}
    assert record.per_site == {"a": {}, "b": {}, "c": {}}
    assert record.norms == {}
    assert result.vector.any()
    report = budget_report(homes.homes["a"])
    assert report.spent.entries == 1
    assert report.spent.epsilon == epsilon({(4.0, 1.0): 2}, 1e-5)
    [(_, mode, releases)] = report.runs
    assert (mode, releases) == ("local", 2)


def test_the_budget_ends_the_run_before_the_work(homes: Homes, tmp_path: Path) -> None:
    limit = epsilon({(4.0, 1.0): 4}, 1e-5) + 1e-6
    homes.change_policy("b", "max_epsilon: null", f"max_epsilon: {limit}")
    worked: list[tuple[str, int]] = []

    class Counting(Pulls):
        def private_round(self, site, spec_json, vector, task, terms):  # type: ignore[no-untyped-def]
            worked.append((site.site, task.round))
            return super().private_round(site, spec_json, vector, task, terms)

    with pytest.raises(QuorumError, match=r"b: refused .policy: max_epsilon: this site's privacy budget is spent"):
        homes.run(tmp_path / "out", client_app(Counting()), local_run(rounds=3, steps=2))
    assert [number for name, number in sorted(worked) if name == "b"] == [1, 2]
    assert [number for name, number in sorted(worked) if name == "a"] == [1, 2, 3]


def test_the_ledger_spans_homes_that_name_one_folder(homes: Homes, tmp_path: Path) -> None:
    home, elsewhere = homes.homes["b"], tmp_path / "common"
    homes.change_policy("b", "ledger: null", f"ledger: {elsewhere}")
    with pytest.raises(QuorumError, match=r"b: refused .*keeps no privacy ledger"):
        homes.run(tmp_path / "out", client_app(Pulls()), local_run(rounds=1, steps=2))
    assert not elsewhere.exists()
    Policy.load(home.policy).ledger_in(home.folder).create()
    homes.run(tmp_path / "out2", client_app(Pulls()), local_run(rounds=1, steps=2))
    assert (elsewhere / "ledger.jsonl").is_file()
    assert not (home.folder / "ledger" / "ledger.jsonl").exists()


def test_an_edited_ledger_stops_the_site(homes: Homes, tmp_path: Path) -> None:
    homes.run(tmp_path / "out", client_app(Pulls()), local_run(rounds=1, steps=2))
    path = homes.homes["c"].folder / "ledger" / "ledger.jsonl"
    path.write_text(path.read_text().replace('"count":2', '"count":1'))
    with pytest.raises(QuorumError, match=r"c: refused .data"):
        homes.run(tmp_path / "out2", client_app(Pulls()), local_run(rounds=1, steps=2))


def test_a_mode_that_the_policy_does_not_name_is_refused(home: Path) -> None:
    path = home / "policy.yaml"
    path.write_text(path.read_text().replace("[shared, local, site]", "[shared]"))
    assert "does not take part in mode local" in refusal(answer(home, asked(), Training()))
    plain = TrainTask(round=1, rounds=4, local_steps=2, batch_size=2, lr=0.1, seed=0)
    message = Request(
        kind="train", run_id="ab" * 16, spec_json=SPEC, manifest_hash="a" * 64, task=plain,
        vector=np.zeros(8, np.float32),
    )  # fmt: skip
    assert "does not take part in mode none" in refusal(answer(home, request(message), Training()))


def test_a_site_of_private_modes_alone_sends_no_scores(home: Path) -> None:
    """They have no noise and are not charged: without a plan to refuse them, the list of modes does."""
    message = Request(
        kind="evaluate", run_id="ab" * 16, spec_json=SPEC, manifest_hash="a" * 64,
        task=EvaluateTask(round=1, sampler_steps=1), vector=np.zeros(8, np.float32),
    )  # fmt: skip
    content, training = request(message), Training()
    told = refusal(answer(home, content, training, "evaluate"))
    assert "modes: evaluate in mode none sends exact numbers" in told
    assert training.rounds == 0
    path = home / "policy.yaml"
    path.write_text(path.read_text().replace("[shared, local, site]", "[shared, none]"))
    assert answer(home, content, training, "evaluate").refusal is None
    assert training.rounds == 1


@pytest.mark.parametrize("mode", ["shared", "local", "site", "masked"])
def test_a_release_never_leaves_a_real_site_without_masks(home: Path, mode: str) -> None:
    training = Training()
    path = home / "policy.yaml"
    path.write_text(path.read_text().replace("[shared, local, site]", "[shared, local, site, masked]"))
    assert "only under masks" in refusal(answer(home, asked(mode), training))
    assert training.rounds == 0
    assert not (home / "ledger" / "ledger.jsonl").exists()
