"""Flower's own logger: it writes to standard error through a handler of its own."""

from __future__ import annotations

import logging

from flwr.supercore.logger import LOGGER_NAME


def silence_flowers_handler() -> None:
    """Take Flower's handler off, where the root logger's handler would write each of its lines a second time."""
    logging.getLogger(LOGGER_NAME).handlers.clear()
