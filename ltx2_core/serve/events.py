"""The progress of a job as server-sent events, which a browser reads with ``EventSource``."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from ..storage.files import JsonObject
from .answers import ApiError
from .job_routes import described, missing
from .progress import Preview
from .routing import service_of
from .service import Service
from .stored_job import Job

_EVERY_S: Final = 0.2
"""Seconds between two looks at a job."""
_QUIET_S: Final = 15.0
"""Seconds after which an unchanged job sends a comment, so that proxies do not close the connection."""
MOST_STREAMS: Final = 64
"""How many clients may follow jobs at the same time."""


class Streams:
    """Counts the connections that follow jobs, and ends them when the server ends."""

    def __init__(self) -> None:
        self.open = 0
        self.closing = False


async def events(job_id: str, request: Request) -> StreamingResponse:
    """Follow a job: an event "job" at each change, with what ``GET /v1/jobs/{id}`` answers, until its end.

    While it is sampled there are events "preview" too, with frames in base64 and levels of the audio.
    """
    service, streams = service_of(request), request.app.state.streams
    if service.store.glance(job_id) is None:
        raise missing(job_id)
    if streams.open >= MOST_STREAMS:
        raise ApiError(
            503, "TOO_MANY_STREAMS", "too many clients follow jobs: read the job from time to time"
        )
    return _Followed(service, job_id, streams)


class _Followed(StreamingResponse):
    """The answer that follows a job. It is counted from the moment in which it is made.

    Counted only when it begins to be sent, clients that come at once would all pass the limit.
    """

    def __init__(self, service: Service, job_id: str, streams: Streams) -> None:
        super().__init__(
            _events(service, job_id, streams),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )
        self._streams = streams
        streams.open += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._streams.open -= 1


async def _events(service: Service, job_id: str, streams: Streams) -> AsyncIterator[str]:
    before: JsonObject | None = None
    job: Job | None = None
    shown: Preview | None = None
    quiet_s = 0.0
    while True:
        # Asked before the job is: a server that ends has one last look at it.
        closing = streams.closing
        # While another program locks the file, the job is as it was last seen.
        with suppress(sqlite3.OperationalError):
            job = service.store.glance(job_id)
            if job is None:
                yield "event: deleted\ndata: {}\n\n"
                return
        now = before if job is None else described(service, job)
        if now != before:
            before, quiet_s = now, 0.0
            yield f"event: job\ndata: {json.dumps(now)}\n\n"
        elif quiet_s >= _QUIET_S:
            quiet_s = 0.0
            yield ": still here\n\n"
        preview = service.board.preview(job_id)
        if preview is not None and preview is not shown:
            shown = preview
            yield f"event: preview\ndata: {json.dumps(preview.json())}\n\n"
        if closing or (job is not None and job.state.ended):
            return
        await asyncio.sleep(_EVERY_S)
        quiet_s += _EVERY_S


def event_router() -> APIRouter:
    """The route of this file."""
    router = APIRouter()
    router.add_api_route("/v1/jobs/{job_id}/events", events, methods=["GET"])
    return router
