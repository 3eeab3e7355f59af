"""Joining with a link: what a site asks the coordinator's desk (server/deployment/desk.py), over TLS.

The first question goes to whoever answers at the link's address, since the site knows no authority yet. Nothing but a
GET is sent, and what comes back counts only if the CA's fingerprint is the link's. Everything after that goes over TLS
that this CA vouches for.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from client.setup import enrol
from client.site.config import SiteConfig
from client.site.home import RECORD, ClientHome
from privacy.agreement.admission import Admission
from privacy.trust import identity
from privacy.trust.link import JOIN, MOST_BYTES, JoinLink
from privacy.trust.peers import peer_digits
from privacy.trust.signed import MAX_BYTES
from shared_model.core.errors import FedKT3DError, InputError

TIMEOUT_S = 20.0
ASK_EVERY_S = 2.0


def home_of(link: JoinLink, folder: Path, data: Callable[[], enrol.Data]) -> ClientHome:
    """Return the site's home in ``folder``; make it, with keys and a request, where there is none.

    ``data`` says where the patients are; it is asked once the coordinator has shown the link's CA. InputError when the
    address shows another CA, or the folder holds something else, or another site. Then nothing is written.
    """
    if (folder / RECORD).exists():
        home = ClientHome.load(folder)
        if (home.site, home.consortium) != (link.site, link.fingerprint[: len(home.consortium)]):
            raise InputError(f"{folder}: is {home.site}'s home, of another invitation; name a new folder with --home")
        return home
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: exists and is not empty; choose a new folder (nothing was changed)")
    blind = ssl.create_default_context()
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    answer = _asked("GET", link.address, blind)
    if answer.status_code != httpx.codes.OK:
        raise InputError(f"{link.address}: does not answer as a coordinator does ({answer.status_code}); is it right?")
    return enrol.make_home(link.invitation(answer.content), folder, data())


def ask(home: ClientHome) -> Admission | None:
    """Send the site's request, or show it again; return the admission, taken into the home, or None while it waits.

    Also of a site that is admitted: its newest admission brings the newest roster and plan. InputError when the
    coordinator refuses the request. FedKT3DError when it does not answer.
    """
    context = ssl.create_default_context(cafile=str(home.ca_certificate))
    answer = _asked("POST", home.server, context, identity.read_input(home.request_file), _proxy(home))
    if answer.status_code == httpx.codes.ACCEPTED:
        return None
    if answer.status_code != httpx.codes.OK:
        raise InputError(f"{home.server}: {_why(answer)}")
    return enrol.take_admission(home, answer.content)


def wait(home: ClientHome, say: Callable[[str], None], patience_s: float | None = None) -> Admission | None:
    """Ask until the coordinator has admitted the site; None after ``patience_s`` (None: for ever).

    A coordinator that is away for a while is asked again.
    """
    end, told = None if patience_s is None else time.monotonic() + patience_s, ""
    while True:
        state = "the request is with the coordinator, who has to admit this site"
        try:
            admission = ask(home)
        except InputError:
            raise
        except FedKT3DError as error:
            admission, state = None, str(error)
        if admission is not None:
            return admission
        if state != told:
            told = state
            say(state)
        if end is not None and time.monotonic() > end:
            return None
        time.sleep(ASK_EVERY_S)


def own_digits(home: ClientHome) -> str:
    """Return the digits of this site's key, to read out to the coordinator and to the other hospitals."""
    return peer_digits(home.consortium, home.site, enrol.own_key(home).public_bytes_raw().hex())


def _proxy(home: ClientHome) -> str:
    try:
        return SiteConfig.load(home.site_config).proxy
    except InputError:
        return ""


def _asked(
    method: str, address: str, context: ssl.SSLContext, content: bytes | None = None, proxy: str = ""
) -> httpx.Response:
    """One request to the desk. FedKT3DError when there is no answer, or it is longer than an admission may be.

    An error's text never holds the proxy's address, which may hold a password.
    """
    most = MAX_BYTES if method == "POST" else MOST_BYTES
    try:
        with (
            httpx.Client(verify=context, timeout=TIMEOUT_S, proxy=proxy or None) as client,
            client.stream(method, f"https://{address}{JOIN}", content=content) as answer,
        ):
            body = b""
            for piece in answer.iter_bytes():
                body += piece
                if len(body) > most:
                    raise InputError(f"{address}: does not answer as a coordinator does; is the address right?")
            return httpx.Response(answer.status_code, content=body)
    except (OSError, httpx.HTTPError) as error:
        how = " through the proxy" if proxy else ""
        raise FedKT3DError(f"{address}: no answer{how} ({type(error).__name__}); trying again may help") from error


def _why(answer: httpx.Response) -> str:
    """What the coordinator says of a refusal: printable text of a bounded length."""
    try:
        text = str(json.loads(answer.content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        text = f"the coordinator refuses the request ({answer.status_code})"
    return "".join(c for c in text if c.isprintable())[:300]
