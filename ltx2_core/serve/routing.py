"""What the routes of both APIs share: the service of a request, and adding a job to its queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from anyio import to_thread
from starlette.requests import Request

from ..storage.files import JsonObject
from .answers import ApiError, Json
from .service import Draining, Service
from .stored_job import ClientFull, Job, QueueFull


def service_of(request: Request) -> Service:
    """The service of the server that received ``request``."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def base_of(request: Request) -> str:
    """The URL before "/v1" by which the client reaches the server, without a slash at its end.

    Behind a proxy the request does not tell it, and ``--base-url`` does.
    """
    base: str | None = request.app.state.base_url
    return (str(request.base_url) if base is None else base).rstrip("/")


def client_of(request: Request) -> str:
    """Who sent a request: the number of its token, or without tokens its address."""
    token: int | None = request.scope.get("ltx2.token")
    if token is not None:
        return f"token {token}"
    return "" if request.client is None else request.client.host


CHECKS: Final = 4
"""How many requests are checked at the same time; others wait without a thread of their own."""


async def checked(request: Request, work: Callable[[], Json]) -> Json:
    """Return ``work()``, which checks and queues a job, from a thread.

    Few at a time: reading inputs takes long, and the threads that answer for states must not wait for it.
    """
    return await to_thread.run_sync(work, limiter=request.app.state.checks)


def added(request: Request, kind: str, spec: JsonObject, *, job_id: str | None = None) -> Job:
    """Add a job of the client of ``request`` to the queue.

    Raises :class:`ApiError` with status 503 if it is full or takes no more, and 429 if the client has as many
    jobs as it may have.
    """
    service = service_of(request)
    try:
        return service.add(kind, spec, job_id=job_id, client=client_of(request))
    except ClientFull:
        raise ApiError(
            429,
            "TOO_MANY_JOBS",
            f"{service.settings.limits.per_client} of your jobs wait or run: try again later",
            headers={"Retry-After": "30"},
        ) from None
    except QueueFull:
        raise ApiError(
            503,
            "QUEUE_FULL",
            f"{service.settings.limits.queue} jobs are waiting: try again later",
            headers={"Retry-After": "30"},
        ) from None
    except Draining:
        raise ApiError(
            503, "DRAINING", "the server is about to end: try again later", headers={"Retry-After": "60"}
        ) from None
