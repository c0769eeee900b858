"""The application: routes, page, documentation, and the gate before them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse
from starlette.staticfiles import StaticFiles

from .. import __version__
from . import schemas
from .faults import Fault, on_fault, on_http, on_invalid
from .gate import Gate
from .routes import router
from .service import Service

PAGE = Path(__file__).parent / "page"
"""Files of the page and of the documentation; all that they load is among them."""


def create_app(service: Service, key: str | None = None, hosts: Collection[str] | None = None) -> FastAPI:
    """The ASGI application of a service.

    Args:
        service: not started yet; the application starts and ends it.
        key: that clients must give as ``Authorization: Bearer KEY``; None where none is needed.
        hosts: names by which clients may call the server; None for any.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.close()

    app = FastAPI(
        title="proclip",
        version=__version__,
        description="Texts of any length, and pictures, in one space.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        exception_handlers={Fault: on_fault, HTTPException: on_http, RequestValidationError: on_invalid},
    )
    app.state.service, app.state.started = service, int(time.time())
    app.include_router(router)
    _add_monitoring(app, service)
    _add_page(app)
    _describe(app, key is not None)
    app.add_middleware(Gate, limits=service.limits, metrics=service.metrics, key=key, hosts=hosts)
    return app


def _add_monitoring(app: FastAPI, service: Service) -> None:
    @app.get("/healthz", responses={503: {"model": schemas.ErrorAnswer, "description": "no batch can be run"}})
    async def healthz() -> schemas.Health:
        """Whether requests are answered; needs no key."""
        if not service.batcher.alive:
            raise Fault(503, "the model's thread has stopped")
        return schemas.Health()

    text: dict[int | str, dict[str, Any]] = {200: {"description": "Prometheus text", "content": {"text/plain": {}}}}

    @app.get("/metrics", response_class=Response, responses=text)
    async def metrics() -> Response:
        """Requests, seconds, what waits, how large batches are; memory and processor time of the server."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)


def _add_page(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return FileResponse(PAGE / "docs.html")

    app.mount("/page", StaticFiles(directory=PAGE), name="page")


def _describe(app: FastAPI, with_key: bool) -> None:
    """``/openapi.json`` as it is: a wrong field is 400 here, not 422; with a key, what it is needed for."""
    make = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = make()
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    operation["responses"].pop("422", None)
                    if with_key and path != "/healthz":
                        operation["security"] = [{"key": []}]
            parts = schema["components"]
            for name in ("HTTPValidationError", "ValidationError"):
                parts["schemas"].pop(name, None)
            if with_key:
                parts["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]
