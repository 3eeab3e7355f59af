"""One association with another DICOM system, plain or over TLS (PS3.15 Annex B), and what each side shows of itself."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_model.core.errors import FedKT3DError, InputError

SECONDS = 60.0
_AE_TITLE_LENGTH = 16  # PS3.8 section 9.3.2


def check_title(title: str) -> None:
    """Raises InputError unless ``title`` is an AE title (PS3.5 section 6.2, VR AE)."""
    plain = title.isascii() and title.isprintable() and "\\" not in title
    if not title.strip() or len(title) > _AE_TITLE_LENGTH or not plain:
        raise InputError(f"AE title {title!r}: expected 1 to {_AE_TITLE_LENGTH} plain characters")


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files in PEM: the authority that must have signed the other side's certificate, and this node's certificate and
    key. Both sides show a certificate."""

    ca: Path
    certificate: Path
    key: Path

    @classmethod
    def of(cls, ca: Path | None, certificate: Path | None, key: Path | None) -> Tls | None:
        """TLS where all three files are given, none where none is. Raises InputError for a part of them."""
        if ca is None and certificate is None and key is None:
            return None
        if ca is None or certificate is None or key is None:
            raise InputError("TLS: expected --tls-ca, --tls-cert and --tls-key together, or none of them")
        return cls(ca=ca, certificate=certificate, key=key)

    def context(self, *, server: bool = False) -> ssl.SSLContext:
        """A context for either side, TLS 1.2 or later; a caller also compares the peer's name with its certificate.

        Raises InputError for files that cannot be used, also for a key with a passphrase.
        """
        purpose = ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH
        try:
            context = ssl.create_default_context(purpose, cafile=str(self.ca))
        except OSError as error:
            raise InputError(
                f"--tls-ca {self.ca}: cannot be used ({_what(error)}); expected certificates (PEM)"
            ) from None
        try:  # without a passphrase of ours, OpenSSL would ask for one on the terminal
            context.load_cert_chain(self.certificate, self.key, password="")
        except (OSError, ValueError) as error:
            raise InputError(
                f"--tls-cert {self.certificate}, --tls-key {self.key}: cannot be used ({_what(error)}); expected a"
                " certificate and its own private key without a passphrase (PEM)"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        return context


def _what(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return error.reason or "no PEM"
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The system at the other end, this node's own AE title, and TLS if both speak it. InputError for a wrong title."""

    ae_title: str
    host: str
    port: int
    own_title: str = "FEDKT3D"
    tls: Tls | None = None

    def __post_init__(self) -> None:
        check_title(self.ae_title)
        check_title(self.own_title)

    @classmethod
    def parse(cls, text: str, own_title: str = "FEDKT3D", tls: Tls | None = None, *, option: str = "--to") -> Peer:
        """Read AE@HOST:PORT. Raises InputError naming the ``option`` that it came from."""
        title, _, address = text.partition("@")
        host, _, port = address.rpartition(":")
        if not title or not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(f"{option} {text}: expected AE@HOST:PORT, such as TPS@10.0.0.5:104")
        return cls(ae_title=title, host=host, port=int(port), own_title=own_title, tls=tls)


@contextmanager
def associated(peer: Peer, contexts: Sequence[str], what: str, seconds: float = SECONDS) -> Iterator[Any]:
    """An association for the SOP classes ``contexts``, released at the end, aborted after an error.

    ``what`` begins the errors; an answer may take ``seconds``. Raises InputError without pynetdicom, FedKT3DError if
    the peer cannot be reached, refuses this node or a SOP class, or ends the association too early.
    """
    try:
        from pynetdicom import AE
    except ImportError as error:
        raise InputError(f"{what}: pynetdicom is not installed; pip install 'fedkt3d[intake]'") from error
    entity = AE(ae_title=peer.own_title)
    entity.acse_timeout = entity.connection_timeout = SECONDS
    entity.dimse_timeout = entity.network_timeout = seconds
    for context in contexts:
        entity.add_requested_context(context)
    tls = None if peer.tls is None else (peer.tls.context(), peer.host)
    link = entity.associate(peer.host, peer.port, ae_title=peer.ae_title, tls_args=tls)
    if not link.is_established:
        raise FedKT3DError(f"{what}: {peer.host}:{peer.port} {_refusal(link, peer)}")
    try:
        if {context.abstract_syntax for context in link.accepted_contexts} < set(contexts):
            raise FedKT3DError(f"{what}: {peer.host}:{peer.port} does not offer this service to {peer.own_title}")
        yield link
    except BaseException as error:
        lost = not link.is_established
        link.abort()
        if lost and isinstance(error, RuntimeError):  # pynetdicom's word for a peer that has hung up
            raise FedKT3DError(f"{what}: {peer.host}:{peer.port} ended the connection too early; try again") from None
        raise
    link.release()


def _refusal(link: Any, peer: Peer) -> str:
    """What is known of why there is no association."""
    if link.is_rejected:
        return f"refuses us as {peer.own_title}; is it allowed there, and is {peer.ae_title} its own AE title?"
    secure = (
        "do both sides speak TLS, and is each certificate of the other's authority and the peer's of its host name?"
        if peer.tls is not None
        else "is it running there, and does it speak without TLS?"
    )
    return f"does not answer us as {peer.own_title}; {secure}"
