"""What every request and answer goes through: which address it is for, how large, how often, what a page may do."""

import json
import threading
import time
from collections import OrderedDict
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY = 65_536  # bytes: a decision has about two thousand, and a reason may have some
PROBES = ("/healthz", "/readyz", "/metrics")  # asked for by their pod's address, and say nothing of anybody

CSP = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
       "frame-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
       "require-trusted-types-for 'script'")
# The report brings its style and its pictures in itself, and no script: it may do nothing but be seen.
REPORT_CSP = ("sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
              "form-action 'none'; frame-ancestors 'self'")
_HEADERS = {
    "Content-Security-Policy": CSP, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()", "Cache-Control": "no-store"}


def names_of(origin: str) -> set[str]:
    """The origins by which browsers reach the console: a laptop's own has two names."""
    found = urlsplit(origin)
    if found.hostname not in ("127.0.0.1", "localhost") or found.port is None:
        return {origin}
    return {f"{found.scheme}://{name}:{found.port}" for name in ("127.0.0.1", "localhost")}


class Protection:
    """Around the application. `origin` is how browsers reach it: `http://127.0.0.1:8765`."""

    def __init__(self, app: ASGIApp, origin: str) -> None:
        self._app = app
        self._hosts = {urlsplit(name).netloc for name in names_of(origin)}
        self._secure = origin.startswith("https:")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    found.setdefault(name, value)
                if self._secure:
                    found.setdefault("Strict-Transport-Security", "max-age=31536000")
            await send(message)

        if scope["path"] not in PROBES and headers.get("host", "") not in self._hosts:
            return await _refuse(with_headers, 421, "this console goes by another address")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return await _refuse(with_headers, 413, f"a request may have {LARGEST_BODY:,} bytes")
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST_BODY:  # sent in pieces, and of no length that was said
                raise TooLarge
            return message

        try:
            await self._app(scope, counted, with_headers)
        except TooLarge:
            await _refuse(with_headers, 413, f"a request may have {LARGEST_BODY:,} bytes")


class TooLarge(Exception):
    """A body is larger than it may be."""


async def _refuse(send: Send, status: int, problem: str) -> None:
    body = json.dumps({"error": "Refused", "problem": problem, "remedy": ""}).encode()
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
        (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})


class Rate:
    """So many in a row, and then so many in a second: for each of those who ask."""

    def __init__(self, in_a_row: float, per_second: float) -> None:
        self._most, self._per_second = in_a_row, per_second
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by who asks: left, and when
        self._lock = threading.Lock()

    def allows(self, who: str) -> bool:
        """Whether one more is allowed, which it takes."""
        now = time.monotonic()
        with self._lock:
            left, since = self._left.pop(who, (self._most, now))
            left = min(self._most, left + (now - since) * self._per_second)
            self._left[who] = (left - 1 if left >= 1 else left, now)
            while len(self._left) > 10_000:
                self._left.popitem(last=False)
            return left >= 1
