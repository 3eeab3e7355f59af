"""Messages that a grid of our own makes."""

from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.serverapp import Grid

from privacy.flower.internals.codes import SUPERLINK_NODE_ID
from privacy.flower.internals.envelopes import copy_with, empty_run, new_request, set_message_id


def request() -> Message:
    message = new_request(7, 1001, "train", RecordDict({"head": ConfigRecord({"a": [1, 2]})}), "round-1", 60.0)
    set_message_id(message, "abc")
    return message


def test_a_request_is_addressed_and_can_be_answered() -> None:
    message = request()
    metadata = message.metadata
    assert (metadata.message_id, metadata.run_id, metadata.group_id, metadata.ttl) == ("abc", 7, "round-1", 60.0)
    assert (metadata.src_node_id, metadata.dst_node_id) == (SUPERLINK_NODE_ID, 1001)
    reply = Message(RecordDict(), reply_to=message)
    assert (reply.metadata.reply_to_message_id, reply.metadata.dst_node_id) == ("abc", SUPERLINK_NODE_ID)
    assert new_request(7, 1001, "train", RecordDict(), "", None).metadata.ttl > 0


def test_a_copy_has_its_own_metadata() -> None:
    message = request()
    copy = copy_with(message, RecordDict())
    set_message_id(copy, "other")
    assert (message.metadata.message_id, copy.metadata.message_id) == ("abc", "other")
    assert not copy.content
    lost = copy_with(Message(Error(2, "why"), reply_to=message), None)
    assert (lost.error.code, lost.error.reason) == (2, "why")


def test_a_run_without_an_app_has_its_id() -> None:
    assert empty_run(5).run_id == 5


def test_config_records_pass_through_flowers_own_bytes() -> None:
    assert dict(ConfigRecord.inflate(ConfigRecord({"a": [1, 2]}).deflate())) == {"a": [1, 2]}


def test_a_grid_has_the_methods_that_ours_has() -> None:
    methods = {"set_run", "run", "create_message", "get_node_ids", "push_messages", "pull_messages"}
    assert Grid.__abstractmethods__ == {*methods, "send_and_receive"}
