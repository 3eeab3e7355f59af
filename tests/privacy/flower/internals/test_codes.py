"""Flower's numbers: they travel, so a new value means a new meaning between old and new installations."""

from privacy.flower.internals.codes import SUPERLINK_NODE_ID, ErrorCode, TaskType


def test_the_codes_are_those_that_installed_sites_send() -> None:
    assert SUPERLINK_NODE_ID == 1
    codes = (ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ErrorCode.MESSAGE_UNAVAILABLE)
    codes += (ErrorCode.REPLY_MESSAGE_UNAVAILABLE, ErrorCode.NODE_UNAVAILABLE)
    assert codes == (2, 3, 4, 5)
    assert (TaskType.CLIENT_APP, TaskType.SERVER_APP) == ("flwr-clientapp", "flwr-serverapp")
