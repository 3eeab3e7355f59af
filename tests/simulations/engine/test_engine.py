"""LocalGrid: isolation as by a wire, several at once, bounded backlog, time to live, and the run helpers."""

import importlib.util
import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from client.app import client_app
from privacy.wire.vectors import pack_vector, unpack_vector
from server.rounds.loop import run_federation
from shared_model.core.errors import InputError
from simulations.engine.quadratic import MANIFEST_HASH, SPEC_JSON, QuadraticTraining, run_quadratic, write_sites
from simulations.engine.run import LocalGrid, NoAnswer, ProcessGrid, run_local, run_ray
from tests.builders.run_config import plain_run, rounds_config


def app_of(train) -> ClientApp:
    app = ClientApp()
    app.train()(train)
    return app


def content(**values) -> RecordDict:
    vector = pack_vector(np.arange(4, dtype=np.float32))
    return RecordDict({"head": ConfigRecord(values), "metrics": MetricRecord({"a": 1.0}), "vector": vector})


def send(grid: LocalGrid, packed: RecordDict, nodes=None, ttl: float = 30.0) -> list[str]:
    messages = [grid.create_message(packed, "train", node, "1", ttl) for node in nodes or grid.get_node_ids()]
    return list(grid.push_messages(messages))


def wait_for(condition, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def test_what_a_client_changes_stays_with_the_client():
    held = []

    def vandal(message: Message, context) -> Message:
        held.append(message)
        reply = Message(RecordDict(dict(message.content.items())), reply_to=message)
        message.content["head"]["x"] = 99
        message.content["vector"]["v"].data = bytes(16)
        held.append(reply)
        return reply

    packed = content(x=1)
    with LocalGrid(app_of(vandal), [{}, {}]) as grid:
        replies = list(
            grid.send_and_receive([grid.create_message(packed, "train", n, "1") for n in grid.get_node_ids()])
        )
    assert len(replies) == 2
    assert packed["head"]["x"] == 1
    assert unpack_vector(packed["vector"]).tolist() == [0, 1, 2, 3]
    for message in held:
        message.content["head"]["x"] = 5
    assert [reply.content["head"]["x"] for reply in replies] == [99, 99], "replies were copied when they were sent"


def test_the_vector_is_shared_and_not_copied_but_cannot_be_written():
    seen = []

    def keep(message: Message, context) -> Message:
        seen.append(message.content["vector"]["v"].data)
        with pytest.raises(ValueError, match="read-only"):
            unpack_vector(message.content["vector"])[0] = 7
        return Message(RecordDict(), reply_to=message)

    packed = content()
    with LocalGrid(app_of(keep), [{}, {}, {}]) as grid:
        list(grid.send_and_receive([grid.create_message(packed, "train", n, "1") for n in grid.get_node_ids()]))
    assert all(data is packed["vector"]["v"].data for data in seen)
    assert len(seen) == 3


def test_nodes_get_their_own_configuration_and_identity():
    def who(message: Message, context) -> Message:
        return Message(RecordDict({"c": ConfigRecord({"site": context.node_config["site"]})}), reply_to=message)

    with LocalGrid(app_of(who), [{"site": "a"}, {"site": "b"}], workers=2) as grid:
        nodes = list(grid.get_node_ids())
        replies = list(grid.send_and_receive([grid.create_message(content(), "train", n, "7") for n in nodes]))
        got = {reply.metadata.src_node_id: reply.content["c"]["site"] for reply in replies}
        assert got == dict(zip(nodes, ("a", "b"), strict=True))
        assert all(reply.metadata.run_id == grid.run.run_id and reply.metadata.group_id == "7" for reply in replies)


def test_several_grids_run_at_the_same_time_and_leave_flowers_identity_alone(tmp_path):
    before = vars(TaskIdentity).get("_run_id"), vars(TaskIdentity).get("_task_id")
    config = plain_run(rounds=rounds_config(count=4, min_sites=3))
    nodes = write_sites(tmp_path, {"a": 1, "b": 2, "c": 3})
    results = {}

    def run(i: int) -> None:
        results[i] = run_quadratic(tmp_path / str(i), replace(config, seed=i % 2), nodes).vector.tobytes()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len({results[i] for i in (0, 2, 4)}) == len({results[i] for i in (1, 3, 5)}) == 1
    assert results[0] != results[1]
    assert (vars(TaskIdentity).get("_run_id"), vars(TaskIdentity).get("_task_id")) == before


def test_workers_stop_while_too_many_replies_wait():
    done = []

    def quick(message: Message, context) -> Message:
        done.append(context.node_id)
        return Message(RecordDict(), reply_to=message)

    with LocalGrid(app_of(quick), [{}] * 20, workers=2) as grid:
        ids = send(grid, content())
        wait_for(lambda: len(done) >= 4)
        time.sleep(0.05)
        assert len(done) <= 6, "workers + 2 replies, and one in the hands of each worker"
        pulled = []
        wait_for(lambda: pulled.extend(grid.pull_messages(ids)) or len(pulled) == 20)


def test_replies_that_nobody_waits_for_any_more_free_their_room():
    def quick(message: Message, context) -> Message:
        return Message(RecordDict(), reply_to=message)

    with LocalGrid(app_of(quick), [{}] * 10) as grid:
        old = send(grid, content(), ttl=0.05)
        time.sleep(0.1)
        new = send(grid, content())
        pulled = []
        wait_for(lambda: pulled.extend(grid.pull_messages([*old, *new])) or len(pulled) >= 10)
        assert {reply.metadata.reply_to_message_id for reply in pulled} <= set(new) | set(old[:3])


def test_an_app_that_raises_answers_with_an_error_and_one_that_is_silent_not_at_all():
    def bad(message: Message, context) -> Message:
        if context.node_config["how"] == "silent":
            raise NoAnswer
        if context.node_config["how"] == "exit":
            raise SystemExit(3)
        raise ValueError("text")

    with LocalGrid(app_of(bad), [{"how": h} for h in ("silent", "raise", "exit", "raise")]) as grid:
        messages = [grid.create_message(content(), "train", n, "1") for n in grid.get_node_ids()]
        replies = list(grid.send_and_receive(messages, timeout=0.3))
    assert [reply.has_error() for reply in replies] == [True, True, True]
    assert replies[0].error.code == 2


def test_bad_arguments_are_refused():
    with pytest.raises(InputError, match="workers 0"):
        LocalGrid(ClientApp(), [{}], workers=0)
    with pytest.raises(InputError, match="nodes 0"):
        LocalGrid(ClientApp(), [])


def test_run_local_hands_over_the_run_config_and_the_result():
    assert run_local(ClientApp(), lambda grid, context: context.run_config["out"], [{}], {"out": "x"}) == "x"


def test_the_threads_end_with_the_grid():
    before = threading.active_count()
    with LocalGrid(ClientApp(), [{}] * 3, workers=3):
        assert threading.active_count() == before + 3
    assert threading.active_count() == before


HAVE_RAY = importlib.util.find_spec("ray") is not None


@pytest.mark.skipif(HAVE_RAY, reason="Ray is installed")
def test_ray_says_what_to_install():
    with pytest.raises(InputError, match=r"fedkt3d\[ray\]"):
        run_ray(ClientApp(), lambda grid, context: None, [{}], {})


@pytest.mark.skipif(not HAVE_RAY, reason="needs the extra ray")
def test_ray_ends_with_the_same_vector_and_passes_errors_on(tmp_path):
    config = plain_run(rounds=rounds_config(count=2, min_sites=3))
    nodes = write_sites(tmp_path, {"a": 1, "b": 2, "c": 3})
    initial = np.zeros(64, np.float32)

    def server(grid, context):
        if context.run_config["fail"]:
            raise InputError("as asked")
        return run_federation(grid, config, SPEC_JSON, MANIFEST_HASH, initial, tmp_path / "ray")

    app = client_app(QuadraticTraining(64))
    result = run_ray(app, server, nodes, {"fail": False}, workers=2)
    assert result.vector.tobytes() == run_quadratic(tmp_path / "local", config, nodes).vector.tobytes()
    with pytest.raises(InputError, match="as asked"):
        run_ray(app, server, nodes, {"fail": True}, workers=2)


def test_array_records_travel_whole():
    packed = content(text="ü", number=2**62, flag=True, items=[1.5, 2.5])

    def echo(message: Message, context) -> Message:
        return Message(message.content, reply_to=message)

    with LocalGrid(app_of(echo), [{}]) as grid:
        (reply,) = grid.send_and_receive([grid.create_message(packed, "train", next(iter(grid.get_node_ids())), "1")])
    assert dict(reply.content["head"]) == dict(packed["head"])
    assert isinstance(reply.content["vector"], ArrayRecord)
    assert reply.content.object_id == packed.object_id


def test_processes_end_with_the_same_vector_as_threads_in_every_mode(tmp_path):
    config = plain_run(rounds=rounds_config(count=2, min_sites=3))
    masked = replace(config, privacy=replace(config.privacy, mode="masked", sites=3, cohort=6))
    nodes = write_sites(tmp_path, {"a": 1, "b": 2, "c": 3})
    for name, asked in (("none", config), ("masked", masked)):
        here, there = (
            run_quadratic(tmp_path / f"{name}-{kind.__name__}", asked, nodes, workers=2, kind=kind)
            for kind in (LocalGrid, ProcessGrid)
        )
        assert here.vector.tobytes() == there.vector.tobytes()


def test_a_site_keeps_its_process_and_a_killed_one_is_a_lost_connection():
    def work(message: Message, context) -> Message:
        if context.node_config["site"] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        count = context.state["count"]["n"] + 1 if "count" in context.state else 1
        context.state["count"] = MetricRecord({"n": count})
        return Message(RecordDict({"told": MetricRecord({"pid": os.getpid(), "n": count})}), reply_to=message)

    with ProcessGrid(app_of(work), [{"site": i} for i in range(4)], workers=2) as grid:
        pids = []
        for number in (1, 2):
            replies = grid.send_and_receive([grid.create_message(content(), "train", 1001 + i, "1") for i in range(3)])
            told = {reply.metadata.src_node_id: reply.content["told"] for reply in replies}
            assert {record["n"] for record in told.values()} == {number}
            pids.append({node: record["pid"] for node, record in told.items()})
        assert pids[0] == pids[1]
        assert len(set(pids[0].values())) == 2
        assert os.getpid() not in pids[0].values()
        (lost,) = grid.send_and_receive([grid.create_message(content(), "train", 1004, "1")])
        assert lost.has_error()
