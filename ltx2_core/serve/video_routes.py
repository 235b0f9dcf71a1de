"""The routes of OpenAI's video API, as far as they map onto jobs: make, list, read, download and delete."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from ..storage.files import JsonObject
from .answers import ApiError, Json
from .guard import FORM_TYPE, is_form
from .job_request import JobRequest
from .job_routes import add_job, delete, file, job_of
from .routing import checked, service_of
from .service import Service
from .specs import JobSpec
from .stored_job import Job, State
from .upload_routes import stored

FILE_FIELD: Final = "input_reference"
"""The field of a form that may be a file."""
_STATES: Final = {
    State.QUEUED: "queued",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "completed",
    State.FAILED: "failed",
    State.CANCELED: "failed",
}


class VideoRequest(BaseModel, extra="forbid", allow_inf_nan=False):
    """The body of ``POST /v1/videos``; ``input_reference`` names the first image, as "uploads/NAME"."""

    prompt: Annotated[str, Field(min_length=1, max_length=20_000)]
    model: str | None = None
    seconds: Annotated[float, Field(gt=0, le=600)] = 4.0
    size: Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")] | None = None
    input_reference: str | None = None

    def job(self, model: str) -> JobRequest:
        """The job that makes this video by the model with the id ``model``, if none was named."""
        request: JsonObject = {"prompt": self.prompt, "seconds": self.seconds, "seed": -1}
        if self.size is not None:
            width, height = self.size.split("x")
            request = {**request, "width": int(width), "height": int(height)}
        if self.input_reference is not None:
            request = {**request, "image": self.input_reference}
        return JobRequest.model_validate({"model": self.model or model, "request": request})


async def create_video(request: Request) -> Json:
    """Queue a video. The body is JSON, or a form whose ``input_reference`` may be the image itself."""
    if is_form(request.headers.get("content-type", "")):
        async with request.form(max_files=1, max_fields=20) as form:
            values = {name: await _value(request, name, one) for name, one in form.items()}
        body = _validated(partial(VideoRequest.model_validate, values))
    else:
        body = _validated(partial(VideoRequest.model_validate_json, await request.body()))
    return await checked(request, partial(_created, body, request))


async def _value(request: Request, name: str, field: UploadFile | str) -> str:
    """The text of a field of a form; the file of an image becomes an upload, which is named in its place.

    Raises RequestValidationError for a file in another field, which is not stored.
    """
    if isinstance(field, str):
        return field
    if name != FILE_FIELD:
        text = f"must be text; only {FILE_FIELD} may be a file"
        raise RequestValidationError([{"type": "value_error", "loc": ("body", name), "msg": text}])
    return await run_in_threadpool(stored, request, field)


def _validated(read: Callable[[], VideoRequest]) -> VideoRequest:
    """What ``read`` returns; what pydantic says of it becomes the answer with status 422."""
    try:
        return read()
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise RequestValidationError(found) from None


def _created(body: VideoRequest, request: Request) -> Json:
    service = service_of(request)
    job = add_job(body.job(next(iter(service.settings.models))), request)
    return Json(_video(service, job))


def videos(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["desc"] = "desc",  # noqa: ARG001 the only order that there is
) -> Json:
    """The newest videos."""
    service = service_of(request)
    return Json({"object": "list", "data": [_video(service, job) for job in service.store.jobs(most=limit)]})


async def video(video_id: str, request: Request) -> Json:
    """One video."""
    service = service_of(request)
    return Json(_video(service, job_of(service, video_id)))


def content(video_id: str, request: Request, variant: Literal["video"] = "video") -> Response:  # noqa: ARG001
    """The file of a video; ranges of bytes are answered."""
    return file(video_id, request)


def delete_video(video_id: str, request: Request) -> Json:
    """Remove a video that has ended."""
    delete(video_id, request)
    return Json({"id": video_id, "object": "video.deleted", "deleted": True})


def _video(service: Service, job: Job) -> JsonObject:
    spec = service.store.spec(job.id)
    if spec is None:
        raise ApiError(404, "JOB_NOT_FOUND", f"there is no job {job.id!r}", details={"id": job.id})
    asked = JobSpec.of(spec).clips[0].request
    snapshot = service.board.get(job.id)
    fraction = 1.0 if job.state is State.SUCCEEDED else 0.0 if snapshot is None else snapshot.fraction
    made = job.outcome["clips"][0] if job.outcome else asked
    width, height = made.get("width"), made.get("height")
    error = service.roots.shown(job.error or "the job was canceled")
    return {
        "id": job.id,
        "object": "video",
        "model": job.model,
        "status": _STATES[job.state],
        "progress": round(100 * fraction),
        "created_at": int(job.created),
        "completed_at": int(job.finished) if job.finished and job.outcome else None,
        "prompt": asked.get("prompt"),
        "seconds": str(asked.get("seconds")),
        "size": f"{width}x{height}" if width and height else None,
        "error": {"code": "failed", "message": error} if _STATES[job.state] == "failed" else None,
    }


def video_router() -> APIRouter:
    """The routes of this file."""
    router = APIRouter()
    schema = {"schema": VideoRequest.model_json_schema()}
    body = {"required": True, "content": {"application/json": schema, FORM_TYPE: schema}}
    router.add_api_route("/v1/videos", create_video, methods=["POST"], openapi_extra={"requestBody": body})
    router.add_api_route("/v1/videos", videos, methods=["GET"])
    router.add_api_route("/v1/videos/{video_id}", video, methods=["GET"])
    router.add_api_route("/v1/videos/{video_id}", delete_video, methods=["DELETE"])
    router.add_api_route("/v1/videos/{video_id}/content", content, methods=["GET"])
    return router
