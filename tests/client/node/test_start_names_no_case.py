"""What `client start` prints when it cannot start, and what its executor logs of others' texts, names no case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from client.node.start import start
from client.node.status import current, hints
from client.site.home import ClientHome
from client.site.ledger_binding import MARK
from privacy.trust.identity import new_node_key
from shared_model.core.errors import InputError
from tests.builders.hospital_homes import Homes


@pytest.fixture
def homes(tmp_path: Path) -> Homes:
    return Homes(tmp_path / "homes")


def refused(home: ClientHome) -> str:
    """Why `client start` does not start."""
    with pytest.raises(InputError) as caught:
        start(home, lambda _: None)
    return str(caught.value)


@pytest.mark.parametrize("cases", ["[doe_jane_1953, doe_jane_1953]", "['Doe^Jane']"])
def test_a_bad_case_id_in_site_yaml_is_not_printed(homes: Homes, cases: str) -> None:
    home = homes.homes["a"]
    home.site_config.write_text(f"site: a\ndata: cases\nroot: /data\ntrain: {cases}\nvalidation: []\n")
    said = refused(home)
    assert "site.yaml: cannot be used" in said
    assert "client status" in said
    assert "jane" not in said.lower()
    assert "jane" in " ".join(hints(home)).lower(), "client status does not say why"


def test_a_mark_that_cannot_be_read_is_named_without_the_datas_path(homes: Homes, tmp_path: Path) -> None:
    home = homes.homes["a"]
    root = tmp_path / "export_of_dr_house"
    root.mkdir()
    home.site_config.write_text(home.site_config.read_text().replace(f"root: {home.folder}", f"root: {root}"))
    (root / MARK).write_text("{")
    home.node_key.parent.mkdir(exist_ok=True)
    home.node_key.write_bytes(new_node_key()[0])
    said = refused(home)
    assert MARK in said
    assert "house" not in said


def test_a_site_yaml_that_is_just_being_edited_does_not_end_a_running_site(homes: Homes) -> None:
    """Each look at the processes read it, and its error ended `client start` with a case id on the screen."""
    home = homes.homes["a"]
    home.site_config.write_text("train: [doe_jane_1953, doe_jane_1953]")
    assert current(home, {"hints": hints(home, for_log=True)})["site"] == "a"


def test_a_data_folder_that_this_user_may_not_see_does_not_end_a_running_site(homes: Homes) -> None:
    home = homes.homes["a"]
    hidden = "/" + "x" * 300  # as a closed folder: the system refuses to look
    home.site_config.write_text(home.site_config.read_text().replace(f"root: {home.folder}", f"root: {hidden}"))
    assert "the data folder of site.yaml is not there" in " ".join(hints(home, for_log=True))


@pytest.mark.parametrize(
    "code",
    [
        "logging.getLogger('pydicom').warning('Invalid value %s', 'Doe^Jane')",
        "logging.getLogger('PIL.Image').error('/data/doe_jane.dcm', exc_info=ValueError('jane'))",
        "t = threading.Thread(target=lambda: 1 / len(open('/data/doe_jane.dcm').read())); t.start(); t.join()",
        "type('T', (), {'__del__': lambda self: open('/data/doe_jane.dcm')})()",
        "open('/data/doe_jane.dcm')",
    ],
    ids=["a library", "a library's error", "a thread", "a destructor", "the executor"],
)
def test_the_executors_log_gets_the_place_of_others_texts_alone(code: str) -> None:
    program = f"import logging, threading\nfrom client.node.site_log import log_to_stdout\nlog_to_stdout()\n{code}\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert '"level": "' in said
    assert "jane" not in said.lower()
