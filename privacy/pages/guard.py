"""Who may use a web page of ours: whoever has its token, from the page itself, under a name that the page has.

A token in the address of the first visit becomes a cookie that scripts cannot read and other sites do not send. A
request under another host name is refused, so that a foreign page cannot reach ours by a name of its own that points
here (DNS rebinding). Whatever changes something must come from the console's own page.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from shared_model.core.files import PRIVATE, create_file

# No scripts, styles, pictures or connections but our own, in nobody's frame, and no form that leads elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
MOST_BODY = 1_000_000
Next = Callable[[Request], Awaitable[Response]]


def cookie_name(host: str) -> str:
    """Return the cookie's name for HOST:PORT. Browsers send a cookie to all ports of a host: each page has its own."""
    return f"fedkt3d_page_{host.rpartition(':')[2]}"


def token_of(file: Path) -> str:
    """Return a page's token, made at the first start and kept in a file that only its owner can read."""
    if not file.exists():
        create_file(file, secrets.token_urlsafe(32).encode(), PRIVATE)
    return file.read_text(encoding="ascii").strip()


@dataclass(frozen=True, kw_only=True)
class PageGuard:
    """Checks every request. ``hosts``: HOST:PORT under which the page is reached; ``scheme``: http or https.

    ``command``: what prints the address with the token.
    """

    token: str
    hosts: frozenset[str]
    scheme: str
    command: str

    async def __call__(self, request: Request, call_next: Next) -> Response:
        """Answer, or refuse, and have every answer carry the headers that shut the page in."""
        answer = await self._answer(request, call_next)
        for name, value in _HEADERS.items():
            answer.headers.setdefault(name, value)
        return answer

    async def _answer(self, request: Request, call_next: Next) -> Response:
        if request.headers.get("host", "").lower() not in self.hosts:
            return _refused("this page is not reached under that name; use the address that it printed")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{self.scheme}://{request.headers['host']}".lower():
            return _refused("the request comes from another page")
        if request.method not in ("GET", "HEAD"):
            if origin is None:
                return _refused("the request does not say which page it comes from")
            length = request.headers.get("content-length", "")
            if not length.isascii() or not length.isdecimal() or int(length) > MOST_BODY:
                return _refused(f"the request is longer than {MOST_BODY} bytes, or does not say how long it is")
        cookie = cookie_name(request.headers["host"])
        given = request.query_params.get("token")
        if given is not None and request.method == "GET":
            if not self._fits(given):
                return _refused("the token is not this page's")
            answer = RedirectResponse(urlsplit(str(request.url)).path, status_code=303)
            secure = self.scheme == "https"
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict", secure=secure)
            return answer
        if not self._fits(request.cookies.get(cookie, "")):
            return PlainTextResponse(f"open the address with its token, as `{self.command}` prints it\n", 401)
        return await call_next(request)

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self.token.encode())


def _refused(why: str) -> Response:
    return PlainTextResponse(why + "\n", 403)
