"""The steps that all edits share: plan a run, condition it, sample it, join the result with the source."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from ..run.generation import Generation
from ..run.input_files import file_record
from ..run.progress import OnStep, Stop, check_functions
from ..run.request import Request, RequestOptions
from ..shapes import ClipPlan
from .footage import Footage
from .protocols import Encoders, OnSampled, Pipeline, SampledClip, StageInput
from .result import Edit

log = logging.getLogger(__name__)


class EditPlan(Protocol):
    """A planned edit of a source: the conditioning of its sampling run, and how the result is joined.

    ``source`` is the clip to edit, ``clip`` the size and length of the sampling run. ``regenerates_video`` is
    False if only the audio is new; then the result has the frames of the source, and no sampled frames are
    decoded.
    """

    @property
    def source(self) -> Footage: ...

    @property
    def clip(self) -> ClipPlan: ...

    @property
    def regenerates_video(self) -> bool: ...

    def conditioning(self, codecs: Encoders) -> Sequence[StageInput]:
        """The conditioning items of the sampling run; in every sampling stage they are applied in this order.

        ``codecs`` encode frames and audio.
        """
        ...

    def finish(self, sampled: SampledClip) -> Edit:
        """Join the sampled clip with the source to the finished clip."""
        ...

    def describe(self) -> str:
        """A text for reports that says what is preserved of the source and what is generated."""
        ...


def make_edit(pipeline: Pipeline, plan: EditPlan, prompt: str, **options: Any) -> Edit:
    """Run a planned edit: condition and sample its run, and join the result with the source.

    ``prompt`` describes the clip; ``options`` are those of :func:`sampled_clip`. Raises ValueError if the
    source is a folder of EXR images and ``options`` have another colour space, ``hdr``, or none, and
    TypeError if they have ``fps``, which is that of the source.
    """
    if plan.source.hdr not in (None, options.get("hdr")):
        raise ValueError(f"hdr={options.get('hdr')}: the source was read with hdr={plan.source.hdr}")
    options.update(planned_size(plan, options))
    if plan.regenerates_video:
        _warn_of_odd_size(plan.source)
    return finished(plan, sampled_clip(pipeline, prompt, lambda: plan.conditioning(pipeline), **options))


def _warn_of_odd_size(source: Footage) -> None:
    """Log a warning if the result has an odd width or height, because a saved file loses a row or column.

    That is so for a ``source`` of such a size whose ``fit`` is "own".
    """
    width, height = source.size
    if source.fit == "own" and (width % 2 or height % 2):
        log.warning(
            "the source is %dx%d: with a pixel format that needs even sizes, as yuv420p of H.264 does, the "
            "file will have %dx%d, without the last column or row; yuv444p holds all of it",
            *(width, height, width // 2 * 2, height // 2 * 2),
        )


def finished(plan: EditPlan, sampled: SampledClip) -> Edit:
    """Join the sampled clip of a planned edit with its source.

    The settings of the result also name the file of the source (None unless the source is a whole video
    file), and have the notes of the source, which say what was changed when it was read. A result of a model
    without audio has none where the source has none.
    """
    edit, source = plan.finish(sampled), plan.source.file
    if plan.source.audio is None and isinstance(sampled, Generation) and sampled.silent:
        edit = edit.silent()
    settings = {**edit.settings, "source_file": None if source is None else file_record(source.path)}
    if plan.source.notes:
        settings["source_notes"] = [*plan.source.notes]
    return replace(edit, settings=settings)


def planned_size(plan: EditPlan, options: Mapping[str, Any]) -> RequestOptions:
    """The fields width, height, num_frames and fps of a request, which the plan of an edit decides.

    Raises TypeError if ``options``, the other fields of the request, contain fps.
    """
    if "fps" in options:
        raise TypeError("fps is that of the source of an edit and cannot be set")
    clip = plan.clip
    return {"width": clip.width, "height": clip.height, "num_frames": clip.frames, "fps": plan.source.fps}


def sampled_clip(
    pipeline: Pipeline,
    prompt: str,
    conditioning: Callable[[], Sequence[StageInput]],
    *,
    sampled: Generation | None = None,
    on_sampled: OnSampled | None = None,
    on_step: OnStep | None = None,
    stop: Stop | None = None,
    **options: Any,
) -> Generation:
    """Sample a clip with additional conditioning; ``options`` are further fields of :class:`Request`.

    ``conditioning`` is a function that returns the conditioning items; it is called only if something is
    sampled. ``on_step`` is called after each sampling step, ``stop`` is asked whether to end early, as in the
    pipeline. ``on_sampled`` is called with the result before it is decoded, for example to save its latents
    (``save_latents``). ``sampled`` is the result of an earlier run with the same arguments (``resume``): if
    it is not None, it is checked and returned, and nothing is sampled.

    Raises ValueError if size, length or frame rate of ``sampled`` differ from those of the request, and
    without ``sampled`` what :meth:`Pipeline.check` raises.
    """
    check_functions(on_step=on_step, stop=stop, on_sampled=on_sampled)
    request = Request(prompt=prompt, **options)
    if sampled is None:
        # Some conditioning is encoded at once, so everything else is judged before it.
        pipeline.check(request, further=True)
        result = sample(pipeline, request, conditioning(), on_step, stop)
        if on_sampled is not None:
            on_sampled(result)
        return result
    return check_resumed(pipeline, request, sampled)


def check_resumed(pipeline: Pipeline, request: Request, sampled: Generation) -> Generation:
    """Return ``sampled``, the result of an earlier run of ``request``, if it fits.

    Raises ValueError if the size, length or frame rate of ``sampled`` differ from those of the request.
    """
    expected = pipeline.stages(request)[-1].clip
    # Latents of another size or rate could be decoded, but not be joined with the source.
    sizes = [(clip.width, clip.height, clip.frames, clip.fps) for clip in (expected, sampled.clip)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            "the saved latents are {}x{}, {} frames at {:g} fps".format(*sizes[1])
            + ", and this edit makes {}x{}, {} frames at {:g} fps".format(*sizes[0])
            + ": use the source and the options that they were sampled with"
        )
    return sampled


def sample(
    pipeline: Pipeline,
    request: Request,
    conditioning: Sequence[StageInput],
    on_step: OnStep | None,
    stop: Stop | None,
) -> Generation:
    """Run ``request`` with additional conditioning; ``on_step`` and ``stop`` are those of the pipeline.

    All edits call the pipeline only here.
    """
    return pipeline(request, conditioning=conditioning, on_step=on_step, stop=stop)
