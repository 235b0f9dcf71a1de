"""Stores an edit as JSON values, so that another process can finish it after sampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from ..conditioning.regions import Region, Rounding
from ..media.audio_mix import Piece, mix_pieces
from ..media.images import parse_colour
from ..run.generation import Generation
from ..run.request import Request, RequestOptions
from ..storage.files import JsonObject, ParsedJson
from .audio import CEILING_DB, add_audio, audio_length, plan_audio_of, text_to_audio
from .audio_windows import WINDOW_FRAMES, audio_windows
from .dub import SETTINGS, dub, plan_dub_of
from .edit import EditPlan, planned_size
from .extend import FADE_FRAMES, Extension, extend, new_length, plan_extension
from .footage import Footage
from .protocols import LongPipeline, OnSampled, Waveform
from .result import Edit
from .retake import Retake, plan_retake, retake
from .to_hdr import HDR, ToHdr, plan_hdr_of, to_hdr
from .to_hdr import SETTINGS as HDR_SETTINGS

EditKind = Literal["extend", "retake", "sound", "audio", "dub", "hdr"]


class EditArguments(TypedDict, total=False):
    """Arguments of the edits that are no fields of a request; each edit has some of them."""

    seconds: float | None
    frames: int | None
    keep_frames: int | None
    fade_frames: int
    ceiling_db: float
    window_frames: int
    video: Sequence[Region]
    audio: Sequence[Region]
    rounding: str
    paste: bool
    feather: int
    allow_past_end: bool
    exact_outside: bool
    pieces: Sequence[ParsedJson]
    source_fps: float | None
    high_quality: bool
    whole_stage2: bool
    folder: Path | None
    spare: Path | None


class RetakeRegions(TypedDict):
    """What a retake regenerates: lists of (start, end) in seconds of the video and of the audio.

    ``rounding`` says which latent frames belong to a region whose ends lie inside latent frames.
    """

    video: Sequence[Region]
    audio: Sequence[Region]
    rounding: Rounding


FIXED: Mapping[EditKind, RequestOptions] = {
    "sound": {"stages": 1},
    "audio": {"stages": 1},
    "dub": SETTINGS,
    "hdr": HDR_SETTINGS,
}
"""Fields of the request that a kind of edit decides."""

_OWN = frozenset(EditArguments.__annotations__)


def _retake_regions(options: Mapping[str, Any]) -> RetakeRegions:
    """Convert regions and rounding of a retake from JSON values, which have lists in place of tuples."""
    video, audio = (
        tuple((start, end) for start, end in options.get(name, ())) for name in ("video", "audio")
    )
    rounding = Rounding(options.get("rounding", Rounding.COVER.value))
    return {"video": video, "audio": audio, "rounding": rounding}


def source_record(source: Path, kind: EditKind, own: Mapping[str, Any]) -> JsonObject:
    """The field ``source_clip`` of the request of an edit: its source, and the regions in ``own``."""
    regions = {name: own[name] for name in ("video", "audio") if name in own}
    return {"path": str(source), "edit": kind, **regions}


def _with_pieces(made: Edit, pieces: Sequence[ParsedJson]) -> Edit:
    """The edit with ``pieces`` of audio recorded among its arguments, so that it can be repeated."""
    recorded = {**made.settings["retake"], "pieces": [dict(piece) for piece in pieces]}
    return replace(made, settings={**made.settings, "retake": recorded})


@dataclass(frozen=True, kw_only=True)
class EditTask:
    """A stored call of one of the functions that edit a clip, such as ``extend`` or ``retake``.

    ``kind`` says which: "sound" is ``add_audio``, "audio" is ``text_to_audio``, "hdr" is ``to_hdr``, any
    other kind is the name of its function. ``prompt`` is the prompt of the call, ``source`` its video file
    (None for "audio"), and ``options`` are its other arguments, as JSON values. Of these ``source_fps`` is
    the frame rate at which a ``source`` that is a folder of EXR images is read, and ``pieces`` of a retake
    are keywords of :class:`Piece`: audio that takes the place of that of the source.
    """

    kind: EditKind
    prompt: str
    source: Path | None = None
    options: ParsedJson = field(default_factory=dict)

    def make(
        self,
        pipeline: LongPipeline,
        *,
        sampled: Generation | None = None,
        on_sampled: OnSampled | None = None,
    ) -> Edit | Waveform:
        """Call the function that ``kind`` names with the stored arguments, and return its result.

        That is an edit, or for the kind "audio" (waveform (C, S), rate in Hz): C channels, S samples.

        ``sampled``, if it is not None, is the result of an earlier sampling run, which is used in place of
        sampling. ``on_sampled`` is called with the sampled clip before it is decoded. Raises what that
        function raises.
        """
        options = {**self.options, "sampled": sampled, "on_sampled": on_sampled}
        # Reading the source has used them.
        options.pop("source_fps", None)
        pieces = options.pop("pieces", None)
        if self.kind == "audio":
            return text_to_audio(pipeline, self.prompt, **options)
        source = self.footage()
        if self.kind == "extend":
            return extend(pipeline, self.prompt, source, **options)
        if self.kind == "dub":
            return dub(pipeline, self.prompt, source, **options)
        if self.kind == "hdr":
            return to_hdr(pipeline, self.prompt, source, **options)
        if self.kind == "sound":
            return add_audio(pipeline, self.prompt, source, **options)
        made = retake(pipeline, self.prompt, source, **{**options, **_retake_regions(options)})
        return _with_pieces(made, pieces) if pieces else made

    def plan(self, pipeline: LongPipeline) -> tuple[EditPlan | None, Request]:
        """Return the plan and the request of the run that :meth:`make` would sample, and check both.

        Nothing is encoded or sampled. The plan is None for the kind "audio". Raises what the function that
        ``kind`` names raises before it encodes and samples.
        """
        fields = {name: value for name, value in self.options.items() if name not in _OWN}
        own = {name: value for name, value in self.options.items() if name in _OWN}
        plan = None if self.kind == "audio" else self._plan(pipeline, own)
        if plan is None:
            size = audio_length(pipeline, own["seconds"], fields)
        else:
            size = planned_size(plan, fields)
            size.update(plan.settings if isinstance(plan, ToHdr) else FIXED.get(self.kind, {}))
        request = Request(prompt=self.prompt, **{**fields, **size})
        run = request
        if plan is not None and self.kind == "sound":
            windows = audio_windows(plan.clip, own.get("window_frames", WINDOW_FRAMES))
            # Memory is that of one window, and the first one is the longest.
            run = request.changed(num_frames=windows[0].clip.frames)
        pipeline.check(run, further=plan is not None, source=None if plan is None else plan.source.size)
        return plan, request

    def _plan(self, pipeline: LongPipeline, own: Mapping[str, Any]) -> EditPlan:
        source, stages = self.footage(), self.options.get("stages", 1)
        if self.kind == "dub":
            return plan_dub_of(pipeline, source)
        if self.kind == "hdr":
            how = {name: own[name] for name in ("high_quality", "whole_stage2") if name in own}
            return plan_hdr_of(pipeline, source, self.options.get("hdr", HDR), **how)
        if self.kind == "sound":
            return plan_audio_of(pipeline, source, own.get("ceiling_db", CEILING_DB))
        if self.kind == "extend":
            plan: Extension | Retake = plan_extension(
                source,
                own.get("keep_frames"),
                new_length(source, seconds=own.get("seconds"), frames=own.get("frames")),
                own.get("fade_frames", FADE_FRAMES),
                stages=stages,
                numerics=pipeline.numerics,
            )
        else:
            plan = plan_retake(
                source,
                **_retake_regions(own),
                **{name: own[name] for name in ("paste", "feather", "allow_past_end") if name in own},
                stages=stages,
                numerics=pipeline.numerics,
            )
        if own.get("exact_outside"):
            # It reads the packets of the source, some of which may not be copied.
            plan.recut()
        return plan

    def footage(self) -> Footage:
        """Open the source; its audio is that of the ``pieces``, if the task has any."""
        assert self.source is not None
        footage = Footage.read(
            self.source,
            background=parse_colour(self.options.get("background", "black")),
            # The source of this kind is SDR, and its result alone is HDR.
            hdr=None if self.kind == "hdr" else self.options.get("hdr"),
            fps=self.options.get("source_fps"),
        )
        pieces = [Piece(**piece) for piece in self.options.get("pieces", ())]
        return replace(footage, audio=mix_pieces(pieces, footage.seconds)) if pieces else footage

    def settings(self) -> JsonObject:
        """The task as JSON values, which :meth:`from_settings` converts back."""
        return {
            "kind": self.kind,
            "prompt": self.prompt,
            "source": None if self.source is None else str(self.source.resolve()),
            # The size finds an exchanged file at once, without reading it.
            "bytes": None if self.source is None else self.source.stat().st_size,
            "options": dict(self.options),
        }

    @classmethod
    def from_settings(cls, settings: ParsedJson) -> EditTask:
        """Make a task from the JSON values of :meth:`settings`.

        Raises ValueError if the source is gone or its size in bytes has changed.
        """
        source = None if settings["source"] is None else Path(settings["source"])
        if source is not None and (not source.exists() or source.stat().st_size != settings["bytes"]):
            raise ValueError(
                f"{source} has changed or is gone since the edit was sampled: put the file back, or start "
                "the edit again without --resume"
            )
        return cls(
            kind=settings["kind"], prompt=settings["prompt"], source=source, options=settings["options"]
        )
