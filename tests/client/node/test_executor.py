"""What the executor lets out of the site; the executor at work is in tests/e2e."""

import logging

import pytest

from client.node.executor import _describe
from client.node.site_log import SiteLog
from shared_model.core.errors import InputError


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


def test_the_sites_own_errors_are_logged_in_full(caplog: pytest.LogCaptureFixture) -> None:
    class RefusedError(Exception):
        pass

    logger = logging.getLogger("test.site.own")
    logger.addHandler(SiteLog())
    logger.propagate = False
    with caplog.at_level(logging.INFO):
        try:
            try:
                raise InputError("site.yaml: key train: expected a list")
            except InputError as error:
                raise RefusedError("data") from error
        except RefusedError as error:
            logger.error("train refused", exc_info=error)
    assert "train refused: site.yaml: key train: expected a list" in caplog.text


def test_a_coordinators_text_is_harmless_on_screen() -> None:
    shown = _describe("train", "1\x1b[2J\n" + "9" * 100)
    assert shown["kind"] == "train"
    assert shown["round"] == ("12J" + "9" * 100)[:32]
