"""Which message of secure aggregation goes with which kind of request and answer, and the record that holds it.

A record holds the message's one binary form (privacy/secagg/layout.py) under one key. A request of MASKED_KINDS
may hold an ``Inbox``. Then the array in the answer is masked.
"""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import ConfigRecord, RecordDict

from privacy.secagg.context import SumTerms
from privacy.secagg.layout import Packed
from privacy.secagg.messages import (
    Advert,
    Adverts,
    Complaint,
    Confirmation,
    Confirmations,
    Deal,
    Inbox,
    Masked,
    Reveal,
    Survivors,
)
from shared_model.core.fields import MessageError

_KEY = "message"
# Kinds that only serve secure aggregation, in the order of the protocol.
SECURE_KINDS = ("secure_keys", "secure_shares", "secure_confirm", "secure_reveal")
# Kinds whose answer may be masked.
MASKED_KINDS = ("train", "evaluate", "statistics")

ASKED: Mapping[str, type[Packed]] = {
    **dict(zip(SECURE_KINDS, (SumTerms, Adverts, Survivors, Confirmations), strict=True)),
    **dict.fromkeys(MASKED_KINDS, Inbox),
}
ANSWERED: Mapping[str, type[Packed]] = {
    **dict(zip(SECURE_KINDS, (Advert, Deal, Confirmation, Reveal), strict=True)),
    **dict.fromkeys(MASKED_KINDS, Masked),
}

_REFUSED: Mapping[str, type[Packed]] = {"refusal": Complaint}


def pack_secure(message: Packed, kinds: Mapping[str, type[Packed]], kind: str) -> ConfigRecord:
    """Pack a message of ``kind``; MessageError ("schema") for a message of another kind."""
    if type(message) is not kinds.get(kind):
        raise MessageError("schema", f"secure aggregation: a {kind} request or answer holds another message")
    return ConfigRecord({_KEY: message.to_bytes()})


def unpack_secure(record: ConfigRecord, kinds: Mapping[str, type[Packed]], kind: str) -> Packed:
    """Read a message of ``kind``, strictly; MessageError ("schema")."""
    data = record.get(_KEY)
    if len(record) != 1 or type(data) is not bytes or kind not in kinds:
        raise MessageError("schema", "secure aggregation: expected one message in bytes")
    return kinds[kind].from_bytes(data)


def pack_complaint(message: Packed) -> ConfigRecord:
    """Pack the signed complaint of a refusal."""
    return pack_secure(message, _REFUSED, "refusal")


def unpack_complaint(record: ConfigRecord) -> Packed:
    """Read the signed complaint of a refusal, strictly; MessageError ("schema")."""
    return unpack_secure(record, _REFUSED, "refusal")


def asked_round(message: Packed) -> int:
    """Return the round that a coordinator's message is for."""
    if not isinstance(message, SumTerms | Adverts | Inbox | Survivors | Confirmations):
        raise MessageError("schema", "secure aggregation: expected a message from the coordinator")
    return message.round


def with_secure(content: RecordDict, kind: str, message: Packed) -> RecordDict:
    """Return a copy of a request of ``kind`` with another message. The two share every other record."""
    return RecordDict({**content, "secure": pack_secure(message, ASKED, kind)})
