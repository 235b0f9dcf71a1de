"""The routes of ai-toolkit-inference: the same paths, fields, states and codes."""

from __future__ import annotations

import shutil
from functools import partial
from uuid import uuid4

from fastapi import APIRouter
from starlette.requests import Request

from ..storage.files import JsonObject
from .answers import ApiError, Json, iso
from .checking import TooLarge, check_size
from .fetching import NotFetched
from .routing import added, base_of, checked, service_of
from .seed_request import DIVISOR, FPS, FRAMES, GUIDANCE, STEPS, InferenceRequest, checked_lora, job_of
from .service import Service
from .stored_job import Job, State

_STATES = {
    State.QUEUED: "in_queue",
    State.RUNNING: "in_progress",
    State.SUCCEEDED: "succeeded",
    State.FAILED: "failed",
    State.CANCELED: "canceled",
}


async def health() -> Json:
    """Whether the server lives."""
    return Json({"status": "healthy"})


def models(request: Request) -> Json:
    """The models of the server and the defaults of a request."""
    return Json(
        {
            "models": [
                {
                    "id": model.id,
                    "base_model": model.base_model,
                    "resolution_divisor": DIVISOR,
                    "default_steps": STEPS,
                    "default_guidance_scale": GUIDANCE,
                    "requires_control_image": False,
                    "is_video_model": True,
                    "default_num_frames": FRAMES,
                    "default_fps": FPS,
                }
                for model in service_of(request).settings.models.values()
            ]
        }
    )


async def inference(body: InferenceRequest, request: Request) -> Json:
    """Queue a clip for each prompt; answers at once."""
    return await checked(request, partial(_add_clips, body, request))


def _add_clips(body: InferenceRequest, request: Request) -> Json:
    service = service_of(request)
    lora = checked_lora(body, service.settings.models, service.roots)
    job_id = str(uuid4())
    try:
        model = service.settings.models[body.model]
        spec = job_of(body, model, lora, service.folder.work(job_id), service.roots.fetch)
        try:
            check_size(service.checkers, spec)
        except TooLarge as error:
            raise ApiError(422, "INVALID_PARAMETER", str(error)) from None
        except (ValueError, TypeError, ArithmeticError):
            # What else is wrong makes the job fail, and does not refuse it.
            pass
        job = added(request, "inference", spec.json(), job_id=job_id)
    except NotFetched as error:
        shutil.rmtree(service.folder.work(job_id), ignore_errors=True)
        raise ApiError(422, "INVALID_PARAMETER", str(error)) from None
    except BaseException:
        shutil.rmtree(service.folder.work(job_id), ignore_errors=True)
        raise
    base = f"{base_of(request)}/v1/requests/{job.id}"
    return Json(
        {
            "request_id": job.id,
            "status": "queued",
            "status_url": f"{base}/status",
            "result_url": f"{base}/result",
            "created_at": iso(job.created),
        }
    )


async def status(request_id: str, request: Request) -> Json:
    """The state of a request."""
    return Json(status_of(service_of(request), _job(request_id, request)))


def status_of(service: Service, job: Job) -> JsonObject:
    """What clients see of the state of a request."""
    return {
        "request_id": job.id,
        "status": _STATES[job.state],
        "created_at": iso(job.created),
        "started_at": iso(job.started),
        "finished_at": iso(job.finished),
        "error": _error(service, job),
    }


async def result(request_id: str, request: Request) -> Json:
    """The files of a request; null before its end."""
    job = _job(request_id, request)
    return Json(
        {
            "request_id": job.id,
            "status": _STATES[job.state],
            "outputs": None if job.outcome is None else _outputs(job, request),
            "error": _error(service_of(request), job),
            "created_at": iso(job.created),
            "finished_at": iso(job.finished),
            "metadata": None if job.outcome is None else _metadata(job, request),
        }
    )


def _outputs(job: Job, request: Request) -> JsonObject:
    results, base = service_of(request).folder.results, base_of(request)
    assert job.outcome is not None
    videos = [
        {
            **{name: clip[name] for name in ("format", "width", "height", "num_frames", "seed")},
            # A whole number there.
            "fps": round(clip["fps"]),
            "file_path": str(results / clip["file"]),
            # Not in the original, whose clients must share its disk.
            "file_url": f"{base}/v1/jobs/{job.id}/file?clip={index}",
        }
        for index, clip in enumerate(job.outcome["clips"])
    ]
    return {"images": [], "videos": videos}


def _metadata(job: Job, request: Request) -> JsonObject:
    assert job.outcome is not None
    model = service_of(request).settings.models.get(job.model)
    prompts = []
    for clip in job.outcome["clips"]:
        save_s = sum(clip["seconds"].get(part, 0.0) for part in ("decode", "encode"))
        prompts.append({"generate": round(clip["total_s"] - save_s, 3), "save": round(save_s, 3)})
    return {
        "model": job.model,
        "embedded": model is not None and model.embedded,
        "inference_time": job.outcome["seconds"],
        "timings": {
            "get_pipeline": job.outcome["opening_s"],
            "pipeline_details": {},
            "inference_total": job.outcome["seconds"],
            "prompts": prompts,
        },
    }


def _error(service: Service, job: Job) -> str | None:
    return None if job.error is None else service.roots.shown(job.error)


def _job(request_id: str, request: Request) -> Job:
    job = service_of(request).store.get(request_id)
    if job is None or job.kind != "inference":
        raise ApiError(
            404,
            "REQUEST_NOT_FOUND",
            f"Request '{request_id}' not found",
            details={"request_id": request_id},
            wrapped=True,
        )
    return job


def seed_router() -> APIRouter:
    """The routes of this file."""
    router = APIRouter()
    router.add_api_route("/health", health, methods=["GET"])
    router.add_api_route("/v1/models", models, methods=["GET"])
    router.add_api_route("/v1/inference", inference, methods=["POST"])
    router.add_api_route("/v1/requests/{request_id}/status", status, methods=["GET"])
    router.add_api_route("/v1/requests/{request_id}/result", result, methods=["GET"])
    return router
