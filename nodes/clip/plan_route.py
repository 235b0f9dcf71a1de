"""A route of the host that plans the memory of a clip while its size is typed, from headers alone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import torch
from aiohttp import web

from ...ltx2_core.memory import MemoryPlan, plan_memory, plan_or_propose, released_size
from ...ltx2_core.run.execution import Execution
from ...ltx2_core.run.network_sizes import NetworkSizes
from ...ltx2_core.shapes import ClipPlan, Snap, plan_clip
from ...ltx2_core.types import Numerics
from ..host.free_memory import free_budget
from ..inputs import FRAMES, MAX_FPS, MAX_SECONDS, MAX_SIZE
from ..loading import file_lists
from .plan import describe

ROUTE = "/ltx2av/plan"
_ASKED = ("width", "height", "length", "length_unit", "fps", "snap", "stages")
_MOST = {"width": MAX_SIZE, "height": MAX_SIZE, "length": MAX_SECONDS, "fps": MAX_FPS}
"""Bounds of the widgets, within which a plan is quickly made."""

_OTHERWISE = "2.3"
"""The released model that is planned for where the graph names no file that can be loaded."""


def add_route() -> None:
    """Let the host answer ``ROUTE``; its query has the widgets of LTX-2 Clip Plan, and ``model``, a file."""
    from server import PromptServer

    @PromptServer.instance.routes.get(ROUTE)  # type: ignore[untyped-decorator]
    async def answer(request: web.Request) -> web.Response:
        try:
            # Headers are read from files, which must not hold up the page.
            return web.json_response(await asyncio.to_thread(planned, request.query))
        except (ValueError, OverflowError) as error:
            return web.json_response({"error": str(error)}, status=400)


def planned(query: Mapping[str, str]) -> dict[str, Any]:
    """What is rounded of a clip (``report``) and its memory plan: ``stages`` with ``weights`` and ``working``
    bytes, ``budget``, ``text``.

    Raises ValueError for a query that lacks a value or has a wrong one.
    """
    for name in _ASKED:
        if name not in query:
            raise ValueError(f"{name} is missing")
    for name, most in _MOST.items():
        # False for NaN too.
        if not abs(float(query[name])) <= most:
            raise ValueError(f"{name}={query[name]} must be {most:g} or less")
    stages, length = int(query["stages"]), float(query["length"])
    by_frames = query["length_unit"] == FRAMES
    clip = plan_clip(
        int(query["width"]),
        int(query["height"]),
        frames=int(length) if by_frames else None,
        seconds=None if by_frames else length,
        fps=float(query["fps"]),
        snap=Snap(query["snap"]),
        stages=stages,
        numerics=Numerics.COMFY,
    )
    clips = [clip.half(), clip] if stages == 2 else [clip]
    report = describe(clip, clips[0], with_audio=query.get("with_audio") != "false")
    device = comfy.model_management.get_torch_device()
    budget = free_budget()
    plan, model = _plan(query.get("model", ""), clips, budget, device)
    return {
        "report": report,
        "model": model,
        "fits": plan.fits,
        "text": plan.verdict if plan.fits else plan.shortage,
        "budget": budget,
        "stages": [
            {"name": one.stage, "weights": one.weights, "working": one.activations} for one in plan.stages
        ],
    }


def _plan(name: str, clips: list[ClipPlan], budget: int, device: torch.device) -> tuple[MemoryPlan, str]:
    """The plan of ``clips`` for the model file ``name``, and what it is for."""
    try:
        if not name:
            # The search for a file of no name would read every file of models.
            raise ValueError("the graph names no file")
        path = file_lists.MODELS.path(name)
        execution = Execution(device=device, dtype=torch.bfloat16)
        sizes = NetworkSizes([path], None, execution=execution, numerics=Numerics.COMFY)
        return sizes.plan(clips, budget=budget), path.name
    except (ValueError, OSError):
        # A graph of other loaders, or a file that holds the transformer alone.
        size = released_size(_OTHERWISE)
        plan = plan_or_propose(
            lambda tried: plan_memory(budget, size, clips=tried, dtype=torch.bfloat16), clips
        )
        return plan, f"LTX-{_OTHERWISE} in bf16"
