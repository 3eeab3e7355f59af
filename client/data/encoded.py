"""A patient as the model sees them, kept on the site's own disk where that saves time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from client.data.channel_cache import cached_patient
from client.data.latent_cache import encode_case
from shared_model.channels.organs import as_inputs
from shared_model.forms.interface import form_of
from shared_model.network.spec import ModelSpec
from shared_model.patient.case import Case, Volume


def encoded(case: Case, spec: ModelSpec, cache: Path | None, base_gy: Volume | None = None) -> Any:
    """The case encoded by the form of ``spec``. Without a ``cache`` nothing is kept. ``base_gy``: its base dose."""
    if spec.network == "transformer":
        return encode_case(case, spec, cache, base_gy)
    if cache is None:
        return form_of(spec).encode(case)
    return cached_patient(as_inputs(case, spec.body_site), cache / "channels")


def encoded_sides(case: Case, spec: ModelSpec, cache: Path | None, base_gy: Volume | None = None) -> tuple[Any, ...]:
    """The case encoded once for each view that the form encodes apart, such as its mirror image."""
    return tuple(encoded(side, spec, cache, base) for side, base in form_of(spec).sides(case, base_gy))
