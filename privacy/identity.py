"""Keys and certificates: the consortium's CA, the coordinator's TLS certificate, a site's Flower node key, secrets.

A private key is written once, by O_EXCL with mode 0600, and never leaves the folder of the role that made it: a site
makes its own node key and hands over the public half alone. Certificates follow RFC 5280; key usage and the key
identifiers are set so that strict verifiers (Python 3.13's VERIFY_X509_STRICT) accept them.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from shared_model.errors import InputError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # what browsers and strict clients accept at most for a leaf
SECRET_BYTES = 32
CLOCK_SKEW = dt.timedelta(minutes=5)  # a site whose clock lags a little must accept a new certificate


def write_private(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 and write `content`; InputError when it exists (never overwritten)."""
    _create(path, content, 0o600)


def write_public(path: Path, content: bytes) -> None:
    """Create `path` with mode 0644 and write `content`; InputError when it exists (never overwritten)."""
    _create(path, content, 0o644)


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise InputError(f"{path}: exists already; keys and certificates are never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)  # whatever the umask says
        file.write(content)
        file.flush()
        os.fsync(descriptor)


def new_secret() -> bytes:
    """Return a fresh secret as 64 lower-case hex digits (256 bits of the operating system's randomness)."""
    return secrets.token_hex(SECRET_BYTES).encode("ascii")


def new_authority(consortium: str) -> tuple[bytes, bytes]:
    """Return (private key, certificate), both PEM, of a new certificate authority on P-384 named `consortium`."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, consortium)])
    builder = _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _private_pem(key), builder.sign(key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def issue_server_certificate(
    authority_key: bytes, authority_certificate: bytes, hosts: Sequence[str]
) -> tuple[bytes, bytes]:
    """Return (private key, certificate), both PEM, of a TLS server that answers to every name or IP in `hosts`.

    `authority_key` and `authority_certificate` are the PEM pair of `new_authority`. Loopback is always among the
    subject alternative names, since the coordinator's own tools connect there. InputError on a host that is neither
    an IP address nor an ASCII host name.
    """
    issuer_key = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise InputError("the authority's key: expected an elliptic-curve key in PEM")
    issuer = x509.load_pem_x509_certificate(authority_certificate)
    names = list(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "FedKT3D coordinator")])
    builder = _certificate(subject, issuer.subject, key.public_key(), SERVER_DAYS)
    builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
    )
    return _private_pem(key), builder.sign(issuer_key, hashes.SHA384()).public_bytes(serialization.Encoding.PEM)


def new_node_key() -> tuple[bytes, bytes]:
    """Return (private, public) of a new Flower node key: P-384 in OpenSSH form, as SuperNode and SuperLink read it."""
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public + b"\n"


def read_node_public_key(path: Path) -> bytes:
    """Return the site's public key at `path` in canonical OpenSSH form, comment dropped.

    InputError when the file is missing, holds a private key, or is no P-384 public key.
    """
    content = read_input(path)
    if b"PRIVATE KEY" in content:
        raise InputError(f"{path}: this is a private key; send only the .pub file, and make the site a new key")
    try:
        key = serialization.load_ssh_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: expected an OpenSSH public key (ecdsa-sha2-nistp384 ...)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise InputError(f"{path}: expected a P-384 key (ecdsa-sha2-nistp384), as `client init` makes it")
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def read_authority(path: Path) -> bytes:
    """Return the PEM of the CA certificate at `path`; InputError when it is no CA certificate or out of date."""
    content = read_input(path)
    if b"PRIVATE KEY" in content:
        raise InputError(f"{path}: holds a private key; expected the consortium's CA certificate alone")
    try:
        certificate = x509.load_pem_x509_certificate(content)
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InputError(f"{path}: expected the consortium's CA certificate in PEM") from error
    if not is_authority:
        raise InputError(f"{path}: this certificate is no CA; expected the ca.crt that the coordinator sent")
    now = dt.datetime.now(dt.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise InputError(f"{path}: the CA certificate is not valid today; check the clock or ask for a new one")
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_input(path: Path) -> bytes:
    """Return the bytes of a file that a user named; InputError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error


def _certificate(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + dt.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not host.isascii() or not host.replace("-", "").replace(".", "").isalnum():
        raise InputError(f"host {host!r}: expected an IP address or a host name")
    return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
