"""The words of the key ``device``, for readers of settings that do without torch (network/device.py chooses)."""

from __future__ import annotations

import re

DEVICE_WORD = re.compile(r"auto|cpu|mps|cuda(:\d{1,3}(,\d{1,3})*)?")
DEVICES = "auto, cpu, mps, cuda, cuda:N or cuda:N,M"


def is_device_word(word: object) -> bool:
    """Whether ``word`` is one of DEVICES."""
    return isinstance(word, str) and DEVICE_WORD.fullmatch(word) is not None
