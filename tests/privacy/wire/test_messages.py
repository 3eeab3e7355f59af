"""The wire schema: round trips, and every field mutated, missing or added is refused by both ends without a crash."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from privacy.wire.messages import (
    REFUSALS,
    EvaluateTask,
    Refusal,
    Reply,
    Request,
    TrainTask,
    parse_reply,
    parse_request,
    reply,
    request,
    wire_bytes,
)
from privacy.wire.secure_work import work_hash
from privacy.wire.vectors import MAX_PARAMETERS, pack_ring
from shared_model.core.fields import MessageError

VECTOR = np.array([0.5, -1.5, 3.0], np.float32)
RUN_ID = "0123456789abcdef" * 2
TRAIN = TrainTask(round=2, rounds=5, local_steps=10, batch_size=2, lr=1e-3, seed=7)
REQUESTS = [
    Request(kind="describe", run_id=RUN_ID, spec_json='{"a":1}', manifest_hash="a" * 64),
    Request(kind="train", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, task=TRAIN, vector=VECTOR),
    Request(
        kind="evaluate",
        run_id=RUN_ID,
        spec_json="{}",
        manifest_hash="a" * 64,
        task=EvaluateTask(round=0, sampler_steps=3),
        vector=VECTOR,
    ),
]
REPLIES = [
    Reply(kind="describe", site="clinic-a", round=0, run_id=RUN_ID, patients=12),
    Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3, vector=VECTOR, metrics={"loss": 1.0}),
    Reply(kind="evaluate", site="C_1", round=2, run_id=RUN_ID, patients=3, metrics={"dose_score_gy": 2.5}),
    Reply(kind="train", site="b", round=2, run_id=RUN_ID, refusal=Refusal(code="data")),
    Reply(kind="train", site="b", round=2, run_id=RUN_ID, refusal=Refusal(code="policy", text="too few patients")),
    Reply(kind="describe", site="", round=0, refusal=Refusal(code="site_config")),
]
# None of these fits any field: wrong types, and values outside every range.
JUNK = [
    b"bytes",
    [1],
    ["a"],
    [],
    "Jane Doe, born 1950",
    -1,
    2**62 * 2 - 1 + 2**62,
    -0.5,
    float("nan"),
    float("inf"),
    True,
]


def same(left: object, right: object) -> bool:
    for key, value in vars(left).items():
        other = getattr(right, key)
        if key == "vector" and value is not None:
            assert other.tobytes() == value.tobytes()
            assert not other.flags.writeable
        else:
            assert other == value, key
    return True


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: m.kind)
def test_requests_round_trip(message):
    assert same(message, parse_request(request(message)))


@pytest.mark.parametrize("message", REPLIES, ids=lambda m: m.kind)
def test_replies_round_trip(message):
    assert same(message, parse_reply(reply(message)))


def cases():
    for packed, parse in [
        *((m, parse_request) for m in map(request, REQUESTS)),
        *((m, parse_reply) for m in map(reply, REPLIES)),
    ]:
        for record_key, record in packed.items():
            for key in record:
                yield packed, parse, record_key, key


def copied(packed: RecordDict) -> RecordDict:
    return RecordDict({key: type(record)(dict(record)) for key, record in packed.items()})


@pytest.mark.parametrize("junk", JUNK, ids=lambda v: repr(v)[:12])
def test_every_field_replaced_by_junk_is_refused_with_a_text_that_quotes_nothing(junk):
    for packed, parse, record_key, key in cases():
        broken = copied(packed)
        record = broken[record_key]
        if isinstance(record, ArrayRecord) or (isinstance(record, MetricRecord) and not isinstance(junk, int | float)):
            continue
        if isinstance(record, MetricRecord) and (junk is True or junk == -0.5):
            continue  # a metric may be any finite float; Flower itself refuses a bool
        if key == "text" and isinstance(junk, str):
            continue  # a policy's own words are free; those of other refusals are tested below
        record[key] = junk
        with pytest.raises(MessageError) as caught:
            parse(broken)
        assert "Jane" not in str(caught.value)
        assert caught.value.code in REFUSALS


def test_every_field_that_is_missing_is_refused():
    for packed, parse, record_key, key in cases():
        if isinstance(packed[record_key], MetricRecord):
            continue  # metrics are free to be absent
        broken = copied(packed)
        del broken[record_key][key]
        with pytest.raises(MessageError):
            parse(broken)


def test_unknown_fields_records_and_missing_records_are_refused_without_naming_them():
    for packed, parse, record_key, _ in cases():
        for spoil in (
            lambda m, k=record_key: m.__delitem__(k),
            lambda m: m.__setitem__("Jane Doe", ConfigRecord({"x": 1})),
            lambda m, k=record_key: m.__setitem__(k, MetricRecord({"x": 1.0}) if k != "metrics" else ConfigRecord()),
            lambda m: m["head"].__setitem__("Jane Doe", 1),
        ):
            broken = copied(packed)
            spoil(broken)
            with pytest.raises(MessageError) as caught:
                parse(broken)
            assert "Jane" not in str(caught.value)


ARRAYS = [
    Array("float64", (3,), "fedkt3d.f32le", bytes(12)),
    Array("float32", (3,), "numpy.ndarray", bytes(12)),
    Array("float32", (3,), "fedkt3d.f32le", bytes(11)),
    Array("float32", (4,), "fedkt3d.f32le", bytes(12)),
    Array("float32", (3, 1), "fedkt3d.f32le", bytes(12)),
    Array("float32", (0,), "fedkt3d.f32le", b""),
    Array("float32", (), "fedkt3d.f32le", bytes(4)),
    Array("float32", (-3,), "fedkt3d.f32le", bytes(12)),
    Array("float32", (MAX_PARAMETERS + 1,), "fedkt3d.f32le", bytes(12)),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
def test_any_other_array_is_refused(array):
    for packed, parse in ((request(REQUESTS[1]), parse_request), (reply(REPLIES[1]), parse_reply)):
        packed["vector"] = ArrayRecord({"v": array})
        with pytest.raises(MessageError, match="vector"):
            parse(packed)
        packed["vector"] = ArrayRecord({"v": Array("float32", (1,), "fedkt3d.f32le", bytes(4)), "w": array})
        with pytest.raises(MessageError, match="vector"):
            parse(packed)


VALUES = st.one_of(
    st.text(max_size=30),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.booleans(),
    st.binary(max_size=8),
    st.lists(st.integers(0, 9), max_size=3),
)


@given(
    st.dictionaries(st.sampled_from(["schema", "kind", "run-id", "site", "patients", "round", "refusal", "x"]), VALUES)
)
def test_arbitrary_heads_never_crash_either_parser(head):
    content = RecordDict({"head": ConfigRecord(head), "metrics": MetricRecord()})
    for parse in (parse_request, parse_reply):
        with pytest.raises(MessageError):
            parse(content)


@given(st.data())
def test_a_task_that_was_changed_is_read_as_valid_or_refused(data):
    packed = request(REQUESTS[1])
    task = packed["task"]
    key = data.draw(st.sampled_from(sorted(task)))
    task[key] = data.draw(VALUES)
    try:
        read = parse_request(packed).task
    except MessageError as error:
        assert error.code == "bad_task"  # noqa: PT017
    else:
        assert getattr(read, key) == task[key]


@pytest.mark.parametrize(
    "change",
    [{"round": 6}, {"lr": 0.0}, {"lr": float("nan")}, {"lr": 11.0}, {"local_steps": 0}, {"stage": "rl"}, {"seed": -1}],
    ids=str,
)
def test_a_bad_task_cannot_even_be_made(change):
    with pytest.raises(MessageError):
        TrainTask(**{**vars(TRAIN), **change})


@pytest.mark.parametrize("bad", [np.array([np.nan], np.float32), np.array([np.inf], np.float32)])
def test_values_that_are_not_finite_do_not_leave_a_site_nor_enter_one(bad):
    sent = Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3, vector=bad)
    with pytest.raises(MessageError) as caught:
        reply(sent)
    assert caught.value.code == "not_finite"
    asked = Request(kind="train", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, task=TRAIN, vector=bad)
    with pytest.raises(MessageError, match="not finite"):
        parse_request(request(asked))


def test_only_a_policy_refuses_in_words_of_its_own():
    with pytest.raises(MessageError, match="only a policy"):
        reply(Reply(kind="train", site="b", round=2, refusal=Refusal(code="data", text="Jane Doe")))
    for text in ("line\nbreak", "ümlaut", "x" * 201):
        with pytest.raises(MessageError):
            reply(Reply(kind="train", site="b", round=2, refusal=Refusal(code="policy", text=text)))


def test_a_train_message_must_carry_its_vector_and_no_other_may():
    with pytest.raises(MessageError):
        reply(Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3))
    with pytest.raises(MessageError):
        reply(Reply(kind="evaluate", site="b", round=2, run_id=RUN_ID, patients=3, vector=VECTOR))
    with pytest.raises(MessageError):
        request(Request(kind="train", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64))
    with pytest.raises(MessageError):
        request(Request(kind="describe", run_id=RUN_ID, spec_json="{}", manifest_hash="a" * 64, vector=VECTOR))


def test_wire_bytes_count_the_vector():
    small, large = (
        wire_bytes(
            reply(Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3, vector=np.zeros(n, np.float32)))
        )
        for n in (10, 1010)
    )
    assert large - small == 4000
    assert small < 200


def test_a_train_reply_without_masks_carries_a_vector_and_never_a_ring() -> None:
    ring = np.zeros(3, dtype=np.uint16)
    for arrays in ({}, {"ring": ring}, {"vector": VECTOR, "ring": ring}):
        with pytest.raises(MessageError, match="train reply has a vector"):
            reply(Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3, **arrays))
    content = reply(Reply(kind="train", site="b", round=2, run_id=RUN_ID, patients=3, vector=VECTOR))
    del content["vector"]
    content["ring"] = pack_ring(ring)
    with pytest.raises(MessageError, match="exactly the records"):
        parse_reply(content)


def test_a_later_field_travels_only_where_it_asks_for_something() -> None:
    """A site of an older version answers whatever it understands, and refuses the rest."""
    plain = REQUESTS[1]
    assert isinstance(plain.task, TrainTask)
    pulled = replace(plain, task=replace(plain.task, proximal=0.5))
    assert "proximal" not in request(plain)["task"]
    assert request(pulled)["task"]["proximal"] == 0.5
    for message in (plain, pulled):
        assert parse_request(request(message)).task == message.task
    assert work_hash(plain) != work_hash(pulled)
