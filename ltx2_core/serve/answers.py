"""Answers of the service: JSON that any client can read, and errors with a code."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, Final

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..storage.files import JsonObject, JsonValue

_log = logging.getLogger(__name__)


MOST_ERRORS: Final = 100
"""How many errors of one body are told."""


class Json(JSONResponse):
    """JSON in ASCII, which can also hold text that is no valid UTF-8, such as half an emoji."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class ApiError(Exception):
    """Ends a request with HTTP status ``status`` and the body ``{"error": {"code", "message", "details"}}``.

    With ``wrapped`` the body is ``{"detail": {"error": ...}}``, as ai-toolkit-inference has it for checks.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Mapping[str, JsonValue] | None = None,
        wrapped: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.headers = status, headers
        error: JsonObject = {"error": {"code": code, "message": message, "details": dict(details or {})}}
        self.body: JsonObject = {"detail": error} if wrapped else error

    def answer(self) -> Json:
        return Json(self.body, self.status, dict(self.headers or {}))


async def answer_error(_: Request, error: Exception) -> Json:
    """The answer for an :class:`ApiError`."""
    assert isinstance(error, ApiError)
    return error.answer()


async def answer_invalid(_: Request, error: Exception) -> Json:
    """The answer for a body of wrong types or ranges: status 422, and the errors that pydantic found.

    The values themselves are left out: they may be megabytes, or numbers such as NaN that JSON has not. A
    long list may have an error in each entry, of which the first ``MOST_ERRORS`` are told.
    """
    assert isinstance(error, RequestValidationError)
    errors = error.errors()[:MOST_ERRORS]
    found = [{"type": one["type"], "loc": list(one["loc"]), "msg": one["msg"]} for one in errors]
    return Json({"detail": found}, 422)


async def answer_store(_: Request, error: Exception) -> Json:
    """The answer if the queue cannot be read or written, such as while the disk is full."""
    _log.error("the queue cannot be read or written: %s", error)
    message = "the queue cannot be read or written now: try again later"
    return ApiError(503, "STORE_UNAVAILABLE", message, headers={"Retry-After": "30"}).answer()


async def answer_fault(_: Request, error: Exception) -> Json:  # noqa: ARG001 the server logs it
    """The answer for a fault of the service itself, whose text is for its log alone."""
    return ApiError(500, "INFERENCE_ERROR", "the server failed to answer; its log says why").answer()


def iso(time: float | None) -> str | None:
    """Seconds since 1970 as UTC text, ``2026-01-31T12:00:00.000000+00:00``; None for None."""
    return None if time is None else datetime.fromtimestamp(time, timezone.utc).isoformat("T", "microseconds")
