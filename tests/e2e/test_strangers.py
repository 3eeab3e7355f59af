"""Who must not get in, and what a hostile coordinator must not get to run. Real processes; nothing is simulated."""

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient

from client.node.start import _children
from client.site.home import ClientHome
from privacy.agreement.admission import Admission
from privacy.flower.processes import Child, flower_program
from privacy.trust import certificates, identity
from privacy.trust.membership import AdmissionRequest
from server.consortium.admission import Admissions
from server.deployment.control import Control
from server.deployment.home import ServerHome, create
from tests.e2e.conftest import FAST, renamed
from tests.e2e.deployment import Deployment, eventually
from tests.e2e.faults import FaultProxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(200)]

PROTOBUF = {"content-type": "application/protobuf"}
HOSTILE = """\
[project]
name = "hostile"
version = "1.0.0"
description = "x"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "hostile"
fab-include = ["**/*.py"]

[tool.flwr.app.components]
serverapp = "hostile_server:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
out = ""
"""
HOSTILE_SERVER = """\
import json, time
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    while len(nodes := list(grid.get_node_ids())) < NODES:
        time.sleep(0.2)
    content = RecordDict({"config": ConfigRecord({"site-config": "/etc/passwd", "code": "open('/tmp/x')"})})
    kinds = ("query", "train", "evaluate", "query.steal")
    messages = [Message(content, dst_node_id=n, message_type=kind, group_id="../../x") for n in nodes for kind in kinds]
    replies = list(grid.send_and_receive(messages, timeout=90))
    told = [str(m.content) if m.has_content() else f"error {m.error.code} {m.error.reason}" for m in replies]
    Path(context.run_config["out"]).write_text(json.dumps(told))
"""
# One line for each import: the module, and the command line and FLWR_HOME of the process that imported it.
CANARY = """\
import json as _json, os as _os
with open({path!r}, "a") as _file:
    _argv = open("/proc/self/cmdline").read().split(chr(0))
    _file.write(_json.dumps([__name__, _argv, _os.environ.get("FLWR_HOME", "")]) + chr(10))
"""


def hostile_bundle(folder: Path, canary: Path, nodes: int) -> Path:
    """A bundle that Flower takes, with modules that shadow ours at a stock site and leave a canary when imported."""
    bundle = folder / "hostile"
    (bundle / "client" / "training").mkdir(parents=True)
    (bundle / "pyproject.toml").write_text(HOSTILE)
    (bundle / "hostile_server.py").write_text(HOSTILE_SERVER.replace("NODES", str(nodes)))
    bait = CANARY.format(path=str(canary)) + "from flwr.clientapp import ClientApp\napp = ClientApp()\n"
    for name in ("client/__init__.py", "client/app.py", "sitecustomize.py", "torch.py", "client/training/train.py"):
        (bundle / name).write_text(bait)
    return bundle


def imported_by(canary: Path, *, outside: Path) -> list[Any]:
    """Imports of the bundle by processes whose FLWR_HOME is not below `outside`.

    The coordinator's own processes do import it: `flwr run` looks for the app's package, and the ServerApp is in there.
    """
    lines = [json.loads(line) for line in canary.read_text().splitlines()] if canary.exists() else []
    return [line for line in lines if not Path(line[2] or "/").is_relative_to(outside)]


def submit_hostile(federation: Deployment, folder: Path, nodes: int = 2) -> tuple[Path, list[str]]:
    """Run the hostile bundle through the real SuperLink; its canary's path and what the sites answered."""
    canary, out = folder / "canary", folder / "told.json"
    bundle = hostile_bundle(folder, canary, nodes)
    (folder / "run.toml").write_text(f"out = {json.dumps(str(out))}\n")
    control = Control(ServerHome.load(federation.home))
    run_id = control.submit(bundle, folder / "run.toml")
    eventually(lambda: control.run_status(run_id).finished, 120, "the hostile run is over")
    return canary, json.loads(out.read_text())


def test_a_hostile_bundle_runs_nothing_at_a_site(federation: Deployment, tmp_path: Path) -> None:
    canary, told = submit_hostile(federation, tmp_path)
    assert len(told) == 8
    assert imported_by(canary, outside=federation.home) == []
    unpacked = [path for name in ("north", "south") for path in federation.site(name).rglob("*.py")]
    assert unpacked == []
    for answer in told:
        assert "passwd" not in answer
        assert str(federation.folder) not in answer
    # The sites are none the worse for it.
    report = federation.run("name=after-hostile", "rounds.count=1", *FAST)["report"]
    assert sorted(report["history"][0]["sites"]) == ["north", "south"]


def test_the_canary_sings_at_a_site_with_flowers_own_executor(
    federation: Deployment, hospitals: dict[str, Path], tmp_path: Path
) -> None:
    """The control of the test above: the same bundle, with stock flower-superexec in the place of our executor."""
    config = renamed(hospitals["east"], "stock", tmp_path)
    federation.admit("stock", federation.make_site("stock", config))
    home = ClientHome.load(federation.site("stock"))
    ours, supernode = _children(home)
    runtime = ("--insecure", "--runtime-api-address", ours._command[-1])
    command = [flower_program("flower-superexec"), *runtime, "--superexec-auth-secret-file", str(home.secret)]
    stock = Child("stock", command, home.environment(), home.log("stock"), home.folder)
    try:
        supernode.tick()
        stock.tick()
        federation.connected("stock")
        canary, _ = submit_hostile(federation, tmp_path, nodes=3)
    finally:
        stock.stop()
        supernode.stop()
    victims = imported_by(canary, outside=federation.home)
    assert victims
    assert {home for _, _, home in victims} == {str(federation.site("stock") / "flwr")}


def test_an_unregistered_site_gets_no_task(federation: Deployment, hospitals: dict[str, Path]) -> None:
    federation.admit("east", federation.make_site("east", hospitals["east"]))
    # An admission alone opens nothing: the SuperLink knows another node key.
    node_key = ClientHome.load(federation.site("east")).node_key
    node_key.write_bytes(identity.new_node_key()[0])
    federation.spawn("client", federation.site("east"))
    report = federation.run("name=uninvited", "rounds.count=1", *FAST)["report"]
    assert sorted(report["sites"]) == ["north", "south"]
    status = eventually(lambda: refused(federation, "east"), 30, "the stranger was turned away")
    assert status["node_id"] is None
    assert status["executor"]["tasks_done"] == status["executor"]["tasks_failed"] == 0


def test_a_site_talks_to_no_server_of_another_authority(
    federation: Deployment, hospitals: dict[str, Path], tmp_path: Path
) -> None:
    # To this site the coordinator is an impostor: it was admitted by another consortium at the very same address.
    other = create("other", tmp_path / "other", "127.0.0.1", federation.port, federation.control_port, [])
    invitation, admission = tmp_path / "wary.invitation", tmp_path / "wary.admission"
    invitation.write_bytes(Admissions(other).invite("wary", 1).to_json())
    config = renamed(hospitals["east"], "wary", tmp_path)
    federation.must("client", "init", invitation, "--home", federation.site("wary"), "--site-config", config)
    admission.write_bytes(admitted_without_flower(other, federation.site("wary") / "wary.csr.json"))
    federation.must("client", "join", admission, "--home", federation.site("wary"))
    federation.spawn("client", federation.site("wary"))
    status = eventually(lambda: refused(federation, "wary"), 30, "the site gave the server up")
    assert status["node_id"] is None
    log = (federation.site("wary") / "logs" / "supernode.log").read_text().lower()
    assert "certificate" in log or "ssl/tls" in log


def admitted_without_flower(home: ServerHome, request_file: Path) -> bytes:
    """What `server admit` gives back, without a SuperLink that takes the node key."""
    request = AdmissionRequest.read(request_file.read_bytes())
    key, signer = home.ca_key.read_bytes(), home.roster_key.read_bytes()
    certificate = certificates.issue_site_certificate(
        key, home.ca_certificate.read_bytes(), request.site, request.identity
    )
    roster = (
        Admissions(home)
        .roster()
        .admit(
            request.site,
            identity=request.identity.public_bytes_raw().hex(),
            certificate=certificates.certificate_fingerprint(certificate),
            node_key=identity.node_fingerprint(request.node_key),
        )
    )
    return Admission.make(request.site, certificate, roster.to_signed(signer), None, signer)


def refused(federation: Deployment, name: str) -> dict[str, Any] | None:
    """Status of a site whose SuperNode has been turned away at least once, else None."""
    status = federation.status(name)
    restarts = status["processes"].get("supernode", {}).get("restarts", 0)
    assert status["connection"] != "connected"
    return status if restarts >= 1 else None


def control_client(federation: Deployment, port: int, user: str = "") -> ControlHttpClient:
    return ControlHttpClient.from_server_address(
        server_address=f"{user}127.0.0.1:{port}",
        insecure=False,
        root_certificates=str(federation.ca),
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr CLI")],
    )


def test_the_control_api_is_closed_to_whoever_lacks_the_secret(federation: Deployment) -> None:
    secret = (federation.home / "secrets" / "control").read_text()
    tries = [
        (federation.port, ""),
        (federation.port, f"coordinator:{secret}@"),
        (federation.control_port, ""),
        (federation.control_port, "coordinator:guess@"),
    ]
    for port, user in tries:
        with control_client(federation, port, user) as client, pytest.raises(httpx.HTTPStatusError) as caught:
            client.ListNodes(ListNodesRequest())
        assert caught.value.response.status_code == 404
    with control_client(federation, federation.control_port, f"coordinator:{secret}@") as client:
        assert len(client.ListNodes(ListNodesRequest()).nodes_info) >= 2


def test_nobody_else_takes_the_server_apps_task(federation: Deployment) -> None:
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    method = frozenset({"/flwr.proto.Runtime/AcquireTask"})
    wrong = SuperExecAuthHttpInterceptor(master_secret=b"guess", protected_methods=method)
    right = SuperExecAuthHttpInterceptor(
        master_secret=(federation.home / "secrets" / "superexec").read_bytes(), protected_methods=method
    )
    request = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])

    def acquire(port: int, *proof: SuperExecAuthHttpInterceptor) -> int:
        with RuntimeHttpClient.from_server_address(
            server_address=f"127.0.0.1:{port}",
            insecure=False,
            root_certificates=str(federation.ca),
            interceptors=[version, *proof],
        ) as client:
            try:
                client.AcquireTask(request)
            except httpx.HTTPStatusError as error:
                return error.response.status_code
            return 200

    assert acquire(federation.control_port) == 401
    assert acquire(federation.control_port, wrong) == 401
    assert acquire(federation.port, right) == 404
    assert acquire(federation.control_port, right) == 200


def test_a_reverse_proxy_on_the_same_host_opens_nothing(federation: Deployment) -> None:
    """To the SuperLink every caller behind it is local; the port alone decides, so the secrets are worth nothing."""
    proxy = FaultProxy(federation.home, federation.port)
    secret = (federation.home / "secrets" / "control").read_text()
    proof = SuperExecAuthHttpInterceptor(
        master_secret=(federation.home / "secrets" / "superexec").read_bytes(),
        protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
    )
    try:
        with (
            control_client(federation, proxy.port, f"coordinator:{secret}@") as client,
            pytest.raises(httpx.HTTPStatusError) as caught,
        ):
            client.ListNodes(ListNodesRequest())
        assert caught.value.response.status_code == 404
        with (
            RuntimeHttpClient.from_server_address(
                server_address=f"127.0.0.1:{proxy.port}",
                insecure=False,
                root_certificates=str(federation.ca),
                interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), proof],
            ) as runtime,
            pytest.raises(httpx.HTTPStatusError) as caught,
        ):
            runtime.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP]))
        assert caught.value.response.status_code == 404
        status, _ = proxy.forward("/v1/fleet/pull-messages", PROTOBUF, b"")
        assert status == 401  # there, and not for those without a key
    finally:
        proxy.close()


@pytest.mark.parametrize(
    "call",
    ["register-node", "activate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run", "get-fab"],
)
def test_the_ca_file_alone_opens_no_fleet_call(federation: Deployment, call: str) -> None:
    context = ssl.create_default_context(cafile=federation.ca)
    with httpx.Client(verify=context) as client:
        answer = client.post(f"https://127.0.0.1:{federation.port}/v1/fleet/{call}", content=b"", headers=PROTOBUF)
    assert answer.status_code == 401


def test_the_control_channel_listens_on_loopback_alone(federation: Deployment) -> None:
    listening = {
        line.split()[1]
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if line.split()[3] == "0A" and int(line.split()[1].rpartition(":")[2], 16) == federation.control_port
    }
    assert {address.rpartition(":")[0] for address in listening} == {"0100007F"}  # 127.0.0.1, low byte first
