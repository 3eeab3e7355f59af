"""Fixed binary layouts for the messages of secure aggregation. Each value has one form; any other form is refused.

A message is one tag byte and then its fields in order, big-endian, with nothing before, between or after them. Reading
raises MessageError. Its text quotes nothing from the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

from shared_model.core.fields import MessageError

MAX_BYTES = 16_000_000
SIGNATURE_BYTES = 64


class Reader:
    """Takes bytes off the front of a message."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes."""
        end = self._at + count
        if end > len(self._data):
            raise MessageError("schema", "secure aggregation: a message is too short")
        part = self._data[self._at : end]
        self._at = end
        return part

    def end(self) -> None:
        """Refuse what is left over."""
        if self._at != len(self._data):
            raise MessageError("schema", "secure aggregation: a message is too long")


class Field(Protocol):
    """How one value is written in a message."""

    def write(self, value: Any) -> bytes:
        """Return the value's bytes; MessageError when the value does not fit."""
        ...

    def read(self, source: Reader) -> Any:
        """Read the value from the message."""
        ...


@dataclass(frozen=True)
class Number:
    """An unsigned integer of ``size`` bytes."""

    size: int

    def write(self, value: int) -> bytes:
        """Return the number in big-endian bytes."""
        if type(value) is not int or not 0 <= value < 1 << 8 * self.size:
            raise MessageError("schema", f"secure aggregation: expected a whole number of {self.size} bytes")
        return value.to_bytes(self.size, "big")

    def read(self, source: Reader) -> int:
        """Read the number."""
        return int.from_bytes(source.take(self.size), "big")


@dataclass(frozen=True)
class Raw:
    """Exactly ``size`` bytes."""

    size: int

    def write(self, value: bytes) -> bytes:
        """Return them."""
        if type(value) is not bytes or len(value) != self.size:
            raise MessageError("schema", f"secure aggregation: expected {self.size} bytes")
        return value

    def read(self, source: Reader) -> bytes:
        """Take them off."""
        return source.take(self.size)


@dataclass(frozen=True)
class BytesField:
    """At most ``longest`` bytes, preceded by their count."""

    longest: int

    def write(self, value: bytes) -> bytes:
        """Return count and bytes."""
        if type(value) is not bytes or len(value) > self.longest:
            raise MessageError("schema", f"secure aggregation: expected at most {self.longest} bytes")
        return len(value).to_bytes(4, "big") + value

    def read(self, source: Reader) -> bytes:
        """Take them off."""
        count = int.from_bytes(source.take(4), "big")
        if count > self.longest:
            raise MessageError("schema", f"secure aggregation: expected at most {self.longest} bytes")
        return source.take(count)


@dataclass(frozen=True)
class Many:
    """A tuple of one to ``most`` values."""

    item: Field
    most: int

    def write(self, value: tuple[Any, ...]) -> bytes:
        """Return count and values."""
        _check_count(len(value), self.most)
        return len(value).to_bytes(2, "big") + b"".join(map(self.item.write, value))

    def read(self, source: Reader) -> tuple[Any, ...]:
        """Take them off."""
        count = int.from_bytes(source.take(2), "big")
        _check_count(count, self.most)
        return tuple(self.item.read(source) for _ in range(count))


@dataclass(frozen=True)
class BySite:
    """A mapping from sites' indices (ascending, each once) to values, of one to ``most`` entries."""

    item: Field
    most: int

    def write(self, value: Mapping[int, Any]) -> bytes:
        """Return count, indices and values."""
        _check_count(len(value), self.most)
        parts = [_SITE.write(site) + self.item.write(value[site]) for site in sorted(value)]
        return len(value).to_bytes(2, "big") + b"".join(parts)

    def read(self, source: Reader) -> dict[int, Any]:
        """Take them off."""
        count = int.from_bytes(source.take(2), "big")
        _check_count(count, self.most)
        values: dict[int, Any] = {}
        last = -1
        for _ in range(count):
            site = _SITE.read(source)
            if site <= last:
                raise MessageError("schema", "secure aggregation: sites must be in order, each only once")
            values[site] = self.item.read(source)
            last = site
        return values


_SITE = Number(2)


def _check_count(count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise MessageError("schema", f"secure aggregation: expected 1 to {most} entries")


class Packed:
    """A message that is a frozen dataclass with the fields of ``LAYOUT``, in that order."""

    TAG: ClassVar[int]
    LAYOUT: ClassVar[Mapping[str, Field]]

    def to_bytes(self) -> bytes:
        """Return the message's one form; MessageError when a value does not fit."""
        return bytes([self.TAG]) + b"".join(field.write(getattr(self, name)) for name, field in self.LAYOUT.items())

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a message of this kind; MessageError for any other bytes."""
        if type(data) is not bytes or len(data) > MAX_BYTES:
            raise MessageError("schema", f"secure aggregation: expected a message of at most {MAX_BYTES} bytes")
        source = Reader(data)
        if source.take(1) != bytes([cls.TAG]):
            raise MessageError("schema", "secure aggregation: the message is of another kind")
        values = {name: field.read(source) for name, field in cls.LAYOUT.items()}
        source.end()
        return cls(**values)


class SignedPacked(Packed):
    """A message whose last field is its sender's Ed25519 signature over all fields before it."""

    def body_to_sign(self) -> bytes:
        """Return the bytes that the signature covers, in addition to label and context."""
        return self.to_bytes()[:-SIGNATURE_BYTES]
