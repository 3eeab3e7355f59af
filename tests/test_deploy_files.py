"""The files below deploy/: they parse, name commands that exist, and keep what they promise of safety."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from client.cli import app as client_app
from server.cli import app as server_app
from simulations.soak import units

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
APPS = {"client": client_app, "server": server_app}


def known(command: list[str]) -> bool:
    """Whether `command` (program, subcommand, ...) is one of ours with the options that it is given."""
    program, subcommand, *rest = command
    group: Any = typer.main.get_command(APPS[Path(program).name])
    found = group.commands.get(subcommand)
    options = {name for parameter in found.params for name in parameter.opts} if found else set()
    return found is not None and all(word in options for word in rest if word.startswith("--"))


def unit(path: Path) -> ConfigParser:
    # systemd adds up a key that comes twice, as SystemCallFilter does.
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(path)
    return parser


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_units_start_our_commands_with_few_rights(path: Path) -> None:
    service = unit(path)["Service"]
    assert known(shlex.split(service["ExecStart"]))
    assert service["User"] == "fedkt3d"
    for key in ("NoNewPrivileges", "ProtectHome", "PrivateTmp"):
        assert service[key] == "true"
    assert (service["ProtectSystem"], service["UMask"], service["Restart"]) == ("strict", "0077", "always")
    assert "time-sync.target" in unit(path)["Unit"]["After"]
    comments = [line.removeprefix("#").strip() for line in path.read_text().splitlines() if line.startswith("#   ")]
    assert comments
    assert all(known(shlex.split(line)) for line in comments)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_systemd_takes_the_units(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    # The program need not be installed on the machine that checks.
    copy.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", path.read_text(), flags=re.MULTILINE))
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    assert path.name not in result.stderr, result.stderr
    assert "Unknown" not in result.stderr


def test_compose_runs_our_commands_as_nobody_special() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"coordinator", "site"}
    for service in compose["services"].values():
        assert known(service["command"])
        shell, *check = service["healthcheck"]["test"]
        assert shell == "CMD"
        assert known(check)
        assert check == [check[0], "status", "--healthy", "--home", service["command"][-1]]
        assert check[0] == service["command"][0]
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["read_only"]
        assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
        mounted = {volume.split(":")[0] for volume in service["volumes"] if not volume.startswith("$")}
        assert mounted <= set(compose["volumes"])
    assert "ports" not in compose["services"]["site"]
    assert compose["services"]["coordinator"]["ports"] == ["9092:9092"]


def test_the_cuda_image_is_the_same_image_with_torchs_cuda_build_and_gpus() -> None:
    plain, cuda = (yaml.safe_load((DEPLOY / name).read_text()) for name in ("compose.yaml", "compose.cuda.yaml"))
    assert set(cuda["services"]) == {"site"}
    site = cuda["services"]["site"]
    assert set(site) == {"image", "build", "deploy"}, "what keeps the site safe stays that of compose.yaml"
    assert site["image"] != plain["services"]["site"]["image"]
    (devices,) = site["deploy"]["resources"]["reservations"]["devices"]
    assert devices["capabilities"] == ["gpu"]
    makefile = (DEPLOY.parent / "Makefile").read_text()
    assert re.findall(r"^CUDA *\?= *(\S+)$", makefile, re.MULTILINE) == [site["build"]["args"]["TORCH"]]
    named = re.findall(r"^ARG (\w+)=", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert set(site["build"]["args"]) <= set(named)


def test_the_image_installs_what_the_repository_pins_and_drops_root() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip() and not line.startswith("#")]
    words = [word for word, _ in steps]
    assert words[0] == "FROM"
    assert set(words) <= {
        "FROM",
        "ARG",
        "COPY",
        "RUN",
        "ENV",
        "USER",
        "WORKDIR",
        "VOLUME",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "CMD",
    }
    checks = re.findall(r"(?:server|client) status [^;]+", dict(steps)["HEALTHCHECK"])
    assert len(checks) == 2
    assert all(known(shlex.split(check)) for check in checks)
    assert words.index("USER") > max(index for index, word in enumerate(words) if word == "RUN")
    makefile = (DEPLOY.parent / "Makefile").read_text()
    (torch,) = re.findall(r"torch==(\S+)", (DEPLOY / "Dockerfile").read_text())
    assert re.findall(r"^TORCH_VERSION *:?= *(\S+)$", makefile, re.MULTILINE) == [torch]
    # The build of torch is the argument's; before the last FROM an argument would not be seen.
    assert dict(steps)["ARG"] == "TORCH=cpu"
    assert words.index("FROM") < words.index("ARG") < words.index("RUN")
    assert "--index-url https://download.pytorch.org/whl/${TORCH} torch==" in " ".join(lines)
    # The constraints carry hashes, and pip refuses to mix them with packages that have none.
    assert "--no-deps --require-hashes --requirement /src/constraints.txt" in " ".join(lines)
    ignored = (DEPLOY.parent / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for line in ignored[1:]:
        assert not line.startswith("!") or (DEPLOY.parent / line[1:]).exists(), line


MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))


def documents(path: Path) -> dict[str, dict[str, Any]]:
    """The Kubernetes objects in a file, by kind."""
    return {found["kind"]: found for found in yaml.safe_load_all(path.read_text())}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_runs_our_commands_with_few_rights(path: Path) -> None:
    found = documents(path)
    pod = found["StatefulSet"]["spec"]["template"]["spec"]
    assert found["StatefulSet"]["spec"]["replicas"] == 1
    assert not pod["automountServiceAccountToken"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"--uid {pod['securityContext']['runAsUser']} " in (DEPLOY / "Dockerfile").read_text()
    (container,) = pod["containers"]
    assert known(container["args"])
    right = container["securityContext"]
    assert not right["allowPrivilegeEscalation"]
    assert right["readOnlyRootFilesystem"]
    assert right["capabilities"] == {"drop": ["ALL"]}
    shell = container["livenessProbe"]["exec"]["command"][-1]
    assert known(shlex.split(shell.partition("|| ")[2]))
    typed = re.findall(r"^# +((?:server|client) [^\\\n]+)$", path.read_text(), re.MULTILINE)
    assert typed
    assert all(known(shlex.split(line)) for line in typed)
    assert ("Service" in found) == (path.stem == "coordinator"), "nothing connects to a site"
    policy = found["NetworkPolicy"]["spec"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    ports = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert ports == ([9092] if path.stem == "coordinator" else [])


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_kubernetes_schemas_hold(path: Path) -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for found in documents(path).values():
        validate.validate(found, "1.31", strict=True)


@pytest.mark.parametrize(
    ("code", "again"), [(2, False), (3, False), (1, True), (0, True)], ids=["input", "policy", "fault", "stopped"]
)
def test_a_slurm_job_queues_itself_again_unless_a_person_is_needed(tmp_path: Path, code: int, again: bool) -> None:
    done = slurm(tmp_path, f"exit {code}").wait(30)
    assert (tmp_path / "requeued").exists() is again
    assert done == (0 if again else code)


def test_a_slurm_job_whose_time_is_up_lets_the_node_say_goodbye(tmp_path: Path) -> None:
    waits = "for _ in {1..300}; do sleep 0.1; done"
    job = slurm(tmp_path, f"trap 'sleep 1; touch goodbye; exit 0' TERM; touch started; {waits}")
    end = time.monotonic() + 30
    while not (tmp_path / "started").exists() and time.monotonic() < end:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 0
    assert (tmp_path / "goodbye").exists()
    assert (tmp_path / "requeued").exists()


def slurm(folder: Path, node: str) -> subprocess.Popen[bytes]:
    """The job's script with a `client` that does `node`, and a `scontrol` that notes what it was asked."""
    for name, does in (("client", node), ("scontrol", '[ "$1 $2" = "requeue 7" ] && touch requeued')):
        (folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (folder / name).chmod(0o755)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", "FEDKT3D_HOME": "home", "SLURM_JOB_ID": "7"}
    script = DEPLOY / "slurm" / "site.sbatch"
    assert known(shlex.split('client start --home "$FEDKT3D_HOME"'))
    assert 'client start --home "$FEDKT3D_HOME" &' in script.read_text()
    return subprocess.Popen(["bash", str(script)], cwd=folder, env=environment)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.stem)
def test_the_soak_restarts_as_the_units_do(path: Path) -> None:
    parsed = unit(path)
    service = parsed["Service"]
    assert float(service["RestartSec"]) == units.RESTART_S
    assert float(service["TimeoutStopSec"]) == units.STOP_S
    assert tuple(map(int, service["RestartPreventExitStatus"].split())) == units.NEEDS_A_PERSON
    assert float(parsed["Unit"]["StartLimitIntervalSec"]) == units.WITHIN_S
    assert int(parsed["Unit"]["StartLimitBurst"]) == units.MOST_STARTS
