"""The server's process: listens, answers, and ends when it is told to, with all that runs answered."""

from __future__ import annotations

import ipaddress
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from ..errors import ProclipError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""By which a server that listens on this machine alone is called."""
GRACE = 65
"""Seconds that running requests have once the server is told to end."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes one that is free.

    Raises:
        ProclipError: the address is not this machine's, or something else listens there.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ProclipError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None


def run(app: FastAPI, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Answer until SIGINT or SIGTERM; what is running then is still answered.

    Args:
        app: of `create_app`.
        listener: of `bind`.
        ready: called once requests are taken.

    Raises:
        ProclipError: the application did not start; the message before it says why.
    """
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE, lifespan="on",
        server_header=False, timeout_keep_alive=30,
    )  # fmt: skip
    server = _Server(config, ready)
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:  # uvicorn raises the signal once more when it has ended: by then there is nothing left to do
        server.run(sockets=[listener])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if not server.started:
        raise ProclipError("the server did not start")


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()
