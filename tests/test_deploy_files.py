"""The files below deploy/: they parse, name commands that exist, and keep what they promise of safety."""

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from client.cli import app as client_app
from server.cli import app as server_app

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
