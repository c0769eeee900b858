"""The server's process: listens, answers, and ends when it is told to, with all that runs answered."""

from __future__ import annotations

import ctypes
import ipaddress
import signal
import socket
import sys
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from ..errors import ProclipError, one_line

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""By which a server that listens on this machine alone is called."""
GRACE = 65
"""Seconds that running requests have once the server is told to end."""
SWITCH = 0.0005
"""Seconds after which a thread that wants the interpreter gets it: after Python's own 0.005 the model's thread, which
lets go of it in every operation, would wait that long for it each time that a request is read."""
MMAP_THRESHOLD, TRIM_THRESHOLD = 32 * 2**20, 2**30
"""Bytes: what glibc's malloc takes from the system piece by piece (the most that it allows), and how much free memory
it keeps; see `keep_memory`."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bracketed(host: str) -> str:
    """An address as it stands in a URL and in the header ``Host``."""
    return f"[{host}]" if ":" in host else host


def names_of(host: str) -> frozenset[str] | None:
    """By which clients may call a server that listens there; None for any."""
    return LOOPBACK_NAMES | {bracketed(host.lower())} if is_loopback(host) else None


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes one that is free.

    Raises:
        ProclipError: it is no address or port, not this machine's, or something else listens there.
    """
    if not 0 <= port <= 65535:
        raise ProclipError(f"--port {port}: a number from 0 (any that is free) to 65535 is wanted")
    if not host.strip():
        raise ProclipError("--host is empty: an address of this machine is wanted, such as 127.0.0.1 (0.0.0.0: all)")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or one_line(error)
        raise ProclipError(f"cannot listen on {host}, port {port}: {reason}") from None


def keep_memory() -> None:
    """Let freed memory stay with the process, where the C library is glibc.

    As it comes, glibc gives what a batch used back to the system when the batch ends, in every thread but the first:
    the model's thread would have some 18,000 pages zeroed anew for each batch.
    """
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None:
        mallopt(-3, MMAP_THRESHOLD)  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
        mallopt(-1, TRIM_THRESHOLD)


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
    sys.setswitchinterval(SWITCH)
    keep_memory()
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
