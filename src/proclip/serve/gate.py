"""What every request passes before it reaches a route: who asks, how much comes, and how long it may take to come."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .faults import Fault, fault_answer
from .limits import Limits
from .metrics import Metrics

logger = logging.getLogger(__name__)
OPEN = ("/", "/docs", "/openapi.json", "/healthz")
"""Paths without a key, as those below ``/page/``: they hold nothing of the model or the pictures."""
SECURITY = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
]
"""Headers of every answer. There are none of CORS: pages of other origins cannot read what is answered."""


class Gone(Exception):
    """The client went before its request was whole, or before it was answered."""


class Gate:
    """Middleware: key, host, body, metrics, headers; the answer to what fails unforeseen.

    Args:
        app: what is behind it.
        limits: of bodies and of requests in flight.
        metrics: told of every request.
        key: that clients must give; None where none is needed.
        hosts: names by which a client may call the server; None for any. With names of this machine alone, a page
            elsewhere cannot reach a loopback server by a name of its own that leads here.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        key: str | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        self.app, self.limits, self.metrics, self._hosts = app, limits, metrics, hosts
        self._key = _digest(key.encode()) if key is not None else None
        self._in_flight = self._held = 0
        metrics.in_flight.set_function(lambda: self._in_flight)
        metrics.held.set_function(lambda: self._held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; what is none (the start and the end of the server) passes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), [0]

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                message = {**message, "headers": [*message["headers"], *SECURITY]}
            await send(message)

        self._in_flight += 1
        held = [0]
        try:
            self._admit(scope)
            body = await self._body(scope, receive, held)
            await self._pass_on(scope, receive, sending, body)
        except Gone:
            status[0] = status[0] or 499
        except Fault as fault:
            await fault_answer(fault)(scope, receive, sending)
        except Exception:
            logger.exception("%s %s failed", scope["method"], _route(scope))
            if status[0]:
                raise  # half an answer is out: the connection must break
            await fault_answer(Fault(500, "something failed here; the server's log says what"))(scope, receive, sending)
        finally:
            self._in_flight -= 1
            self._held -= held[0]
            self.metrics.request(_route(scope), scope["method"], status[0], time.perf_counter() - started)

    def _admit(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        if self._hosts is not None and _host(headers.get(b"host", b"").decode("latin-1")) not in self._hosts:
            raise Fault(400, "this server answers to the name of this machine only: start it with --host to change it")
        path = scope["path"]
        if self._key is not None and path not in OPEN and not path.startswith("/page/"):
            kind, _, given = headers.get(b"authorization", b"").partition(b" ")
            if kind.lower() != b"bearer" or not hmac.compare_digest(_digest(given.strip()), self._key):
                raise Fault(401, "a key is needed: send it as Authorization: Bearer KEY")
        if self._in_flight > self.limits.requests and path != "/healthz":
            raise Fault(429, "too many requests at once: try again in 1 s", retry_after=1)

    async def _body(self, scope: Scope, receive: Receive, held: list[int]) -> bytes:
        """The whole body; `held` says how much of it counts as in memory, also when this fails."""
        most = self.limits.body_bytes
        told = dict(scope["headers"]).get(b"content-length", b"0")
        length = int(told) if told.isdigit() else 0
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self.limits.body_timeout):
                while length <= 4 * most:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size <= most:  # a body somewhat too large is read and dropped, so that its sender hears why
                        self._hold(len(part), held)
                        parts.append(part)
                    elif parts:
                        parts.clear()
                    if not message.get("more_body", False):
                        break
                    if size > 4 * most:
                        break
        except TimeoutError:
            raise Fault(408, f"the request did not come whole within {self.limits.body_timeout:g} s") from None
        if max(size, length) > most:
            raise Fault(413, f"the request has more than {most} bytes, the most that is taken")
        return b"".join(parts)

    def _hold(self, count: int, held: list[int]) -> None:
        if self._held + count > self.limits.held_bytes:
            raise Fault(429, "too much is being sent at once: try again in 2 s", retry_after=2)
        self._held += count
        held[0] += count

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Call the app; where the client goes before the answer, the work for it ends."""
        inbox: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        watch = asyncio.ensure_future(_disconnect(receive))

        async def again() -> Message:
            return inbox.pop() if inbox else await asyncio.shield(watch)

        work = asyncio.ensure_future(self.app(scope, again, send))
        try:
            await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
                with suppress(asyncio.CancelledError):
                    await work
                raise Gone
            await work
        finally:
            work.cancel()
            watch.cancel()


async def _disconnect(receive: Receive) -> Message:
    """The message that says that the client went, or that it has its answer."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message


def _digest(content: bytes) -> bytes:
    """Of a key: so that what is compared has one length whatever was sent."""
    return hashlib.sha256(content).digest()


def _host(header: str) -> str:
    """The name in a Host header, without the port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()


def _route(scope: Scope) -> str:
    """How metrics and the log call a request: its route, never its path, of which clients could make up any number."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", "") or "other")
