"""Protects the page against other sites: CSRF, framing and DNS rebinding.

Requests from this machine need no key, so another site must not be able to make a browser on this machine send them.
Three checks prevent that: the host name must be one of the page's own (a foreign name that resolves to the loopback
address is refused), requests that change something must come from this page (``Sec-Fetch-Site``, else ``Origin``), and
the answers' Content-Security-Policy forbids everything that is not served here.
"""

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
_READING = {"GET", "HEAD"}
STATUS = {"/healthz", "/readyz", "/metrics"}  # asked by programs, by whatever name they know this machine
_OURS = {"127.0.0.1", "localhost", "::1"}


class WebSecurity:
    """Refuses requests of other sites and adds ``HEADERS`` to all answers of *app*; *names* are further host names."""

    def __init__(self, app: ASGIApp, names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = _OURS | {name.strip().casefold() for name in names if name.strip()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_status = scope["path"] in STATUS
        problem = None if is_status else self.problem_of(scope["method"], Headers(scope=scope))
        answer = self._app if problem is None else PlainTextResponse(problem, 403)

        async def send_strictly(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await answer(scope, receive, send_strictly)

    def problem_of(self, method: str, headers: Headers) -> str | None:
        """Why the request is refused, or ``None``."""
        host = headers.get("host", "")
        if _name(f"//{host}") not in self._names:
            return f"{host!r:.80} is not a name of this page; NEARLINE_WEB_HOSTS lists its names\n"
        if method in _READING:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host):
            return f"only pages of this address may send that; the request came from {origin!r:.80}\n"
        return None


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").casefold()
    except ValueError:
        return ""
