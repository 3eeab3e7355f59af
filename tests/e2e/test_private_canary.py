"""A site adopts, aligns to its own scorecard, and goes on training: nothing of the private adapter is on the wire.

All that two sites and the coordinator say to each other goes through a proxy that holds the coordinator's key, so the
search is over every byte in the clear. That the shared vector is found there shows that the search works.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from shared_model.adapter.manifest import initial_vector, load_adapter
from tests.builders.phantom_patients import write_site
from tests.e2e.deployment import Deployment
from tests.e2e.wiretap import Wiretap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

SMALL = (
    "privacy.mode=none",
    "model.prior=none",
    "model.network=transformer",
    "model.shape=[16,16,16]",
    "train.local_steps=2",
    "train.batch_size=1",
    "evaluate.sampler_steps=1",
    "rounds.wait_for_sites_s=120",
    "rounds.deadline_s=240",
)
CARD = """\
schema: rt-scorecard/2
name: canary
version: "1"
metrics:
  - {id: d95, structure: PTV_High, metric: D95%, unit: Gy, direction: higher, weight: 1, points: [[0, 0], [70, 1]]}
"""
PIECE = 24


def pieces(content: bytes, count: int) -> Iterator[bytes]:
    """Some stretches of PIECE bytes, spread over the content."""
    last = len(content) - PIECE
    yield from (
        content[start : start + PIECE] for start in np.linspace(0, last, min(count, last + 1)).astype(int) // 4 * 4
    )


def disguises(weights: torch.Tensor) -> Iterator[bytes]:
    """The weights as any of our code could write them: plain, halved, negated, in base64 or hex."""
    flat = weights.flatten()
    for plain in (flat.numpy().tobytes(), (-flat).numpy().tobytes(), flat.half().numpy().tobytes()):
        yield plain
        yield base64.b64encode(plain)
        yield plain.hex().encode()
    yield flat.bfloat16().view(torch.int16).numpy().tobytes()


def found(heard: bytes, wanted: list[bytes]) -> set[bytes]:
    """Which of the pieces are there, at any place: eight bytes are compared at once, then the rest."""
    starts = np.unique(np.frombuffer(b"".join(piece[:8] for piece in wanted), dtype="<u8"))
    there: set[bytes] = set()
    for offset in range(8):
        words = np.frombuffer(heard, dtype="<u8", offset=offset, count=(len(heard) - offset) // 8)
        for place in np.flatnonzero(np.isin(words, starts)):
            at = offset + 8 * int(place)
            there.add(heard[at : at + PIECE])
    return there & set(wanted)


def test_the_search_finds_what_is_there() -> None:
    random = np.random.RandomState(0).bytes(10_000)
    assert found(random, [random[17 : 17 + PIECE], bytes(range(PIECE))]) == {random[17 : 17 + PIECE]}


def test_nothing_private_is_on_the_wire(tmp_path: Path) -> None:
    deployment = Deployment(tmp_path)
    try:
        deployment.start_coordinator()
        home = deployment.home
        tap = Wiretap(home / "tls" / "server.key", home / "tls" / "server.crt", deployment.ca, deployment.port)
        with tap:
            for name in ("north", "south"):
                cases = tmp_path / f"cases-{name}"
                config = tmp_path / f"{name}.yaml"
                replace(write_site(cases), site=name, threads=1).save(config)
                deployment.admit(name, deployment.make_site(name, config))
                path = deployment.site(name) / "client.json"
                record = json.loads(path.read_text())
                assert record["server"].endswith(f":{deployment.port}")
                path.write_text(json.dumps({**record, "server": f"127.0.0.1:{tap.port}"}))
                deployment.spawn("client", deployment.site(name))
            first = deployment.run("name=first", "rounds.count=1", *SMALL, timeout_s=300)
            card = tmp_path / "card.yaml"
            card.write_text(CARD)
            # The adapter is hardly trained: the margins of a first adoption are opened wide.
            adopted = json.loads(
                deployment.must(
                    "client", "adopt", first["adapter"], "--home", deployment.site("north"), "--scorecard", card,
                    "--json", "--margin", "first_dose_score_gy=100", "--margin", "first_dvh_score_gy=100",
                    "--set", "epochs=1", "--set", "candidates=2", "--set", "lr=0.01", timeout_s=300,
                )
            )  # fmt: skip
            assert adopted["acceptance"]["accepted"]
            assert set(adopted["align"]) == {"before", "after", "per_criterion"}
            deployment.run("name=second", "rounds.count=1", *SMALL, timeout_s=300)
            heard = tap.heard
    finally:
        deployment.close()
    spec, _, _ = load_adapter(Path(first["adapter"]))
    shared = list(pieces(initial_vector(spec).tobytes(), 50))
    assert len(found(heard, shared)) > 40
    (private,) = (deployment.site("north") / "private").rglob("private.safetensors")
    weights = load_file(private).values()
    secret = [piece for one in weights for content in disguises(one) for piece in pieces(content, 8)]
    # Stretches of one repeated value, such as zeros, say nothing.
    secret = [piece for piece in secret if len(set(piece)) > 4]
    assert len(secret) > 500
    assert found(heard, secret) == set()
