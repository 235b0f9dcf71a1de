"""Checks a job before it is queued: its values, its files, and what the memory of this machine allows."""

from __future__ import annotations

from collections.abc import Sequence

from ..editing.long_video import first_window, planned_long
from ..media import Destination, Encoding
from ..media.encoding import check_encoding
from ..run.pipeline import LTX2Pipeline
from ..run.stages import Stage
from .allowance import Allowance
from .models import Checkers
from .specs import ClipSpec, JobSpec


class TooLarge(ValueError):
    """Raised for a job of more pixels, frames and steps than the service or its memory allows."""


def check_size(checkers: Checkers, spec: JobSpec) -> None:
    """Raise :class:`TooLarge` for a job that is too large for the service or for the memory of the device.

    Only headers of model files are read. Raises ValueError for sizes and lengths that cannot be planned.
    """
    with checkers.lock:
        pipeline = checkers.pipeline(spec.model)
        # A clip that will be refused takes no memory, and may not be planned at all.
        made = [clip for clip in spec.clips if clip.refused is None]
        planned = [pipeline.stages(clip.whole_request()) for clip in made]
        # Before the plans, which take longer the larger a clip is.
        _check_work(sum(map(work_of, planned)), checkers.allowance(spec.model))
        budget = pipeline.networks.max_memory
        for stages in planned:
            plan = None if budget is None else pipeline.plan(stages, budget)
            if plan is not None and not plan.fits:
                raise TooLarge(plan.shortage)


def check_job(checkers: Checkers, spec: JobSpec) -> None:
    """Check everything about a job that can be checked before a network is loaded.

    All inputs and the headers of all files are read. Raises :class:`TooLarge` as :func:`check_size` does, and
    TypeError, ValueError or OSError for what cannot be made.
    """
    work = 0.0
    with checkers.lock:
        pipeline, allowed = checkers.pipeline(spec.model), checkers.allowance(spec.model)
        for clip in spec.clips:
            _check_file(clip)
            pipeline.set_loras(clip.loras, stage2_loras=clip.stage2_loras)
            work += _work(pipeline, clip, allowed)
        _check_work(work, allowed)


def work_of(stages: Sequence[Stage]) -> float:
    """Width x height x frames x steps of ``stages`` together, in pixels."""
    return float(
        sum(
            stage.sampled.width * stage.sampled.height * stage.sampled.frames * (len(stage.sigmas) - 1)
            for stage in stages
        )
    )


def _work(pipeline: LTX2Pipeline, clip: ClipSpec, allowed: Allowance) -> float:
    """The pixels x frames x steps of a clip, all of which is checked."""
    if clip.command == "generate":
        request = clip.whole_request()
        # Before the inputs are read and memory is planned, which takes longer the larger a clip is.
        _check_work(work_of(pipeline.stages(request)), allowed)
        return work_of(pipeline.check(request))
    if clip.command == "long":
        prompts, how, fields = clip.long()
        long, request, _ = planned_long(pipeline, prompts, how, **fields)
        return work_of(pipeline.stages(first_window(request, long))) * len(long.windows)
    _, request = clip.edit().plan(pipeline)
    return work_of(pipeline.stages(request))


def _check_work(work: float, allowed: Allowance) -> None:
    refusal = allowed.refusal(work)
    if refusal is not None:
        raise TooLarge(refusal)


def _check_file(clip: ClipSpec) -> None:
    """Raise ValueError if a clip cannot be written as this kind of file with these options."""
    hdr = clip.request.get("hdr") or ("srgb-linear" if clip.command == "hdr" else None)
    encoding = Encoding(**clip.encoding, hdr=hdr)
    destination = Destination.of(f"clip.{clip.suffix}", hdr=hdr is not None)
    audio_alone = clip.command == "audio" or clip.request.get("video") is False
    if audio_alone or clip.command == "sound":
        destination.check_audio()
    check_encoding(destination.format, encoding, audio_alone=audio_alone)
