"""What stands between the page and the web: no other site may post to it, frame it, or pass for it by name.

Whoever reaches this port from the machine itself needs no key, so a browser on this machine must not be made to speak
for another site. Three things see to that: a request is only for the names that this page goes by (a foreign name that
was bound to the loopback address is refused), what changes something must come from a page of ours (``Sec-Fetch-Site``,
else ``Origin``), and the answers forbid everything that is not served here.
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
    """Refuses what other sites ask for, and puts the headers on every answer of *app*; *names* are more of our own."""

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
            return f"this page does not go by the name {host!r:.80}; NEARLINE_WEB_HOSTS says which names it has\n"
        if method in _READING:
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site not in (None, "same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host):
            return f"only pages of this address may do that; this came from {origin!r:.80}\n"
        return None


def _name(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").casefold()
    except ValueError:
        return ""
