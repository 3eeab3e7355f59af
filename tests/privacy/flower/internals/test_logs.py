"""Flower's logger in a process whose root logger has a handler."""

import subprocess
import sys

PROGRAM = """
import logging, sys
from privacy.flower.internals.logs import silence_flowers_handler

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
if sys.argv[1:]:
    silence_flowers_handler()
logging.getLogger("flwr").info("a line of Flower's")
"""


def test_a_line_of_flowers_is_written_once() -> None:
    both = [
        subprocess.run([sys.executable, "-c", PROGRAM, *more], capture_output=True, text=True, check=True)
        for more in ([], ["silence"])
    ]
    counts = [(done.stdout + done.stderr).count("a line of Flower's") for done in both]
    assert counts == [2, 1]
