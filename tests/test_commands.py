"""What the three commands have in common: `--version`, exit codes, and a help that is true of the settings."""

import re
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml

import client.cli
import server.cli
import simulations.cli
from server.config.compose import compose_config
from server.config.settings_help import SHARED, Settings
from server.runs.follow import StoppedError
from shared_model.core.command import run_command
from shared_model.core.errors import FedKT3DError, InputError, PolicyError
from simulations.settings.composition import compose_config as simulated_config
from simulations.settings.settings_help import OWN

APPS = {"client": client.cli.app, "server": server.cli.app, "simulate": simulations.cli.app}
DOCS = Path(__file__).parent.parent / "docs" / "commands.md"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call a command as its console script does; returns exit code, standard output and standard error."""
    monkeypatch.setenv("COLUMNS", "120")

    def called(name: str, *arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        code = run_command(APPS[name], name)
        return code, *capsys.readouterr()

    return called


@pytest.mark.parametrize("name", APPS)
def test_version_names_command_and_package(run: Run, name: str) -> None:
    assert run(name, "--version") == (0, f"{name} (fedkt3d) {version('fedkt3d')}\n", "")


@pytest.mark.parametrize("name", APPS)
def test_help_still_says_what_the_command_is_for(run: Run, name: str) -> None:
    code, told, _ = run(name, "--help")
    assert code == 0
    assert str(APPS[name].info.help) in told
    assert "--version" in told


def test_help_explains_the_arguments_too(run: Run) -> None:
    _, told, _ = run("client", "predict", "--help")
    assert "One patient's .npz, or a folder" in told


@pytest.mark.parametrize("name", APPS)
def test_a_wrong_option_is_bad_input(run: Run, name: str) -> None:
    code, _, told = run(name, "--colour")
    assert code == 2
    assert told.startswith(f"{name}: error: ")


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (None, 0),
        (FedKT3DError("too few sites"), 1),
        (ZeroDivisionError("ours"), 1),
        (InputError("no such file"), 2),
        (PolicyError("worse than the one in use"), 3),
        (StoppedError("stopped"), 130),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
    ],
)
def test_every_way_to_end_has_its_exit_code_and_the_docs_list_it(
    monkeypatch: pytest.MonkeyPatch, raised: BaseException | None, code: int
) -> None:
    app = typer.Typer()

    @app.command()
    def _end() -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(sys, "argv", ["end"])
    assert run_command(app, "end") == code
    listed = re.findall(r"^\| (\d+) \|", DOCS.read_text(), re.MULTILINE)
    assert listed == ["0", "1", "2", "3", "130"]
    assert str(code) in listed


@pytest.mark.parametrize(
    ("command", "settings"),
    [(("server", "run"), SHARED), (("server", "plan"), SHARED), (("simulate", "run"), {**OWN, **SHARED})],
)
def test_help_lists_the_groups_and_each_key_with_its_default(
    run: Run, command: tuple[str, str], settings: Settings
) -> None:
    config = compose_config([]) if command[0] == "server" else simulated_config("run", [])
    code, told, _ = run(*command, "--help")
    assert code == 0
    assert "--cfg job` prints all keys" in told
    counted = "privacy.cohort" if command[0] == "simulate" else ""
    for title, keys in settings.items():
        assert title in told
        for key, line in keys.items():
            found = re.search(rf"^  {re.escape(key)}=(\S*)( \*)? +(\S.*)$", told, re.MULTILINE)
            assert bool(found) == (key != counted), key
            if found:
                assert yaml.safe_load(found[1] or "''") == yaml.safe_load(str(_value(config, key)))
                assert line.startswith(found[3].strip())
    assert re.search(r"privacy\.mode=shared +shared, local", told)
    assert re.search(r"train\.local_steps=1 \* ", told), "a default that follows from another key has a star"


def _value(config: object, key: str) -> object:
    for part in key.split("."):
        config = config[part]  # type: ignore[index]
    if config is None:
        return "null"
    return config if config != "" else "''"


def test_cfg_job_prints_the_whole_configuration_and_runs_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, told, _ = run("simulate", "run", "--cfg", "job", "rounds.count=3", "privacy.mode=none")
    assert code == 0
    whole = yaml.safe_load(told)
    assert (whole["rounds"]["count"], whole["train"]["local_steps"], whole["model"]["base"]) == (3, 25, "none")
    assert (whole["data"]["kind"], whole["out"]) == ("phantom", "out/run")
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_of_the_server_counts_its_sites(run: Run, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert run("server", "init", "walk", "--home", str(home))[0] == 0
    before = sorted(home.rglob("*"))
    code, told, problem = run("server", "run", "--home", str(home), "--cfg", "job", "train.lr=0.5")
    assert (code, problem) == (0, "")
    whole = yaml.safe_load(told)
    assert (whole["train"]["lr"], whole["privacy"]["mode"], whole["privacy"]["cohort"]) == (0.5, "shared", 0)
    assert set(whole) == set(compose_config([]))
    assert sorted(home.rglob("*")) == before
    assert run("server", "run", "--home", str(home), "--cfg", "job", "rounds=3")[0] == 2
