"""The way to the coordinator: does it answer, with the consortium's certificate, through which proxy, at what time.

All that is sent is a GET of ``/health``.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from email.utils import parsedate_to_datetime

import httpx
from cryptography import x509
from cryptography.x509.oid import NameOID

from client.node.status import CLOCK_LIMIT_S
from client.setup.findings import FAIL, OK, WARN, Finding
from client.site.config import SiteConfig
from client.site.home import ClientHome
from privacy.trust import identity
from shared_model.core.errors import InputError

REACH_S = 10.0


def coordinator(home: ClientHome) -> list[Finding]:
    """Check that the coordinator answers over TLS with the consortium's CA, and that the clocks agree."""
    proxy = _proxy(home)
    asked = datetime.now().timestamp()
    try:
        answer = _get(home, ssl.create_default_context(cafile=str(home.ca_certificate)), proxy)
    except (OSError, httpx.HTTPError) as error:
        found, todo = _explain(home, error, proxy)
        return [Finding(check="coordinator", state=FAIL, found=f"{home.server}: {found}", todo=todo)]
    took = datetime.now().timestamp() - asked
    state = OK if answer.status_code == httpx.codes.OK else WARN
    found = f"{home.server} answers in {took:.1f} s" + (" through the proxy" if proxy else "")
    found += "" if state == OK else f", with status {answer.status_code}"
    todo = "" if state == OK else "ask the coordinator whether `server start` runs"
    return [Finding(check="coordinator", state=state, found=found, todo=todo), _clock(answer, asked + took / 2)]


def _proxy(home: ClientHome) -> str:
    """Return the proxy of site.yaml; none where that file cannot be read, which is a finding of its own."""
    try:
        return SiteConfig.load(home.site_config).proxy
    except InputError:
        return ""


def _get(home: ClientHome, context: ssl.SSLContext, proxy: str) -> httpx.Response:
    return httpx.get(f"https://{home.server}/health", verify=context, timeout=REACH_S, proxy=proxy or None)


def _explain(home: ClientHome, error: Exception, proxy: str) -> tuple[str, str]:
    """Return what was found and what to do. It never holds the proxy's address, which may hold a password."""
    if isinstance(error, httpx.ProxyError):
        wants = "; it wants a name and a password" if "407" in str(error) else ""
        todo = "set `proxy: http://USER:PASSWORD@HOST:PORT` in site.yaml, or ask that it passes this address on"
        return f"the proxy refuses ({str(error)[:60]}){wants}", todo
    if "certificate" in str(error).lower():
        return _whose_certificate(home, proxy)
    if isinstance(error, httpx.TimeoutException):
        found = f"no answer in {REACH_S:g} s"
    else:
        found = "no connection" + (" through the proxy" if proxy else "")
    return (
        found,
        "does `server start` run, is the address right, and may this machine open connections to that port?"
        + ("" if proxy else " If only through a web proxy: `proxy` in site.yaml"),
    )


def _whose_certificate(home: ClientHome, proxy: str) -> tuple[str, str]:
    """Look at the certificate that is shown in the coordinator's place, without trusting it."""
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            httpx.Client(verify=blind, timeout=REACH_S, proxy=proxy or None) as client,
            client.stream("GET", f"https://{home.server}/health") as answer,
        ):
            tls = answer.extensions["network_stream"].get_extra_info("ssl_object")
            shown = x509.load_der_x509_certificate(tls.getpeercert(True))
    except (OSError, httpx.HTTPError, ValueError):
        return "certificate refused", "ask the coordinator for the address, and IT whether a firewall inspects TLS"
    authority = x509.load_pem_x509_certificate(identity.read_input(home.ca_certificate))
    if shown.issuer != authority.subject:
        who = _common_name(shown.issuer)
        return (
            f"shows a certificate of {who!r}, not of the consortium",
            "a firewall or proxy opens TLS on the way, or this is another server: IT must exempt this address and port",
        )
    if not _is_signed_by(shown, authority):
        return "shows a certificate of another consortium of that name", "ask the coordinator for a new invitation"
    until = shown.not_valid_after_utc
    if until < datetime.now(until.tzinfo):
        return f"its certificate ended on {until:%d %b %Y}", "the coordinator: `server tls`"
    return "its certificate is for another address", "ask the coordinator which address is the right one"


def _is_signed_by(shown: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        shown.verify_directly_issued_by(authority)
    except Exception:
        return False
    return True


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME) or name.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    return str(found[0].value)[:60] if found else "no name"


def _clock(answer: httpx.Response, here: float) -> Finding:
    try:
        # The header drops the fraction of a second.
        offset = here - (parsedate_to_datetime(answer.headers["date"]).timestamp() + 0.5)
    except (KeyError, ValueError, TypeError):
        todo = "compare the clocks by hand"
        return Finding(check="clock", state=WARN, found="the coordinator's answer has no date", todo=todo)
    near = abs(offset) <= CLOCK_LIMIT_S
    todo = "" if near else "set up NTP here; the coordinator refuses a wrong clock"
    return Finding(check="clock", state=OK if near else FAIL, found=f"{offset:+.0f} s to the coordinator's", todo=todo)
