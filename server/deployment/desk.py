"""The desk for sites that join with a link: it shows the certificates, takes requests and hands out admissions.

Sites reach it on their port, at ``/join``, before they have any key that the coordinator knows. So it does little:

- GET: the consortium's name and certificates, which are no secret.
- POST of a site's request: kept for `server admit` if it proves the one-time code of an open invitation. The first one
  stays: another request for the same invitation, with other keys, is refused, since the link may have been read by
  somebody else. The answer is 202 until the site is admitted, and then its admission.

It decides nothing and holds no key: `server admit` admits, and writes what is handed out here.
"""

from __future__ import annotations

import asyncio
import json
import threading

from privacy.flower.processes import read_state
from privacy.flower.whole_body import Receive, Scope, Send
from privacy.trust import identity
from privacy.trust.link import MOST_BYTES, desk_certificates
from privacy.trust.membership import AdmissionRequest, check_not_expired
from server.deployment.home import ServerHome
from shared_model.core.errors import InputError
from shared_model.core.files import PUBLIC, create_file

READ_S = 15.0  # for a request's body
_NO_INVITATION = "this request proves no open invitation: is the link whole, and is it the newest for this site?"
_OTHER_KEYS = (
    "another request came with this invitation already, with other keys; if it was not yours, somebody else has the"
    " link: ask the coordinator for a new invitation"
)
Answer = tuple[int, bytes]


class JoinDesk:
    """ASGI application of the desk of the coordinator in ``home``."""

    def __init__(self, home: ServerHome) -> None:
        self._home = home
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3.0)."""
        if scope["method"] == "GET":
            answer = (200, self._certificates())
        elif scope["method"] == "POST":
            try:
                body = await asyncio.wait_for(_body(receive), READ_S)
            except TimeoutError:
                body = None
            # Signatures are checked and a file is written: not in the loop that serves all sites.
            answer = (413, b"") if body is None else await asyncio.to_thread(self.answer, body)
        else:
            answer = (405, b"")
        status, content = answer
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def answer(self, body: bytes) -> Answer:
        """Return status and body for a site's request: its admission, 202 while it waits, else why it is refused."""
        try:
            request = AdmissionRequest.read(body)
        except InputError as error:
            return _refused(400, str(error))
        kept, admission = self._home.request(request.site), self._home.admission(request.site)
        with self._lock:
            if kept.exists() and kept.read_bytes() == body:
                return (200, admission.read_bytes()) if admission.exists() else _waits()
            invited = read_state(self._home.invitations_file).get(request.site)
            if invited is None or not request.answers(invited["key"]):
                return _refused(403, _NO_INVITATION)
            try:
                check_not_expired(invited["expires"], f"the invitation of {request.site}")
                if kept.exists():
                    if _answers(kept.read_bytes(), invited["key"]):
                        return _refused(409, _OTHER_KEYS)
                    kept.unlink()  # it answered an earlier invitation
                    admission.unlink(missing_ok=True)
                kept.parent.mkdir(mode=0o700, exist_ok=True)
                create_file(kept, body, PUBLIC)
            except InputError as error:
                return _refused(403, str(error))
        return _waits()

    def _certificates(self) -> bytes:
        ca, signer = (identity.read_input(p) for p in (self._home.ca_certificate, self._home.roster_certificate))
        return desk_certificates(self._home.name, ca, signer)


def _answers(kept: bytes, key: str) -> bool:
    try:
        return AdmissionRequest.read(kept).answers(key)
    except InputError:
        return False


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None where it is longer than a request may be, or its sender left."""
    found, more = b"", True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            return None
        found += event.get("body", b"")
        if len(found) > MOST_BYTES:
            return None
        more = event.get("more_body", False)
    return found


def _waits() -> Answer:
    return 202, json.dumps({"waits": True}).encode()


def _refused(status: int, why: str) -> Answer:
    return status, json.dumps({"error": why}).encode()
