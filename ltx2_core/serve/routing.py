"""What the routes of both APIs share: the service of a request, and adding a job to its queue."""

from __future__ import annotations

from starlette.requests import Request

from ..storage.files import JsonObject
from .answers import ApiError
from .service import Draining, Service
from .store import Job, QueueFull


def service_of(request: Request) -> Service:
    """The service of the server that received ``request``."""
    service = request.app.state.service
    assert isinstance(service, Service)
    return service


def added(service: Service, kind: str, spec: JsonObject, *, job_id: str | None = None) -> Job:
    """Add a job to the queue. Raises :class:`ApiError` with status 503 if it is full or takes no more."""
    try:
        return service.add(kind, spec, job_id=job_id)
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
