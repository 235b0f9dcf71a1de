"""The ASGI application: the routes of both APIs over one service, behind the guard."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError

from .access_log import AccessLog
from .answers import ApiError, answer_error, answer_fault, answer_invalid, answer_store
from .events import Streams, event_router
from .guard import Guard
from .job_routes import job_router
from .metrics import metrics
from .page import page_router
from .planning import plan_router
from .routing import CHECKS
from .seed_routes import seed_router
from .service import Service
from .states import StateReads
from .upload_routes import upload_router
from .video_routes import video_router

_FORM_BYTES = 64 * 2**10
"""What a form adds to the file in it."""


def application(
    service: Service,
    *,
    tokens: Sequence[str] = (),
    hosts: Sequence[str] = (),
    base_url: str | None = None,
) -> FastAPI:
    """The application for ``service``, whose worker the caller starts and drains.

    ``tokens`` and ``hosts`` are those of :class:`Guard`. ``base_url`` is what URLs in answers begin with;
    None is the URL by which the request came.
    """
    # The version of the routes, which begin with it, and not that of the package.
    app = FastAPI(title="LTX-2", version="1")
    app.state.service, app.state.streams = service, Streams()
    app.state.base_url = base_url
    app.state.checks = CapacityLimiter(CHECKS)
    app.include_router(seed_router())
    app.include_router(job_router())
    app.include_router(event_router())
    app.include_router(upload_router())
    app.include_router(video_router())
    app.include_router(plan_router())
    app.include_router(page_router())
    app.add_api_route("/metrics", metrics, methods=["GET"])
    app.add_exception_handler(ApiError, answer_error)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(sqlite3.Error, answer_store)
    app.add_exception_handler(Exception, answer_fault)
    limits = service.settings.limits
    # The last one receives a request first.
    app.add_middleware(StateReads, service=service)
    app.add_middleware(
        Guard,
        tokens=tuple(tokens),
        hosts=tuple(hosts),
        body_bytes=limits.body_bytes,
        upload_bytes=limits.upload_bytes + _FORM_BYTES,
    )
    app.add_middleware(AccessLog)
    return app
