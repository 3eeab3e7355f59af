"""`simulate run engine=ray address=HOST:PORT` on a real cluster of this machine."""

import importlib.util
import socket
import sys
from pathlib import Path

import pytest
from flwr.clientapp import ClientApp

from shared_model.core.errors import InputError
from simulations import cli
from simulations.engine.run import run_ray
from simulations.reports.tables import read_summary
from tests.builders.ray_cluster import answers, ray_cluster

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
TINY = [
    "model.network=transformer", "model.prior=none", "model.shape=[16,16,16]", "rounds.count=1", "train.local_steps=1",
    "train.batch_size=1", "data.sites=2", "data.patients=2", "data.root=data", "workers=1", "privacy.mode=none",
]  # fmt: skip


def simulate(monkeypatch: pytest.MonkeyPatch, *more: str) -> int:
    """`simulate run`, as its console script calls it."""
    monkeypatch.setattr(sys, "argv", ["simulate", "run", *TINY, *more])
    return cli.main()


def adapter(out: Path) -> object:
    return read_summary(out / "summary.json")["studies"]["federated"]["adapter_sha256"]


def test_the_command_on_a_cluster_ends_with_the_adapter_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths are relative, and the cluster works in another folder."""
    monkeypatch.chdir(tmp_path)
    assert simulate(monkeypatch, "out=local") == 0
    with ray_cluster() as address:
        assert simulate(monkeypatch, "out=ray", "engine=ray", f"address={address}") == 0
        assert answers(address), "the cluster outlives the run"
    assert adapter(tmp_path / "ray") == adapter(tmp_path / "local")
    assert not answers(address)


def test_where_no_cluster_answers_the_address_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:  # takes connections and says nothing
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"address={address}: no Ray cluster answers.*ray start --head"):
            run_ray(ClientApp(), lambda grid, context: None, [{}], {}, address=address)
