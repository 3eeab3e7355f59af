"""Flower's SuperLink as an ASGI application, for a server of ours to run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from flwr.supercore.http_logging import get_uvicorn_log_config
from flwr.supercore.logger import console_handler
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan, _parse_superlink_lifespan_config
from flwr.superlink.main import create_app

from privacy.flower.internals.superlink_speed import (
    count_no_traffic,
    look_for_lapsed_leases_at_times,
    store_large_parts,
    without_idle_layers,
)


def superlink_application(flags: Sequence[str]) -> FastAPI:
    """Return the SuperLink that ``flags`` describe. Flower's own parser is the one supported way to configure it.

    What costs most of a round and is not needed is switched off, in the whole process (superlink_speed.py).
    """
    sys.argv = ["flower-superlink", *flags]
    configuration = _parse_superlink_lifespan_config()
    store_large_parts()
    look_for_lapsed_leases_at_times()
    count_no_traffic()
    application = create_app(configuration, SuperLinkLifespan)
    without_idle_layers(application)
    return application


def log_settings() -> dict[str, Any]:
    """Return uvicorn's log configuration in Flower's format."""
    return get_uvicorn_log_config(console_handler.level)
