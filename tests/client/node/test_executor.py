"""What the executor lets out of the site; the executor at work is in tests/e2e."""

import logging
from pathlib import Path

import pytest

from client.node import executor
from client.node.executor import SiteExecutor, _describe
from client.node.site_log import SiteLog
from client.site.home import ClientHome
from privacy.flower.processes import read_state
from shared_model.core.errors import InputError, PolicyError
from shared_model.core.files import PRIVATE, create_file


def test_the_log_holds_no_text_of_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    def train(patient: str) -> None:
        raise ValueError(f"cannot read {patient}")

    logger = logging.getLogger("test.site")
    logger.addHandler(SiteLog())
    logger.propagate = False
    with caplog.at_level(logging.INFO):
        try:
            train("DOE^JANE")
        except ValueError as error:
            logger.error("train refused", exc_info=error)
    assert "DOE" not in caplog.text
    assert "train refused: ValueError at test_executor.py" in caplog.text


def test_a_refusal_of_the_policy_is_logged_in_full(caplog: pytest.LogCaptureFixture) -> None:
    class RefusedError(Exception):
        pass

    logger = logging.getLogger("test.site.own")
    logger.addHandler(SiteLog())
    logger.propagate = False
    with caplog.at_level(logging.INFO):
        try:
            try:
                raise PolicyError("max_rounds: at most 3 at this site; asked for 9")
            except PolicyError as error:
                raise RefusedError("data") from error
        except RefusedError as error:
            logger.error("train refused", exc_info=error)
    assert "train refused: max_rounds: at most 3 at this site; asked for 9" in caplog.text


def test_an_error_that_names_a_file_is_logged_by_its_place_in_the_code(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("test.site.names")
    logger.addHandler(SiteLog())
    logger.propagate = False
    with caplog.at_level(logging.INFO):
        try:
            raise InputError("/export/DOE_JANE.npz: dose: a value is not finite")
        except InputError as error:
            logger.error("train refused", exc_info=error)
    assert "DOE" not in caplog.text
    assert "/export" not in caplog.text
    assert "train refused: InputError at test_executor.py" in caplog.text
    assert "client check" in caplog.text


def test_a_coordinators_text_is_harmless_on_screen() -> None:
    shown = _describe("train", "1\x1b[2J\n" + "9" * 100)
    assert shown["kind"] == "train"
    assert shown["round"] == ("12J" + "9" * 100)[:32]


def test_a_second_task_that_is_lost_before_its_message_came_does_not_end_the_executor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make soak` found it: a restarted SuperNode no longer knew the task, and the executors of several sites ended."""
    home = ClientHome(folder=tmp_path, site="a", consortium="c", name="t", server="h:1")
    for part in ("state", "secrets"):
        (tmp_path / part).mkdir()
    create_file(home.secret, b"x" * 32, PRIVATE)
    one = SiteExecutor(home, "127.0.0.1:1")

    def lost(*_: object, **__: object) -> bool:
        raise ConnectionError("its token is no longer known")

    monkeypatch.setattr(executor, "runtime_client", lost)
    one._work("a task that was lost")
    one._work("another")
    state = read_state(home.state("executor"))
    assert (state["state"], state["tasks_failed"], state["task"]) == ("idle", 2, None)
