"""Secure aggregation in the wire schema: round trips, and every record that is missing, added or changed is refused."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from privacy.secagg.messages import Survivors
from privacy.wire.messages import (
    MESSAGE_TYPES,
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
from privacy.wire.secure_records import ANSWERED, ASKED, SECURE_KINDS
from privacy.wire.vectors import pack_ring, pack_vector, unpack_ring
from shared_model.core.fields import MessageError
from tests.builders.secagg_rounds import MODEL, Federation, name

RUN_ID = "0123456789abcdef" * 2
TRAIN = TrainTask(round=1, rounds=5, local_steps=1, batch_size=1, lr=1e-3, seed=7)


def whole_step() -> tuple[list[Request], list[Reply]]:
    """Every request and answer of one set-up and one step with site 0."""
    federation = Federation(size=3, bits=16, length=5)
    site, server = federation.sites[0], federation.server
    adverts = federation.exchange_keys()
    deals = federation.exchange_shares(adverts)
    step = server.open_step(1, MODEL)
    vectors = federation.inputs(0)
    masked = {}
    for i, each in federation.sites.items():
        each.open_step(server.inbox(name(i), step), MODEL)
        masked[i] = each.mask(vectors[i])
        step.add_masked(name(i), masked[i][0], masked[i][1])
    confirmations = federation.confirm(step)
    asked = dict(zip(SECURE_KINDS, (federation.terms, adverts, step.survivors(), confirmations), strict=True))
    confirmation = ANSWERED["secure_confirm"](site=0, step=0, signature=confirmations.signatures[0])
    told = dict(
        zip(SECURE_KINDS, (server._adverts[0], deals[0], confirmation, site.reveal(confirmations)), strict=True)
    )
    head = {"run_id": RUN_ID, "spec_json": "{}", "manifest_hash": "a" * 64}
    requests = [Request(kind=kind, secure=message, **head) for kind, message in asked.items()]
    inbox = server.inbox(name(0), step)
    vector = np.ones(5, np.float32)
    requests.append(Request(kind="train", task=TRAIN, vector=vector, secure=inbox, **head))
    score = EvaluateTask(round=1, split="validation", sampler_steps=1, candidates=1, seed=0)
    requests.append(Request(kind="evaluate", task=score, vector=vector, secure=inbox, **head))
    back = {"site": "site-000", "round": 1, "run_id": RUN_ID}
    replies = [Reply(kind=kind, secure=message, **back) for kind, message in told.items()]
    replies += [Reply(kind=kind, secure=masked[0][0], ring=masked[0][1], **back) for kind in ("train", "evaluate")]
    return requests, replies


REQUESTS, REPLIES = whole_step()


@pytest.mark.parametrize("message", REQUESTS, ids=lambda m: m.kind)
def test_requests_round_trip(message):
    read = parse_request(request(message))
    assert read.secure == message.secure
    assert (read.kind, read.round, read.task) == (message.kind, 1, message.task)
    assert read.kind in MESSAGE_TYPES


@pytest.mark.parametrize("message", REPLIES, ids=lambda m: m.kind)
def test_replies_round_trip(message):
    read = parse_reply(reply(message))
    assert read.secure == message.secure
    assert (read.vector, read.patients, dict(read.metrics)) == (None, 0, {})
    if message.ring is None:
        assert read.ring is None
    else:
        assert read.ring is not None
        assert read.ring.tobytes() == message.ring.tobytes()
        assert read.ring.dtype == message.ring.dtype
        assert not read.ring.flags.writeable


def packed_messages():
    for message in REQUESTS:
        yield request(message), parse_request
    for message in REPLIES:
        yield reply(message), parse_reply


def test_a_changed_record_is_refused():
    for content, parse in packed_messages():
        whole = content["secure"]
        data = whole["message"]
        for bad in (
            ConfigRecord(),
            ConfigRecord({"message": "text"}),
            ConfigRecord({"message": data[:-1]}),
            ConfigRecord({"message": data + b"x"}),
            ConfigRecord({"message": bytes([data[0] + 1]) + data[1:]}),
            ConfigRecord({"message": data, "Jane Doe": 1}),
            MetricRecord({"message": 1.0}),
        ):
            content["secure"] = bad
            with pytest.raises(MessageError) as caught:
                parse(content)
            assert "Jane" not in str(caught.value)
        content["secure"] = whole
        parse(content)


def test_a_record_that_is_missing_or_has_no_place_is_refused():
    for content, parse in packed_messages():
        bare = RecordDict(dict(content))
        del bare["secure"]
        if parse is parse_request and "task" not in bare and "secure" not in str(content["head"]["kind"]):
            parse(bare)  # a base request without masks is one of the plain kind
        elif "task" not in bare:
            with pytest.raises(MessageError):
                parse(bare)
        content["Jane Doe"] = ConfigRecord({"x": 1})
        with pytest.raises(MessageError):
            parse(content)


def test_secure_aggregation_has_no_place_in_other_kinds():
    head = {"run_id": RUN_ID, "spec_json": "{}", "manifest_hash": "a" * 64}
    for kind in ("describe", "evaluate"):
        with pytest.raises(MessageError):
            request(Request(kind=kind, secure=REQUESTS[0].secure, **head))
        with pytest.raises(MessageError):
            reply(Reply(kind=kind, site="a", round=1, run_id=RUN_ID, secure=REPLIES[0].secure))
    for kind in SECURE_KINDS:
        with pytest.raises(MessageError):
            request(Request(kind=kind, **head))
        with pytest.raises(MessageError):
            reply(Reply(kind=kind, site="a", round=1, run_id=RUN_ID, patients=1))
        with pytest.raises(MessageError):
            request(Request(kind=kind, secure=REPLIES[-1].secure, **head))


def test_masked_answers_carry_neither_the_plain_array_nor_a_count():
    masked = REPLIES[-2]
    for change in (
        {"patients": 3},
        {"vector": np.ones(5, np.float32)},
        {"ring": None},
        {"secure": None},
    ):
        with pytest.raises(MessageError):
            reply(replace(masked, **change))
    content = reply(masked)
    content["vector"] = pack_vector(np.ones(5, np.float32))
    with pytest.raises(MessageError):
        parse_reply(content)
    content = reply(masked)
    content["head"]["patients"] = 3
    with pytest.raises(MessageError):
        parse_reply(content)


def test_the_rounds_of_task_and_protocol_must_agree():
    train = next(message for message in REQUESTS if message.kind == "train")
    with pytest.raises(MessageError, match="different rounds"):
        request(replace(train, task=replace(TRAIN, round=2)))


def test_only_what_the_protocol_knows_is_a_message_of_a_kind():
    assert set(ASKED) == set(ANSWERED) == {*SECURE_KINDS, "train", "evaluate", "statistics"}
    with pytest.raises(MessageError):
        request(replace(REQUESTS[0], secure=Survivors(setup=bytes(32), round=1, step=0, sites=(1,))))


def test_a_refusal_of_secure_aggregation_says_why():
    told = Reply(
        kind="secure_confirm", site="a", round=1, run_id=RUN_ID, refusal=Refusal(code="secure", text="too few")
    )
    assert parse_reply(reply(told)).refusal == told.refusal


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_a_ring_vector_costs_its_ring_on_the_wire(bits):
    vector = np.arange(1000, dtype=f"u{bits // 8}")
    record = pack_ring(vector)
    assert wire_bytes(RecordDict({"ring": record})) == 1000 * bits // 8
    assert (unpack_ring(record) == vector).all()


@pytest.mark.parametrize(
    "array",
    [
        Array("uint16", (3,), "fedkt3d.u32le", bytes(6)),
        Array("uint8", (3,), "fedkt3d.u8le", bytes(3)),
        Array("int16", (3,), "fedkt3d.u16le", bytes(6)),
        Array("uint16", (3,), "fedkt3d.u16le", bytes(5)),
        Array("uint16", (0,), "fedkt3d.u16le", b""),
        Array("uint16", (3, 1), "fedkt3d.u16le", bytes(6)),
        Array("uint16", (10**12,), "fedkt3d.u16le", bytes(6)),
        Array("Jane Doe", (3,), "fedkt3d.u16le", bytes(6)),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_any_other_ring_array_is_refused(array):
    with pytest.raises(MessageError, match="ring"):
        unpack_ring(ArrayRecord({"v": array}))


@pytest.mark.parametrize("vector", [np.zeros(0, np.uint16), np.zeros((2, 2), np.uint16), np.zeros(3, np.int64)])
def test_any_other_ring_vector_is_not_packed(vector):
    with pytest.raises(MessageError, match="ring"):
        pack_ring(vector)
