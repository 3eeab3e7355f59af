"""The consortium's X.509: its CA, the coordinator's TLS and document certificates, the sites' identity certificates.

CA and TLS use P-384 keys. Ed25519 keys sign documents. Certificates follow RFC 5280. Key usage and key identifiers are
set so that strict verifiers (Python 3.13's VERIFY_X509_STRICT) accept them. The CA issues every other certificate
directly, so a chain is one step long.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.trust.signed import private_key
from shared_model.core.errors import InputError

AUTHORITY_DAYS = 3650
SERVER_DAYS = 397  # the longest life of a leaf certificate that browsers and strict clients accept
SITE_DAYS = 90
DOCUMENT_DAYS = 730
CLOCK_SKEW = dt.timedelta(minutes=5)  # a site whose clock is a little behind must accept a new certificate
DOCUMENTS = "FedKT3D documents"  # name of the key that signs rosters and plans; a site's name never has a blank

_PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


def new_authority(consortium: str) -> tuple[bytes, bytes]:
    """Return (private key, certificate), both PEM, of a new certificate authority on P-384 named `consortium`."""
    key = ec.generate_private_key(ec.SECP384R1())
    name = _name(consortium)
    builder = _certificate(name, name, key.public_key(), AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _private_pem(key), _pem(builder.sign(key, hashes.SHA384()))


def issue_server_certificate(
    authority_key: bytes, authority_certificate: bytes, hosts: Sequence[str]
) -> tuple[bytes, bytes]:
    """Return (private key, certificate), both PEM, of a TLS server that answers to every name or IP in `hosts`.

    `authority_key` and `authority_certificate` are the PEM pair of `new_authority`. The subject alternative names
    always include loopback, because the coordinator's own tools connect there. InputError when a host is neither an IP
    address nor an ASCII host name, or when the key is not the authority's.
    """
    names = list(dict.fromkeys([*hosts, "127.0.0.1", "localhost"]))
    key = ec.generate_private_key(ec.SECP384R1())
    alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
    extra = [alternatives, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]
    certificate = _issue(
        authority_key, authority_certificate, "FedKT3D coordinator", key.public_key(), SERVER_DAYS, extra
    )
    return _private_pem(key), certificate


def server_hosts(certificate: bytes) -> list[str]:
    """Return the names and IPs that a TLS server's certificate (PEM) covers, in the certificate's order."""
    try:
        found = _read(certificate, "TLS certificate").extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound as error:
        raise InputError("TLS certificate: names no host; expected a certificate made by `server init`") from error
    return [str(name.value) for name in found.value]


def issue_document_certificate(authority_key: bytes, authority_certificate: bytes) -> tuple[bytes, bytes]:
    """Return (private key, certificate), both PEM, of the Ed25519 key that signs the consortium's documents.

    It is valid for DOCUMENT_DAYS; ``server rotate`` makes the next one (privacy/trust/document_keys.py).
    """
    key = new_signing_key()
    public = private_key(key).public_key()
    return key, _issue(authority_key, authority_certificate, DOCUMENTS, public, DOCUMENT_DAYS)


def issue_site_certificate(
    authority_key: bytes, authority_certificate: bytes, site: str, public_key: ed25519.Ed25519PublicKey
) -> bytes:
    """Return the PEM certificate that binds `public_key` to the name `site` for SITE_DAYS."""
    return _issue(authority_key, authority_certificate, site, public_key, SITE_DAYS)


def new_signing_key() -> bytes:
    """Return a new Ed25519 private key (PKCS8 PEM)."""
    return _private_pem(ed25519.Ed25519PrivateKey.generate())


def certificate_request(key_pem: bytes, site: str) -> bytes:
    """Return the PKCS10 request (PEM) of the Ed25519 key for the name `site`."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_name(site)).sign(private_key(key_pem), None)
    return request.public_bytes(serialization.Encoding.PEM)


def read_certificate_request(content: bytes, site: str) -> ed25519.Ed25519PublicKey:
    """Return a PKCS10 request's (PEM) public key; InputError unless its own key signed it and it names `site`."""
    try:
        request = x509.load_pem_x509_csr(content)
        public_key = request.public_key()
        whole = request.is_signature_valid and request.subject == _name(site)
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise InputError("certificate request: expected PKCS10 in PEM, made by `client init`") from error
    if not whole or not isinstance(public_key, ed25519.Ed25519PublicKey):
        raise InputError(f"certificate request: expected an Ed25519 key and its signature for the name {site}")
    return public_key


def check_authority(content: bytes) -> bytes:
    """Return a CA certificate as canonical PEM; InputError when it is not a CA certificate or not valid today."""
    if b"PRIVATE KEY" in content:
        raise InputError("holds a private key; expected only the consortium's CA certificate")
    certificate = _read(content, "CA certificate")
    try:
        is_authority = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise InputError("this is not a CA certificate; expected the consortium's CA certificate") from error
    if not is_authority:
        raise InputError("this is not a CA certificate; expected the consortium's CA certificate")
    check_dates(content, "CA certificate")
    return _pem(certificate)


def check_issued(
    content: bytes, authority_certificate: bytes, name: str, *, dated: bool = True
) -> ed25519.Ed25519PublicKey:
    """Return the Ed25519 key that the CA certified for `name`; InputError unless the CA itself did, valid today.

    Without `dated` its dates are not looked at.
    """
    certificate = _read(content, f"certificate of {name}")
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_certificate))
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InputError(f"certificate of {name}: not issued by this consortium's CA") from error
    public_key = certificate.public_key()
    if certificate.subject != _name(name) or not isinstance(public_key, ed25519.Ed25519PublicKey):
        raise InputError(f"certificate of {name}: it is for another name or another kind of key")
    if dated:
        check_dates(content, f"certificate of {name}")
    return public_key


def check_dates(content: bytes, what: str) -> None:
    """Raise InputError when the certificate (PEM) is not valid today. ``what`` names it in the error."""
    certificate = _read(content, what)
    now = dt.datetime.now(dt.UTC)
    if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
        raise InputError(f"{what}: not valid today; check the clock or ask the coordinator for a new one")


def begins(content: bytes) -> dt.datetime:
    """Return from when on a certificate (PEM) is valid, in UTC."""
    return _read(content, "certificate").not_valid_before_utc


def expires(content: bytes) -> dt.datetime:
    """Return when a certificate (PEM) expires, in UTC."""
    return _read(content, "certificate").not_valid_after_utc


def certificate_fingerprint(content: bytes) -> str:
    """Return the SHA-256 of a certificate's DER form, in hex."""
    return _read(content, "certificate").fingerprint(hashes.SHA256()).hex()


def consortium_id(authority_certificate: bytes) -> str:
    """Return the 32 hex digits that name a consortium: the start of its CA certificate's SHA-256."""
    return certificate_fingerprint(authority_certificate)[:32]


def _issue(
    authority_key: bytes,
    authority_certificate: bytes,
    name: str,
    public_key: _PublicKey,
    days: int,
    extra: Sequence[x509.ExtensionType] = (),
) -> bytes:
    issuer = x509.load_pem_x509_certificate(authority_certificate)
    try:
        key = serialization.load_pem_private_key(authority_key, password=None)
    except (ValueError, TypeError):
        key = None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != issuer.public_key():
        raise InputError("the CA's key: expected the PEM key that belongs to this consortium's CA certificate")
    builder = _certificate(_name(name), issuer.subject, public_key, days)
    for extension in extra:
        builder = builder.add_extension(extension, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False
    )
    return _pem(builder.sign(key, hashes.SHA384()))


def _certificate(subject: x509.Name, issuer: x509.Name, public_key: _PublicKey, days: int) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - CLOCK_SKEW).not_valid_after(now + dt.timedelta(days=days))
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _read(content: bytes, what: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise InputError(f"{what}: expected one certificate in PEM") from error


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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _private_pem(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
