"""The routes of our own API: jobs of every command, their progress and their files."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Final

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from ..run.request import Request as ClipRequest
from ..storage.files import JsonObject
from .answers import ApiError, Json, iso
from .checking import check_job
from .job_request import JobLora, JobRequest, body_of, spec_of
from .routing import added, checked, service_of
from .service import Service
from .shots import listed
from .specs import JobSpec
from .stored_job import Job, State
from .upload_routes import no_room
from .uploads import NoRoom

_TYPES: Final = {
    "mp4": "video/mp4",
    "mov": "video/quicktime",
    "mkv": "video/x-matroska",
    "webm": "video/webm",
    "gif": "image/gif",
    "webp": "image/webp",
    "wav": "audio/wav",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
}


def described(service: Service, job: Job) -> JsonObject:
    """What clients see of a job: its state, its progress while it runs, and what it has made."""
    snapshot = service.board.get(job.id) if job.state is State.RUNNING else None
    return {
        "id": job.id,
        "number": job.number,
        "kind": job.kind,
        "model": job.model,
        "state": job.state.value,
        "stopping": job.cancel and job.state is State.RUNNING,
        "attempts": job.attempts,
        "created_at": iso(job.created),
        "started_at": iso(job.started),
        "finished_at": iso(job.finished),
        "progress": None if snapshot is None else snapshot.json(),
        "error": None if job.error is None else service.roots.shown(job.error),
        "clips": None if job.outcome is None else job.outcome["clips"],
    }


async def create(body: JobRequest, request: Request) -> Json:
    """Queue a job. Everything that can be checked before a network is loaded is checked first."""
    return await checked(request, partial(_created, body, request))


def _created(body: JobRequest, request: Request) -> Json:
    job = add_job(body, request)
    return Json(described(service_of(request), job), 202, {"Location": f"/v1/jobs/{job.id}"})


def add_job(body: JobRequest, request: Request) -> Job:
    """Check a job and add it to the queue. Raises :class:`ApiError` for what cannot be made."""
    service = service_of(request)
    if body.model not in service.settings.models:
        known = [*service.settings.models]
        message = f"there is no model {body.model!r}"
        raise ApiError(422, "MODEL_NOT_FOUND", message, details={"supported_models": known})
    try:
        spec = spec_of(_without_shots(body, service), service.roots)
        check_job(service.checkers, spec)
    except NoRoom:
        raise no_room() from None
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        raise ApiError(422, "INVALID_PARAMETER", service.roots.shown(str(error))) from error
    return added(request, "job", spec.json())


def _without_shots(body: JobRequest, service: Service) -> JobRequest:
    """The body of a job with the fields of a request in place of its shot list.

    Raises ValueError and :class:`NoRoom` as :func:`listed` does.
    """
    if body.shots is None:
        return body
    made = listed(
        body.shots,
        body.request,
        model=body.model,
        checkers=service.checkers,
        roots=service.roots,
        uploads=service.uploads,
    )
    # What the client states itself replaces that of the list.
    loras = body.loras or [JobLora(path=path, strength=strength) for path, strength in made.loras]
    second = body.stage2_loras or [JobLora(path=path, strength=s) for path, s in made.stage2_loras]
    changes = {"shots": None, "request": made.fields, "loras": loras, "stage2_loras": second, **made.edit}
    return body.model_copy(update=changes)


def jobs(
    request: Request,
    state: Annotated[list[State] | None, Query()] = None,
    before: Annotated[int | None, Query(ge=0, lt=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """The jobs, newest first. ``before`` is the ``number`` of the last job of the page before."""
    service = service_of(request)
    found = service.store.jobs(states=state or tuple(State), before=before, most=limit)
    return Json({"jobs": [described(service, job) for job in found]})


async def job(job_id: str, request: Request) -> Json:
    """One job."""
    service = service_of(request)
    return Json(described(service, job_of(service, job_id)))


def requested(job_id: str, request: Request) -> Json:
    """The body of ``POST /v1/jobs`` that makes the first clip of this job again."""
    service = service_of(request)
    spec = service.store.spec(job_id)
    if spec is None:
        raise missing(job_id)
    return Json(service.roots.named(body_of(JobSpec.of(spec))))


def cancel(job_id: str, request: Request) -> Json:
    """Cancel a job that waits, or stop one that runs; one that has ended stays as it is."""
    service = service_of(request)
    job_of(service, job_id)
    found = service.cancel(job_id)
    return Json(described(service, job_of(service, job_id) if found is None else found))


def delete(job_id: str, request: Request) -> Response:
    """Remove a job that has ended, with its files."""
    service = service_of(request)
    if not job_of(service, job_id).state.ended:
        raise ApiError(409, "NOT_ENDED", "the job has not ended: cancel it first", details={"id": job_id})
    service.folder.remove(job_id)
    service.store.delete(job_id)
    return Response(status_code=204)


def file(job_id: str, request: Request, clip: Annotated[int, Query(ge=0)] = 0) -> Response:
    """The file of a clip; ranges of bytes are answered."""
    service = service_of(request)
    found = job_of(service, job_id)
    if found.outcome is None:
        raise ApiError(
            409, "NO_RESULT", f"the job is {found.state.value} and has no file", details={"id": job_id}
        )
    clips = found.outcome["clips"]
    # The name is that in the queue, and no part of it comes from a client.
    path = service.folder.results / clips[clip]["file"] if clip < len(clips) else None
    if path is None or not path.is_file():
        raise ApiError(404, "FILE_NOT_FOUND", f"the job has no clip {clip}", details={"id": job_id})
    return FileResponse(
        path,
        media_type=_TYPES[clips[clip]["format"]],
        filename=path.name,
        content_disposition_type="inline",
        headers={"X-Content-Type-Options": "nosniff"},
    )


def schema() -> Json:
    """The JSON schema of the field ``request`` of a job."""
    return Json(ClipRequest.json_schema())


def job_of(service: Service, job_id: str) -> Job:
    """The job with this id. Raises :class:`ApiError` with status 404 if there is none."""
    found = service.store.get(job_id)
    if found is None:
        raise missing(job_id)
    return found


def missing(job_id: str) -> ApiError:
    """The answer that there is no job with this id."""
    return ApiError(404, "JOB_NOT_FOUND", f"there is no job {job_id!r}", details={"id": job_id})


def job_router() -> APIRouter:
    """The routes of this file."""
    router = APIRouter()
    router.add_api_route("/v1/schema", schema, methods=["GET"])
    router.add_api_route("/v1/jobs", create, methods=["POST"], status_code=202)
    router.add_api_route("/v1/jobs", jobs, methods=["GET"])
    router.add_api_route("/v1/jobs/{job_id}", job, methods=["GET"])
    router.add_api_route("/v1/jobs/{job_id}", delete, methods=["DELETE"], status_code=204)
    router.add_api_route("/v1/jobs/{job_id}/request", requested, methods=["GET"])
    router.add_api_route("/v1/jobs/{job_id}/cancel", cancel, methods=["POST"])
    # Two routes, because ids of operations in the schema must differ.
    router.add_api_route("/v1/jobs/{job_id}/file", file, methods=["GET"])
    router.add_api_route("/v1/jobs/{job_id}/file", file, methods=["HEAD"], include_in_schema=False)
    return router
