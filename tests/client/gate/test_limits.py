"""The site's own limits win over any message, and are held before anything of the site's data is read."""

import json
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import yaml
from flwr.app import Context, Message, Metadata, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.app import client_app
from client.gate.limits import Limits
from client.site.config import SiteConfig
from client.site.hours import Window
from client.site.policy import Policy, default_policy_text
from privacy.agreement.federation_plan import FederationPlan
from privacy.flower.internals.envelopes import make_message
from privacy.wire.messages import EvaluateTask, Request, TrainTask, parse_reply, request
from shared_model.core.errors import InputError, PolicyError
from shared_model.network.spec import ADAPTERS, ModelSpec

NOON = datetime(2026, 11, 23, 12, 0)  # a Monday
RUN_ID = "ab" * 16
SPEC = ModelSpec(prior="none", adapter="lora").to_json()


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    path = tmp_path_factory.mktemp("policy") / "policy.yaml"
    path.write_text(default_policy_text())
    default = Policy.load(path)
    assert default.modes == ("shared",), "a mode without privacy takes a word of the site's own"
    return replace(default, require_plan=False, modes=("none",))


SITE = SiteConfig(site="a", data="cases", root=Path("/nowhere"), train=("p1", "p2", "p3"), validation=("v1", "v2"))
PLAN = FederationPlan(
    consortium="0" * 32,
    name="run",
    roster_version=1,
    sites={},
    mode="none",
    privacy={},
    masks={},
    model=SPEC,
    manifest="a" * 64,
    prior="none",
    parameters=8,
    normalisation="b" * 64,
    least_sites=2,
    rounds=10,
    local_steps=50,
    batch_size=4,
    sampler_steps=20,
    candidates=1,
    metrics=("loss",),
    software={},
    stopping="after the last round",
    certificates={},
    version=1,
    expires="2999-01-01T00:00:00+00:00",
    answers=100,
)
TRAIN = TrainTask(round=1, rounds=4, local_steps=10, batch_size=2, lr=0.1, seed=0)


def asked(kind: str = "train", spec: str = SPEC, size: int = 8, **task: int) -> Request:
    tasks = {"train": replace(TRAIN, **task)} if kind == "train" else {}
    tasks |= {"evaluate": EvaluateTask(round=1, **task)} if kind == "evaluate" else {}
    vector = np.zeros(size, np.float32) if kind in tasks else None
    return Request(
        kind=kind, run_id=RUN_ID, spec_json=spec, manifest_hash="a" * 64, task=tasks.get(kind), vector=vector
    )


def test_the_default_is_strict_where_it_must_be_and_lets_the_defaults_of_a_run_pass(policy: Policy) -> None:
    for kind in ("describe", "train", "evaluate"):
        Limits(policy=policy).check_request(SITE, asked(kind), NOON)
        Limits(policy=replace(policy, require_plan=True), plan=PLAN).check_request(SITE, asked(kind), NOON)
        with pytest.raises(PolicyError, match="require_plan"):
            Limits(policy=replace(policy, require_plan=True)).check_request(SITE, asked(kind), NOON)


@pytest.mark.parametrize(
    ("change", "request_", "key"),
    [
        ({"tasks": ("train",)}, asked("evaluate"), "tasks"),
        ({"adapters": ("full",)}, asked("describe"), "adapters"),
        ({"max_adapter_mb": 0.00001}, asked(), "max_adapter_mb"),
        ({"least_patients": 4}, asked(), "least_patients"),
        ({"least_patients": 3}, asked("evaluate"), "least_patients"),
        ({"max_rounds": 3}, asked(), "max_rounds"),
        ({"max_local_steps": 9}, asked(), "max_local_steps"),
        ({"max_batch_size": 1}, asked(), "max_batch_size"),
        ({"max_sampler_steps": 19}, asked("evaluate"), "max_sampler_steps"),
        ({"max_local_steps": 9}, asked("evaluate", tune_steps=10), "max_local_steps"),
        ({"max_batch_size": 2}, asked("evaluate", tune_steps=1, tune_batch=3), "max_batch_size"),
        ({"max_candidates": 1}, asked("evaluate", candidates=2), "max_candidates"),
        ({"hours": (Window.parse("19:00-06:00"),)}, asked("describe"), "hours"),
    ],
)
def test_each_limit_refuses_alone_and_names_itself(
    policy: Policy, change: dict[str, object], request_: Request, key: str
) -> None:
    Limits(policy=policy).check_request(SITE, request_, NOON)
    with pytest.raises(PolicyError, match=f"^{key}: "):
        Limits(policy=replace(policy, **change)).check_request(SITE, request_, NOON)  # type: ignore[arg-type]


def test_several_plans_of_a_patient_count_once(policy: Policy) -> None:
    limits = Limits(policy=replace(policy, least_patients=2))
    grouped = replace(SITE, plans=(("p1", "p3"),))
    for kind in ("describe", "train"):
        limits.check_request(grouped, asked(kind), NOON)
        with pytest.raises(PolicyError, match=r"^least_patients: "):
            limits.check_request(replace(SITE, plans=(("p1", "p2", "p3"),)), asked(kind), NOON)


@pytest.mark.parametrize(
    ("plan", "policy_", "request_", "key"),
    [
        ({"mode": "none"}, {"modes": ()}, asked(), "modes"),
        ({"least_sites": 1}, {}, asked(), "least_sites"),
        ({"local_steps": 9}, {}, asked(), "plan"),
        ({"parameters": 7}, {}, asked(), "plan"),
        ({}, {}, asked("evaluate", tune_steps=51), "plan"),
        ({}, {}, asked(spec=ModelSpec(prior="none", adapter="full").to_json()), "plan"),
        ({}, {"max_local_steps": 9}, asked(), "max_local_steps"),
    ],
)
def test_a_pinned_plan_is_held_and_the_policy_beside_it(
    policy: Policy, plan: dict[str, object], policy_: dict[str, object], request_: Request, key: str
) -> None:
    Limits(policy=policy, plan=PLAN).check_request(SITE, asked(), NOON)
    limits = Limits(policy=replace(policy, **policy_), plan=replace(PLAN, **plan))  # type: ignore[arg-type]
    with pytest.raises(PolicyError, match=f"^{key}: "):
        limits.check_request(SITE, request_, NOON)


POLICIES = st.fixed_dictionaries(
    {
        "tasks": st.lists(st.sampled_from(["describe", "train", "evaluate"]), unique=True).map(tuple),
        "adapters": st.lists(st.sampled_from(ADAPTERS), unique=True).map(tuple),
        "least_patients": st.integers(1, 5),
        "max_rounds": st.integers(1, 100),
        "max_local_steps": st.integers(1, 100),
        "max_batch_size": st.integers(1, 100),
        "max_sampler_steps": st.integers(1, 100),
        "max_candidates": st.integers(1, 64),
    }
)
TASKS = st.one_of(
    st.builds(
        lambda rounds, steps, batch: asked(rounds=rounds, local_steps=steps, batch_size=batch),
        *(st.one_of(st.integers(1, 120), st.integers(1, 4096)) for _ in range(3)),
    ),
    st.builds(
        lambda steps, candidates: asked("evaluate", sampler_steps=steps, candidates=candidates),
        st.integers(1, 1000),
        st.integers(1, 64),
    ),
    st.just(asked("describe")),
)


@settings(max_examples=300)
@given(POLICIES, TASKS)
def test_nothing_passes_that_goes_beyond_the_policy(changes: dict[str, object], request_: Request) -> None:
    """The oracle says it once more, plainly."""
    held = replace(STRICT, **changes)  # type: ignore[arg-type]
    task = request_.task
    inside = request_.kind in held.tasks and "lora" in held.adapters
    inside = inside and (2 if request_.kind == "evaluate" else 3) >= held.least_patients
    if isinstance(task, TrainTask):
        inside = inside and task.rounds <= held.max_rounds and task.local_steps <= held.max_local_steps
        inside = inside and task.batch_size <= held.max_batch_size
    if isinstance(task, EvaluateTask):
        inside = inside and task.sampler_steps <= held.max_sampler_steps and task.candidates <= held.max_candidates
    if inside:
        Limits(policy=held).check_request(SITE, request_, NOON)
        return
    with pytest.raises(PolicyError, match=r"^[ -~]{1,200}$"):
        Limits(policy=held).check_request(SITE, request_, NOON)


STRICT = Policy(
    require_plan=False,
    modes=("none",),
    known_peers=False,
    least_sites=1,
    least_patients=1,
    max_epsilon=None,
    max_epsilon_alone=None,
    delta=1e-5,
    ledger=None,
    tasks=(),
    adapters=(),
    max_adapter_mb=1.0,
    metrics=("loss", "seconds"),
    max_rounds=1,
    max_local_steps=1,
    max_batch_size=1,
    max_sampler_steps=1,
    max_candidates=1,
    max_task_hours=24.0,
    hours=(),
)


def test_only_metrics_that_both_name_leave() -> None:
    measured = {"loss": 1.0, "seconds": 2.0, "dose_score_gy": 3.0}
    assert Limits(policy=STRICT).filter_metrics(measured) == {"loss": 1.0, "seconds": 2.0}
    assert Limits(policy=STRICT, plan=PLAN).filter_metrics(measured) == {"loss": 1.0}


class Watched:
    """A training that must not be reached, or answers with metrics."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def model(self, spec_json: str) -> tuple[str, int]:
        self.calls.append("model")
        return "a" * 64, 8

    def train_round(self, *_: object) -> tuple[np.ndarray, dict[str, float]]:
        self.calls.append("train")
        return np.zeros(8, np.float32), {"loss": 1.0, "secret": 2.0}

    def evaluate_round(self, *_: object) -> dict[str, float]:
        self.calls.append("evaluate")
        return {"secret": 2.0}


def through_the_app(home: Path, content: RecordDict, training: Watched, kind: str = "train"):
    node = {"site-config": str(home / "site.yaml"), "home": str(home)}
    context = Context(run_id=1, node_id=7, node_config=node, state=RecordDict(), run_config={})
    message: Message = make_message(metadata=Metadata(1, "m", 1, 7, "", "1", 0.0, 60.0, kind), content=content)
    return parse_reply(client_app(training)(message, context).content)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A site's folder as far as the app looks at it, without a plan."""
    record = {"schema": 3, "site": "a", "consortium": "0" * 32, "name": "c", "server": "127.0.0.1:1"}
    (tmp_path / "client.json").write_text(json.dumps(record))
    replace(SITE, root=tmp_path).save(tmp_path / "site.yaml")
    policy = default_policy_text().replace("require_plan: true", "require_plan: false")
    (tmp_path / "policy.yaml").write_text(policy.replace("modes: [shared]", "modes: [none]"))
    return tmp_path


def test_the_app_refuses_before_it_touches_model_or_data_and_filters_metrics(home: Path) -> None:
    training = Watched()
    allowed = through_the_app(home, request(asked()), training)
    assert (allowed.refusal, allowed.metrics) == (None, {"loss": 1.0})
    assert training.calls == ["model", "train"]
    refused = Watched()
    answer = through_the_app(home, request(asked(local_steps=1001)), refused)
    assert answer.refusal is not None
    assert (answer.refusal.code, answer.refusal.text) == (
        "policy",
        "max_local_steps: at most 1000 at this site; asked for 1001",
    )
    assert refused.calls == []


def test_a_policy_that_changes_counts_at_once_and_a_broken_one_stops_everything(home: Path) -> None:
    path = home / "policy.yaml"
    path.write_text(path.read_text().replace("tasks: [describe, train, evaluate, statistics]", "tasks: [describe]"))
    refused = through_the_app(home, request(asked()), Watched()).refusal
    assert refused is not None
    assert refused.code == "policy"
    path.write_text("schema: 1\n")
    refused = through_the_app(home, request(asked()), Watched()).refusal
    assert refused is not None
    assert (refused.code, refused.text) == ("site_config", "")


def test_every_key_of_the_default_must_be_there_and_known(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    for field in fields(Policy):
        kept = [line for line in default_policy_text().splitlines() if not line.startswith(f"{field.name}:")]
        path.write_text("\n".join(kept))
        with pytest.raises(InputError, match=f"policy.yaml:[0-9]+: {field.name} is missing"):
            Policy.load(path)
    path.write_text(default_policy_text() + "\nleast_patient: 3\n")
    with pytest.raises(InputError, match=r"policy.yaml:[0-9]+: least_patient: unknown key"):
        Policy.load(path)


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 10**7), st.floats(), st.text(max_size=9), st.lists(st.integers())
)


@settings(max_examples=300)
@given(st.sampled_from([field.name for field in fields(Policy)]), JUNK)
def test_a_value_is_read_as_it_stands_or_refused_with_its_key(key: str, value: object) -> None:
    text = yaml.safe_dump({**yaml.safe_load(default_policy_text()), key: value})
    try:
        read = getattr(Policy.parse(text, "policy.yaml"), key)
    except InputError as error:
        assert key in str(error)  # noqa: PT017
    else:
        read = str(read) if isinstance(read, Path) else read
        assert list(read) == value if isinstance(read, tuple) else read == value


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("08:00-16:00", ["23 08:00", "29 15:59"], ["23 07:59", "23 16:00"]),
        ("19:00-06:00", ["23 19:00", "24 05:59"], ["23 18:59", "23 06:00"]),
        ("mon-fri 19:00-06:00", ["27 23:00", "28 05:00"], ["28 19:00", "30 05:00"]),
        ("sat-sun 00:00-24:00", ["28 00:00", "29 23:59"], ["27 23:59", "30 00:00"]),
        ("sun-mon 12:00-13:00", ["29 12:30", "30 12:30"], ["28 12:30", "24 12:30"]),
        ("wed 22:00-24:00", ["25 23:59"], ["26 00:00", "24 23:00"]),
    ],
)
def test_hours(window: str, inside: list[str], outside: list[str]) -> None:
    """November 2026: the 23rd is a Monday."""
    held = Window.parse(window)
    assert all(held.holds(datetime.strptime(f"2026-11-{text}", "%Y-%m-%d %H:%M")) for text in inside)
    assert not any(held.holds(datetime.strptime(f"2026-11-{text}", "%Y-%m-%d %H:%M")) for text in outside)


@pytest.mark.parametrize(
    "text", ["", "8-16", "08:00-08:00", "25:00-26:00", "24:00-06:00", "00:00-24:01", "10:60-11:00", "mo 08:00-09:00", 5]
)
def test_hours_that_are_none(text: object) -> None:
    with pytest.raises(InputError):
        Window.parse(text)
