"""What the executor lets out of the site; the executor at work is in tests/e2e."""

import logging

import pytest

from client.node.executor import _describe
from client.node.site_log import SiteLog
from shared_model.core.errors import InputError, PolicyError


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
