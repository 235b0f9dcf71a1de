"""The route that says what a job would be, without making it: size, length, steps and memory."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from fastapi import APIRouter
from starlette.requests import Request

from ..run.pipeline import LTX2Pipeline
from ..run.stages import Stage
from ..storage.files import JsonObject
from .answers import ApiError, Json
from .checking import work_of
from .job_request import JobRequest, spec_of
from .routing import checked, service_of
from .service import Service


async def plan(body: JobRequest, request: Request) -> Json:
    """What ``POST /v1/jobs`` would make of this body. Nothing is queued, and no input is read."""
    return await checked(request, partial(_planned, body, service_of(request)))


def _planned(body: JobRequest, service: Service) -> Json:
    if body.model not in service.settings.models:
        raise ApiError(422, "MODEL_NOT_FOUND", f"this server has no model {body.model!r}")
    if body.command != "generate":
        message = f"only generate is planned without its source, and not {body.command}: post it as a job"
        raise ApiError(422, "INVALID_PARAMETER", message)
    try:
        # Nothing is fetched for a plan, which needs no input.
        roots = replace(service.roots, fetch=Path if service.fetcher else None)
        request = spec_of(body, roots).clips[0].whole_request()
        with service.checkers.lock:
            pipeline = service.checkers.pipeline(body.model)
            stages = pipeline.stages(request)
            work = work_of(stages)
            # The plan of memory takes longer the larger a clip is.
            within = service.checkers.allowance(body.model).refusal(work) is None
            memory = _memory(pipeline, stages) if within else None
    except (ValueError, TypeError, ArithmeticError, OSError) as error:
        raise ApiError(422, "INVALID_PARAMETER", service.roots.shown(str(error))) from error
    clip = stages[-1].finished
    return Json(
        {
            "width": clip.width,
            "height": clip.height,
            "num_frames": clip.frames,
            "fps": clip.fps,
            "seconds": clip.seconds,
            "steps": [len(stage.sigmas) - 1 for stage in stages],
            "changes": list(clip.changes),
            "memory": memory,
            "work": work,
            "allowed": within and (memory is None or memory["fits"]),
        }
    )


def _memory(pipeline: LTX2Pipeline, stages: tuple[Stage, ...]) -> JsonObject | None:
    budget = pipeline.networks.max_memory
    plan = None if budget is None else pipeline.plan(stages, budget)
    return None if plan is None else {"peak_bytes": plan.peak, "budget_bytes": plan.budget, "fits": plan.fits}


def plan_router() -> APIRouter:
    """The route of this file."""
    router = APIRouter()
    router.add_api_route("/v1/plan", plan, methods=["POST"])
    return router
