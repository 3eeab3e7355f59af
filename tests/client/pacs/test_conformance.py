"""The conformance statement says what the code does: SOP classes, titles, time limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from client.pacs import link, pull, receive, retrieve
from client.pacs.receive import Intake, Receiver

pynetdicom = pytest.importorskip("pynetdicom", reason="pynetdicom is not installed (pip install 'fedkt3d[intake]')")

TEXT = (Path(__file__).parents[3] / "docs" / "conformance.md").read_text(encoding="utf-8")


def test_every_sop_class_is_named_and_no_other(tmp_path: Path) -> None:
    named = set(re.findall(r"1\.2\.840\.10008\.(?:1\.1\b|5[.\d]+)", TEXT))
    assert named == {"1.2.840.10008.1.1", *receive.KINDS, retrieve.FIND, retrieve.MOVE}
    with Receiver(Intake(folder=tmp_path, allowed=("TPS",), port=0)) as receiver:
        offered = {context.abstract_syntax for context in receiver._server.ae.supported_contexts}
    assert offered == {"1.2.840.10008.1.1", *receive.KINDS}


def test_the_node_is_described_as_it_is() -> None:
    entity = pynetdicom.AE()
    assert f"{entity.maximum_pdu_size:,} bytes" in TEXT
    assert f"{entity.implementation_class_uid}, {entity.implementation_version_name}" in TEXT
    assert f"{entity.maximum_associations} (as provider)" in TEXT
    limits = (link.SECONDS, retrieve.SECONDS, pull.TIMEOUT_S)
    assert "answers {:g} s (`send`), `--timeout` (`retrieve` {:g} s, `pull` {:g} s)".format(*limits) in TEXT
