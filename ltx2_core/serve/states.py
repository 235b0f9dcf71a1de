"""Answers for the state of a job, which clients ask for more often than for all else."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

from .access_log import unlogged
from .answers import Json
from .job_routes import described
from .seed_routes import status_of
from .service import Service

_PATH: Final = re.compile("/v1/(?:jobs/([0-9a-f-]{36})|requests/([0-9a-f-]{36})/status)")


class StateReads:
    """An ASGI application around ``app`` that answers for the states of jobs of ``service`` itself.

    Its answers are those of the routes ``GET /v1/jobs/ID`` and ``GET /v1/requests/ID/status``, for half of
    the processor time: no route is searched, and no parameters are read. What has an error goes to ``app``.
    """

    def __init__(self, app: ASGIApp, *, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._answer(scope) if scope["type"] == "http" and scope["method"] == "GET" else None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            unlogged(scope)
            await answer(scope, receive, send)

    def _answer(self, scope: Scope) -> Json | None:
        found = _PATH.fullmatch(scope["path"])
        if found is None:
            return None
        try:
            job = self._service.store.glance(found[1] or found[2])
        except sqlite3.Error:
            return None
        if job is None:
            return None
        if found[1]:
            return Json(described(self._service, job))
        return Json(status_of(self._service, job)) if job.kind == "inference" else None
