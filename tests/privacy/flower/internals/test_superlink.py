"""Flower's SuperLink as an application of ours: a real process serves it (conftest.py)."""

import ssl

import httpx

from privacy.flower.internals.superlink import log_settings
from server.deployment.home import ServerHome


def test_the_application_keeps_its_state_where_the_flags_say(superlink: ServerHome) -> None:
    assert (superlink.folder / "state" / "superlink.db").stat().st_size > 0


def test_the_nodes_key_is_asked_for(superlink: ServerHome) -> None:
    context = ssl.create_default_context(cafile=str(superlink.ca_certificate))
    answer = httpx.post(
        f"https://{superlink.address}/v1/fleet/pull-messages",
        content=b"",
        headers={"content-type": "application/x-protobuf"},
        verify=context,
        trust_env=False,
    )
    assert answer.status_code in (400, 401, 415), answer.text


def test_the_log_settings_are_uvicorns() -> None:
    settings = log_settings()
    assert settings["version"] == 1
    assert "uvicorn.error" in settings["loggers"]
