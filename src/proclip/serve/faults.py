"""What a client is told when something is wrong: one line, in the shape that clients of the embeddings API read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
"""``type`` of an error by its status; ``invalid_request_error`` below 500 else, ``server_error`` above."""
LINE = 300
"""Most characters of a message."""


class Fault(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one line: what is wrong and what would be right. It never names a path of this machine.
        param: field of the request at fault.
        retry_after: seconds, for 429 and 503.
    """

    def __init__(self, status: int, message: str, param: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["retry-after"] = str(retry_after)
        if status == 401:
            self.headers["www-authenticate"] = "Bearer"


def bad(param: str, message: str) -> Fault:
    """A field of the request is wrong: 400."""
    return Fault(400, f"{param}: {message}", param)


def answer(
    status: int, message: str, param: str | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """``{"error": {"message", "type", "param", "code"}}``."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    line = "".join(c for c in " ".join(message.split()) if c.isprintable())[:LINE]
    error = {"message": line, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers=dict(headers or {}))


def fault_answer(fault: Fault) -> JSONResponse:
    """The answer to a request with a fault."""
    return answer(fault.status, str(fault), fault.param, fault.headers)


async def on_fault(_: Request, fault: Exception) -> JSONResponse:
    """Of our own."""
    assert isinstance(fault, Fault)
    return fault_answer(fault)


async def on_http(request: Request, error: Exception) -> JSONResponse:
    """Of the framework: no such route, no such method, a body that cannot be parsed."""
    assert isinstance(error, HTTPException)
    lines = {
        400: "the body is not JSON that can be read",
        404: "there is nothing here; /docs lists what there is",
        405: f"{request.method} does not work here; /docs says what does",
    }
    return answer(error.status_code, lines.get(error.status_code, str(error.detail)), None, error.headers)


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """Of the framework: a field is missing, unknown or of a wrong type. The first such is told."""
    assert isinstance(error, RequestValidationError)
    first: dict[str, Any] = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "path", "query")]
    param = ".".join(where) if first["type"] != "json_invalid" else ""
    if first["type"] == "json_invalid":
        message = f"the body is not JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
    elif not param:
        message = "the body must be a JSON object, sent as application/json"
    elif first["type"] == "extra_forbidden":
        message = f"{param}: there is no such field; /docs lists those there are"
    else:
        message = f"{param}: {first['msg'].removeprefix('Value error, ')}"
    return answer(400, message, param or None)
