"""Figures of the service in the text format of Prometheus."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from .routing import service_of
from .service import Service
from .store import State


def metrics(request: Request) -> PlainTextResponse:
    """Jobs by state, finished clips, seconds by part of the work, memory."""
    text = "\n".join(_lines(service_of(request))) + "\n"
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _lines(service: Service) -> Iterator[str]:
    counts = service.store.counts()
    yield from _head("ltx2_jobs", "gauge", "Jobs in the queue and results that have not expired, by state.")
    yield from (f'ltx2_jobs{{state="{state.value}"}} {counts[state]}' for state in State)
    seconds, clips = service.meters.read()
    yield from _head("ltx2_clips_total", "counter", "Clips that were finished since the start.")
    yield f"ltx2_clips_total {clips}"
    yield from _head("ltx2_seconds_total", "counter", "Seconds of work on finished clips, by part.")
    yield from (f'ltx2_seconds_total{{part="{part}"}} {value:.3f}' for part, value in seconds.items())
    yield from _head("ltx2_draining", "gauge", "1 if the server takes no new jobs.")
    yield f"ltx2_draining {int(service.draining.is_set())}"
    resident = _resident()
    if resident is not None:
        yield from _head("ltx2_resident_bytes", "gauge", "System memory of the process.")
        yield f"ltx2_resident_bytes {resident}"
    device = service.settings.execution.device
    if device.type == "cuda":
        yield from _head("ltx2_device_bytes", "gauge", "Device memory of the process.")
        yield f'ltx2_device_bytes{{kind="allocated"}} {torch.cuda.memory_allocated(device)}'
        yield f'ltx2_device_bytes{{kind="reserved"}} {torch.cuda.memory_reserved(device)}'


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _resident() -> int | None:
    """Bytes of system memory that this process uses; None where the system does not tell."""
    if sys.platform != "linux":
        return None
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 no file of a disk
        return int(file.read().split()[1]) * resource.getpagesize()
