"""The site's app: answers, refuses by code, and lets nothing private out, whatever fails."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ConfigRecord, Context, Message, Metadata, RecordDict
from flwr.common.serde import message_to_proto

from client.app import SITE_LOG, client_app
from client.site.config import SiteConfig
from privacy.flower.internals.envelopes import make_message
from privacy.wire.messages import EvaluateTask, Request, TrainTask, parse_reply, request
from shared_model.core.errors import InputError, PolicyError
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, write_sites
from tests.builders.secagg_rounds import Federation

RUN_ID = "ab" * 16
NAME = "DOE^JANE"
TASK = TrainTask(round=3, rounds=5, local_steps=2, batch_size=1, lr=0.1, seed=0)


def asked(kind: str = "train", **changes) -> RecordDict:
    tasks = {"describe": None, "train": TASK, "evaluate": EvaluateTask(round=3)}
    values = {
        "kind": kind,
        "run_id": RUN_ID,
        "spec_json": SPEC_JSON,
        "manifest_hash": MANIFEST_HASH,
        "task": tasks[kind],
        "vector": None if kind == "describe" else np.zeros(8, np.float32),
    }
    return request(Request(**{**values, **changes}))


def message(content: RecordDict, message_type: str) -> Message:
    metadata = Metadata(1, "m", 1, 7, "", "3", 0.0, 60.0, message_type)
    return make_message(metadata=metadata, content=content)


def answer(training, node_config, content: RecordDict, message_type: str = "train"):
    context = Context(run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={})
    sent = client_app(training)(message(content, message_type), context)
    wire = message_to_proto(sent).SerializeToString()
    assert NAME.encode() not in wire
    assert str(node_config.get("site-config", "no path")).encode() not in wire
    return parse_reply(sent.content)


@pytest.fixture
def node(tmp_path):
    return write_sites(tmp_path, {"clinic": 4})[0]


def test_describe_train_and_evaluate(node):
    described = answer(QuadraticTraining(8), node, asked("describe"), "query")
    assert (described.site, described.patients, described.vector, described.metrics) == ("clinic", 4, None, {})
    trained = answer(QuadraticTraining(8), node, asked("train"))
    assert (trained.round, trained.run_id, trained.patients, trained.vector.shape) == (3, RUN_ID, 4, (8,))
    scored = answer(QuadraticTraining(8), node, asked("evaluate"), "evaluate")
    assert (scored.patients, set(scored.metrics)) == (1, {"loss"})


def test_several_plans_of_a_patient_count_once(node):
    path = Path(node["site-config"])
    site = SiteConfig.load(path)
    replace(site, plans=(site.train[:3],)).save(path)
    assert answer(QuadraticTraining(8), node, asked("describe"), "query").patients == 2
    assert answer(QuadraticTraining(8), node, asked("train")).patients == 2


class Raising(QuadraticTraining):
    def __init__(self, error: BaseException) -> None:
        super().__init__(8)
        self.error = error

    def train_round(self, *_):
        raise self.error

    def evaluate_round(self, *_):
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError(f"cannot train on {NAME}"), "training_failed"),
        (InputError(f"/data/{NAME}/ct.npz: truncated"), "data"),
        (MemoryError(NAME), "training_failed"),
        (SystemExit(NAME), "training_failed"),
        (UnicodeDecodeError("utf-8", NAME.encode(), 0, 1, NAME), "training_failed"),
    ],
    ids=lambda v: type(v).__name__,
)
def test_an_exception_with_a_patients_name_becomes_a_code(node, capfd, error, code):
    # Not caplog: it listens to loggers that pass nothing on, too.
    with listening(logging.getLogger()) as public, listening(SITE_LOG) as private:
        refused = answer(Raising(error), node, asked("train")).refusal
    assert (refused.code, refused.text) == (code, "")
    assert NAME in private[0], "the site itself can read what happened"
    assert len(public) == 1
    assert "train of round 3 refused" in public[0]
    assert NAME not in public[0]
    out, err = capfd.readouterr()
    assert NAME not in out + err


@contextmanager
def listening(logger: logging.Logger) -> Iterator[list[str]]:
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logging.Formatter().format(record))

    handler = Keep()
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)


def test_evaluation_fails_with_its_own_code(node):
    assert answer(Raising(RuntimeError(NAME)), node, asked("evaluate"), "evaluate").refusal.code == "evaluation_failed"


def test_a_policy_refuses_in_its_own_words(node):
    refused = answer(Raising(PolicyError("least cohort is 20 patients\n(ümlaut)")), node, asked("train")).refusal
    assert (refused.code, refused.text) == ("policy", "least cohort is 20 patients?(?mlaut)")


class Returning(QuadraticTraining):
    def __init__(self, update, metrics) -> None:
        super().__init__(8)
        self.result = update, metrics

    def train_round(self, *_):
        return self.result


@pytest.mark.parametrize(
    ("update", "metrics", "code"),
    [
        (np.full(8, np.nan, np.float32), {}, "not_finite"),
        (np.zeros(9, np.float32), {}, "training_failed"),
        (np.zeros(8, np.float64), {}, "training_failed"),
        (np.zeros(8, np.float32), {"loss": float("nan")}, "not_finite"),
        (np.zeros(8, np.float32), {NAME: 1.0}, "schema"),
    ],
)
def test_a_bad_result_is_refused_at_the_site(node, update, metrics, code):
    assert answer(Returning(update, metrics), node, asked("train")).refusal.code == code


@pytest.mark.parametrize(
    ("content", "message_type", "code"),
    [
        (asked("train", manifest_hash="0" * 64), "train", "wrong_model"),
        (asked("train", spec_json='{"model":"other"}'), "train", "wrong_model"),
        (asked("train", vector=np.zeros(9, np.float32)), "train", "wrong_model"),
        (asked("describe", manifest_hash="0" * 64), "query", "wrong_model"),
        (asked("evaluate"), "train", "schema"),
        (RecordDict(), "train", "schema"),
        (RecordDict({"head": ConfigRecord({NAME: NAME})}), "train", "schema"),
    ],
)
def test_requests_that_do_not_fit_are_refused(node, content, message_type, code):
    refused = answer(QuadraticTraining(8), node, content, message_type)
    assert refused.refusal.code == code
    assert refused.site == "clinic"


def test_a_task_out_of_range_is_refused(node):
    content = asked("train")
    content["task"]["lr"] = 1e9
    assert answer(QuadraticTraining(8), node, content).refusal.code == "bad_task"


def test_a_site_without_usable_configuration_refuses_namelessly(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"site: [{NAME}")
    for config in (
        {},
        {"site-config": str(tmp_path / "absent.yaml")},
        {"site-config": str(broken)},
        {"site-config": 918273645},
    ):
        refused = answer(QuadraticTraining(8), config, asked("train"))
        assert (refused.refusal.code, refused.site) == ("site_config", "")


def test_a_site_without_patients_for_the_task_says_so(tmp_path):
    path = tmp_path / "s.yaml"
    SiteConfig(site="s", data="cases", root=tmp_path, train=("pt_1",), validation=()).save(path)
    node = {"site-config": str(path)}
    assert answer(QuadraticTraining(8), node, asked("evaluate"), "evaluate").refusal.code == "no_patients"


def test_a_changed_site_configuration_is_read_again(tmp_path):
    path = tmp_path / "s.yaml"
    for count in (2, 5):
        train = tuple(f"pt_{i}" for i in range(count))
        SiteConfig(site="s", data="cases", root=tmp_path, train=train, validation=("v",)).save(path)
        described = answer(QuadraticTraining(8), {"site-config": str(path)}, asked("describe"), "query")
        assert described.patients == count


def test_training_gets_a_vector_that_it_may_write(node):
    class Writing(QuadraticTraining):
        def train_round(self, site, spec_json, vector, task):
            vector += 1
            return vector, {}

    assert (answer(Writing(8), node, asked("train")).vector == 1).all()


def test_importing_the_app_imports_no_torch():
    code = "import sys, client.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0


def test_a_request_for_a_masked_answer_is_never_answered_in_clear(node):
    federation = Federation(size=3, length=8)
    federation.set_up()
    step = federation.server.open_step(3, b"m" * 32)
    masked = asked(secure=federation.server.inbox("site-000", step))
    told = answer(QuadraticTraining(8), node, masked)
    assert (told.refusal.code, told.vector, told.ring) == ("policy", None, None)
    assert "in mode none, this site's answers have no masks" in told.refusal.text
    keys = request(Request(**{"kind": "secure_keys", "run_id": RUN_ID, "spec_json": SPEC_JSON,
                              "manifest_hash": MANIFEST_HASH, "secure": federation.terms}))  # fmt: skip
    refusal = answer(QuadraticTraining(8), node, keys, "query").refusal
    assert (refusal.code, refusal.text) == (
        "secure",
        "this site has no identity to take part in secure aggregation with",
    )
