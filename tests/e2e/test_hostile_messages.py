"""A hostile coordinator's messages, through the real SuperLink: they run nothing and read nothing at a site.

The site's cases are taken away before: whoever read them would have to answer "data".
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from client.site.config import SiteConfig
from server.deployment.control import Control
from server.deployment.home import ServerHome
from shared_model.adapter.manifest import initial_vector, manifest_hash
from shared_model.network.spec import ModelSpec
from tests.e2e.conftest import FAST
from tests.e2e.deployment import Deployment, eventually, read
from tests.e2e.test_strangers import HOSTILE

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

# What the coordinator's app sends to each site: a name, Flower's message type and the records.
SERVER = """\
import json, time
from pathlib import Path
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()
GOOD = {"schema": 1, "kind": "train", "run-id": "ab" * 16, "spec": SPEC, "manifest": MANIFEST}
TASK = {"round": 1, "rounds": 1, "local_steps": 1, "batch_size": 1, "lr": 0.1, "seed": 0, "stage": "dose",
        "grad_clip": 1.0, "weight_decay": 0.0, "least_visible": 0.0, "privacy": "", "masks": ""}
EVALUATE = {"round": 1, "split": "validation", "sampler_steps": 1, "candidates": 1, "seed": 0, "masks": ""}
SMALL = Array("float32", (2,), "fedkt3d.f32le", bytes(8))
RIGHT = Array("float32", (SIZE,), "fedkt3d.f32le", bytes(4 * SIZE))
HUGE = Array("float32", (10**12,), "fedkt3d.f32le", bytes(8))
PICKLE = Array("float32", (2,), "numpy.ndarray", b"\\x80\\x04\\x95")

def content(head=GOOD, task=TASK, array=SMALL, **more):
    return RecordDict({"head": ConfigRecord(dict(head)), "task": ConfigRecord(dict(task)),
                       "vector": ArrayRecord({"v": array}), **more})

def sent():
    yield "later schema", "train", content({**GOOD, "schema": 99})
    yield "unknown kind", "train", content({**GOOD, "kind": "steal"})
    yield "kind of another type", "query", content()
    yield "unknown record", "train", content(files=ConfigRecord({"path": "../../keys/node"}))
    yield "unknown task key", "train", content(task={**TASK, "root": "../../../etc"})
    yield "path in a split", "evaluate", content({**GOOD, "kind": "evaluate"}, {**EVALUATE, "split": "../../keys/node"})
    yield "path as a run", "train", content({**GOOD, "run-id": "../../../../etc/passwd"})
    yield "path as a prior", "train", content({**GOOD, "spec": '{"prior":"../../keys/node"}'})
    yield "huge shape", "train", content(array=HUGE)
    yield "huge grid", "train", content({**GOOD, "spec": '{"shape":[4096,4096,4096]}'})
    yield "huge rank", "train", content({**GOOD, "spec": '{"rank":' + "9" * 4000 + '}'})
    yield "pickle", "train", content(array=PICKLE)
    yield "no finite rate", "train", content(task={**TASK, "lr": float("nan")})
    yield "endless training", "train", content(task={**TASK, "local_steps": 1_000_000})
    yield "many candidates", "evaluate", content({**GOOD, "kind": "evaluate"}, {**EVALUATE, "candidates": 64})
    yield "wrong length", "train", content()
    # The control: a request that follows every rule, and so makes the site look for its cases.
    yield "rightful", "train", content(array=RIGHT)

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < 2:
        time.sleep(0.2)
    told = {}
    for name, kind, record in sent():
        messages = [Message(record, dst_node_id=node, message_type=kind, group_id="../../x") for node in nodes]
        answers = list(grid.send_and_receive(messages, timeout=60))
        told[name] = [{k: dict(v) for k, v in answer.content.items()} for answer in answers if answer.has_content()]
    Path(context.run_config["out"]).write_text(json.dumps(told))
"""
EXPECTED = {
    "later schema": "schema",
    "unknown kind": "schema",
    "kind of another type": "schema",
    "unknown record": "schema",
    "unknown task key": "bad_task",
    "path in a split": "bad_task",
    "path as a run": "schema",
    "path as a prior": "wrong_model",
    "huge shape": "schema",
    "huge grid": "wrong_model",
    "huge rank": "wrong_model",
    "pickle": "schema",
    "no finite rate": "bad_task",
    "endless training": "policy",
    "many candidates": "policy",
    "wrong length": "wrong_model",
    "rightful": "data",
}


def bundle(folder: Path) -> Path:
    made = folder / "hostile"
    made.mkdir()
    spec = ModelSpec(prior="none")
    (made / "pyproject.toml").write_text(HOSTILE.replace("client.app:app", "hostile_server:app"))
    server = SERVER.replace("SPEC,", f"{spec.to_json()!r},", 1).replace("MANIFEST}", f"{manifest_hash(spec)!r}}}", 1)
    server = server.replace("SIZE", str(initial_vector(spec).size))
    (made / "hostile_server.py").write_text(server)
    return made


def test_hostile_messages_are_refused_and_read_nothing(federation: Deployment, tmp_path: Path) -> None:
    homes = [federation.site(name) for name in ("north", "south")]
    roots = [SiteConfig.load(home / "site.yaml").root for home in homes]
    for root in roots:
        shutil.move(root, root.with_name(f"{root.name}.away"))
    before = {path: path.read_bytes() for home in homes for path in (home / "keys").iterdir()}
    out = tmp_path / "told.json"
    (tmp_path / "run.toml").write_text(f"out = {json.dumps(str(out))}\n")
    try:
        control = Control(ServerHome.load(federation.home))
        run = control.submit(bundle(tmp_path), tmp_path / "run.toml")
        eventually(lambda: control.run_status(run).finished, 240, "the hostile run is over")
    finally:
        for root in roots:
            assert not root.exists(), "something was written where the data was"
            shutil.move(root.with_name(f"{root.name}.away"), root)
    told: dict[str, list[Any]] = json.loads(out.read_text())
    codes = {name: sorted({answer["head"]["refusal"] for answer in answers}) for name, answers in told.items()}
    assert codes == {name: [code] for name, code in EXPECTED.items()}
    assert all(len(answers) == 2 for answers in told.values())
    for secret in (str(federation.folder), *(content.decode(errors="ignore") for content in before.values())):
        assert secret not in out.read_text()
    assert before == {path: path.read_bytes() for home in homes for path in (home / "keys").iterdir()}
    # The site's log says what was refused, and so does its status.
    log = (homes[0] / "logs" / "executor.log").read_text()
    assert "max_local_steps: at most 1000 at this site; asked for 1000000" in log
    assert json.loads(federation.must("client", "status", "--home", homes[0], "--json"))["last_refusal"]["code"]
    assert read(homes[0] / "state" / "executor.json")["tasks_failed"] == 0
    # The sites are none the worse for it.
    report = federation.run("name=after-hostile", "rounds.count=1", *FAST)["report"]
    assert sorted(report["history"][0]["sites"]) == ["north", "south"]


def test_a_refusal_stands_in_the_report_with_its_reason(federation: Deployment) -> None:
    path = federation.site("south") / "policy.yaml"
    before = path.read_text()
    path.write_text(before.replace("least_patients: 1", "least_patients: 50"))
    try:
        report = federation.run("name=one-refuses", "rounds.count=1", "rounds.min_sites=1", *FAST)["report"]
    finally:
        path.write_text(before)
    assert "least_patients: this site has fewer than 50" in json.dumps(report["drops"])
    assert "fewer than 50" in federation.must("client", "status", "--home", federation.site("south"))


def test_only_the_metrics_that_the_policy_names_reach_the_report(federation: Deployment) -> None:
    for name in ("north", "south"):
        path = federation.site(name) / "policy.yaml"
        line = next(line for line in path.read_text().splitlines() if line.startswith("metrics: "))
        path.write_text(path.read_text().replace(line, "metrics: [loss, dose_score_gy]"))
    entry = federation.run("name=few-metrics", "rounds.count=1", *FAST)["report"]["history"][0]
    assert set(entry["metrics"]) == {"loss"}
    assert set(entry["evaluation"]["metrics"]) == {"dose_score_gy"}
