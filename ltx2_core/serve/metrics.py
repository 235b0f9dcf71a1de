"""Figures of the service in the text format of Prometheus."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import PlainTextResponse

from .routing import service_of
from .service import Service
from .stored_job import State


def metrics(request: Request) -> PlainTextResponse:
    """Jobs by state, finished clips, seconds by part of the work, memory."""
    text = "\n".join(_lines(service_of(request))) + "\n"
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _lines(service: Service) -> Iterator[str]:
    counts = service.store.counts()
    yield from _head("ltx2_jobs", "gauge", "Jobs in the queue and results that have not expired, by state.")
    yield from (f'ltx2_jobs{{state="{state.value}"}} {counts[state]}' for state in State)
    counted = service.meters.read()
    yield from _head("ltx2_clips_total", "counter", "Clips that were finished since the start.")
    yield f"ltx2_clips_total {counted.clips}"
    yield from _head("ltx2_seconds_total", "counter", "Seconds of work on finished clips, by part.")
    yield from (f'ltx2_seconds_total{{part="{part}"}} {value:.3f}' for part, value in counted.seconds.items())
    yield from _head("ltx2_sampling_seconds_total", "counter", "Seconds of sampling, by stage.")
    for stage, value in counted.stages.items():
        yield f'ltx2_sampling_seconds_total{{stage="{stage}"}} {value:.3f}'
    yield from _head(
        "ltx2_tokens_total", "counter", "Latent tokens times steps of finished clips; its rate is tokens/s."
    )
    yield f"ltx2_tokens_total {counted.tokens}"
    yield from _head(
        "ltx2_tokens_per_second", "gauge", "Tokens of the last clip in a second of its sampling."
    )
    yield f"ltx2_tokens_per_second {counted.tokens_per_s:.1f}"
    yield from _head("ltx2_draining", "gauge", "1 if the server takes no new jobs.")
    yield f"ltx2_draining {int(service.draining.is_set())}"
    yield from _head("ltx2_resident_bytes", "gauge", "System memory of the server and its other processes.")
    for name, pid in (("server", os.getpid()), *_processes(service)):
        resident = _resident(pid)
        if resident is not None:
            yield f'ltx2_resident_bytes{{process="{name}"}} {resident}'
    yield from _head("ltx2_device_bytes", "gauge", "Most device memory that a job's process has reserved.")
    yield f"ltx2_device_bytes {counted.device_bytes}"


def _processes(service: Service) -> Iterator[tuple[str, int]]:
    """Name and number of each process of this machine that runs jobs."""
    for number, worker in enumerate(service.workers):
        pid = worker.pid
        if pid is not None:
            yield f"worker {number}", pid


def _head(name: str, kind: str, text: str) -> tuple[str, str]:
    return f"# HELP {name} {text}", f"# TYPE {name} {kind}"


def _resident(pid: int) -> int | None:
    """Bytes of system memory that a process uses; None where the system does not tell, and if it is gone."""
    if sys.platform != "linux":
        return None
    import resource

    try:
        # No file of a disk.
        text = Path(f"/proc/{pid}/statm").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text.split()[1]) * resource.getpagesize()
