"""What a site never sends, as `client predict` uses it: its scorecard and its private adapter."""

from __future__ import annotations

from pathlib import Path

from client.adapters.adopt import SHARED_FILE, adapters_folder, own_card
from client.adapters.align import PRIVATE_FILE
from client.prediction.predict import Build, build_shared
from client.prediction.preferred import CardOf
from client.site.home import ClientHome
from shared_model.adapter.manifest import load_adapter, vector_hash
from shared_model.adapter.private import PrivateAdapter, aligned_policy
from shared_model.base.model import DoseModel
from shared_model.bundled import DEFAULT_ADAPTER
from shared_model.core.errors import InputError
from shared_model.core.vector import Vector
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case
from shared_model.scoring.bound import BoundCard
from shared_model.scoring.scorecard_read import read_scorecard


def preferring(card: Path) -> CardOf:
    """Make a function that binds a scorecard to a case; InputError names the scorecard's wrong line."""
    read = read_scorecard(card)

    def of(case: Case) -> BoundCard:
        return read.bind(case)

    return of


def model_with(private: Path | None) -> Build:
    """Make a function that builds the shared model, with the private adapter over it if one is given.

    The function raises InputError if the private adapter was made for another shared adapter.
    """
    if private is None:
        return build_shared
    adapter = PrivateAdapter.load(private)

    def build(spec: ModelSpec, vector: Vector) -> tuple[DoseModel, ModelSpec]:
        policy = aligned_policy(spec, vector, adapter)
        return policy.model, policy.spec

    return build


def adapter_in_use(home: ClientHome | None, asked: Path | None) -> Path:
    """Return the given adapter, else the one that the home has adopted, else the bundled one."""
    if asked is not None or home is None:
        return asked or DEFAULT_ADAPTER
    adopted = adapters_folder(home) / SHARED_FILE
    return adopted if adopted.is_file() else DEFAULT_ADAPTER


def private_in_use(home: ClientHome | None, adapter: Path, asked: Path | None) -> Path | None:
    """Return the given private adapter, else the home's own one that was made for ``adapter``, else None."""
    if asked is not None or home is None:
        return asked
    own = home.private_adapters / vector_hash(load_adapter(adapter)[1])[:16] / PRIVATE_FILE
    return own if own.is_file() else None


def card_in_use(home: ClientHome | None, asked: Path | None) -> Path:
    """Return the given scorecard, else the home's own; InputError if there is neither."""
    card = asked if asked is not None else own_card(home) if home is not None else None
    if card is None or not card.is_file():
        raise InputError(
            "predict: --steer and --best-of need --scorecard CARD, or --home of a site with a scorecard.yaml"
        )
    return card
