"""What the sites of a simulation log of their failures, with texts and tracebacks: all of them are this machine's.

At a hospital such a text may name a file or a case, so it stays there and the coordinator sees a code alone
(client/app.py). A researcher who sees "refused (data)" needs the text. Sites in processes of their own do not write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from client.node.site_log import SITE_LOGGER
from server.rounds.result import QuorumError


@contextmanager
def sites_log(path: Path) -> Iterator[None]:
    """Write what sites log to ``path``, which is made when the first of them fails. A QuorumError names the file."""
    handler = logging.FileHandler(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger(SITE_LOGGER)
    logger.addHandler(handler)
    try:
        yield
    except QuorumError as error:
        if not path.is_file():
            raise
        raise QuorumError(f"{error}; what the sites say of it: {path}") from error
    finally:
        logger.removeHandler(handler)
        handler.close()
