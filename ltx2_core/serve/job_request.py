"""The body of ``POST /v1/jobs``: the JSON of a request for each command, and the job it makes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field, JsonValue, model_validator
from typing_extensions import Self

from ..conditioning.regions import Region
from ..run.request import Request
from ..storage.files import JsonObject
from .roots import NamedFiles
from .specs import ClipSpec, Command, JobSpec

Seconds = Annotated[float, Field(ge=0)]
Spans = Annotated[list[tuple[Seconds, Seconds]], Field(max_length=1000)]


class JobLora(BaseModel, extra="forbid", allow_inf_nan=False):
    """A LoRA: a file below the folders of LoRAs, and its strength."""

    path: str
    strength: Annotated[float, Field(ge=-100, le=100)] = 1.0


class JobEncoding(BaseModel, extra="forbid"):
    """How the file is encoded; null is the default of the kind of file."""

    video_codec: str | None = None
    crf: int | None = None
    encoder_preset: str | None = None
    pixel_format: str | None = None
    audio_bitrate: int | str | None = None


class JobPiece(BaseModel, extra="forbid", allow_inf_nan=False):
    """Seconds ``start_s`` to ``end_s`` (null: the end) of an audio file, heard from ``at_s`` on."""

    path: str
    at_s: Seconds = 0.0
    start_s: Seconds = 0.0
    end_s: Seconds | None = None
    gain_db: Annotated[float, Field(ge=-100, le=40)] = 0.0
    fade_s: Annotated[float, Field(ge=0, le=60)] = 0.0


class JobArguments(BaseModel, extra="forbid", allow_inf_nan=False):
    """Arguments of a command that are no part of its request, as the options of ``ltx2 COMMAND`` say them."""

    seconds: Annotated[float, Field(gt=0)] | None = None
    frames: Annotated[int, Field(gt=0)] | None = None
    keep_frames: Annotated[int, Field(gt=0)] | None = None
    fade_frames: Annotated[int, Field(ge=0)] | None = None
    exact_outside: bool | None = None
    video: Spans | None = None
    audio: Spans | None = None
    rounding: Literal["inside", "cover", "touch"] | None = None
    paste: bool | None = None
    feather: Annotated[int, Field(ge=0)] | None = None
    allow_past_end: bool | None = None
    pieces: Annotated[list[JobPiece], Field(max_length=1000)] | None = None
    ceiling_db: Annotated[float, Field(ge=-200, le=0)] | None = None
    window_frames: Annotated[int, Field(gt=0)] | None = None
    overlap_frames: Annotated[int, Field(ge=0)] | None = None
    overlap_strength: Annotated[float, Field(ge=0, le=1)] | None = None
    adain_factor: Annotated[float, Field(ge=0, le=1)] | None = None


_ARGUMENTS: Final[Mapping[Command, frozenset[str]]] = {
    "generate": frozenset(),
    "long": frozenset({"window_frames", "overlap_frames", "overlap_strength", "adain_factor"}),
    "extend": frozenset({"seconds", "frames", "keep_frames", "fade_frames", "exact_outside"}),
    "retake": frozenset(
        {"video", "audio", "rounding", "paste", "feather", "allow_past_end", "exact_outside", "pieces"}
    ),
    "sound": frozenset({"ceiling_db", "window_frames"}),
    "audio": frozenset({"ceiling_db", "seconds"}),
    "dub": frozenset(),
    "hdr": frozenset(),
}
"""Command -> the names of its own arguments."""
_WITH_SOURCE: Final = frozenset({"extend", "retake", "sound", "dub", "hdr"})


class JobRequest(BaseModel, extra="forbid"):
    """The body of ``POST /v1/jobs``.

    ``request`` has the fields of a request, such as ``{"prompt": "a ball", "width": 768}``: see
    ``/v1/schema``. Files in it are named relative to the folders of the server, or "uploads/NAME". ``shots``
    is a shot list in place of them, in which ``request`` replaces single values.
    """

    command: Command = "generate"
    model: str
    request: dict[str, JsonValue] = {}
    shots: dict[str, JsonValue] | None = None
    arguments: JobArguments = JobArguments()
    source: str | None = None
    loras: Annotated[list[JobLora], Field(max_length=16)] = []
    stage2_loras: Annotated[list[JobLora], Field(max_length=16)] = []
    format: Literal["mp4", "mov", "mkv", "webm", "gif", "webp", "wav", "flac", "mp3", "m4a"] | None = None
    encoding: JobEncoding = JobEncoding()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Raise ValueError for arguments that the command does not have, and a source it lacks or needs."""
        others = self.own().keys() - _ARGUMENTS[self.command]
        if others:
            raise ValueError(f"{self.command} has no {', '.join(sorted(others))}: leave it out")
        if (self.command in _WITH_SOURCE) != (self.source is not None):
            needs = "needs a source, the video" if self.source is None else "takes no source: leave it out"
            raise ValueError(f"{self.command} {needs}")
        if self.command == "audio" and self.arguments.seconds is None:
            raise ValueError("audio needs arguments.seconds, its length")
        if self.shots is not None and self.command != "generate":
            raise ValueError(f"{self.command} takes no shots: they are for generate")
        for name, values in (("request", self.request), ("shots", self.shots)):
            if not _finite(values):
                raise ValueError(f"{name}: numbers must be finite")
        for name in ("source_clip", "noise", "latents", "prompt_embeds"):
            if self.request.get(name) is not None:
                raise ValueError(f"request.{name} cannot be set by a client: leave it out")
        return self

    def own(self) -> dict[str, Any]:
        """The arguments that were stated."""
        return self.arguments.model_dump(exclude_none=True)


def spec_of(body: JobRequest, roots: NamedFiles) -> JobSpec:
    """Make the spec of a job, in which files have whole paths and a seed is drawn.

    Raises :class:`OutsideRoots` for files that no client may read, and ValueError or TypeError for values
    that no request has, and for a shot list, which has to be converted before.
    """
    if body.shots is not None:
        raise ValueError("shots are read by POST /v1/jobs alone: give the fields of a request")
    fields: dict[str, Any] = _with_paths(body.request, lambda name: str(roots.input(name)))
    own = body.own()
    for name in ("video", "audio"):
        if name in own:
            regions: list[Region] = own[name]
            own[name] = tuple(regions)
    if "pieces" in own:
        own["pieces"] = [{**piece, "path": str(roots.input(piece["path"]))} for piece in own["pieces"]]
    if fields.get("prompt") is None:
        raise ValueError("request.prompt is missing: describe the clip")
    clip = ClipSpec(
        command=body.command,
        request=fields,
        own=own,
        source=None if body.source is None else str(roots.input(body.source)),
        loras=_with_strengths(body.loras, roots),
        stage2_loras=_with_strengths(body.stage2_loras, roots),
        suffix=body.format or ("wav" if body.command == "audio" else "mp4"),
        encoding=body.encoding.model_dump(exclude_none=True),
    )
    # A drawn seed is stored, so that a resumed job makes the same clip.
    made: dict[str, Any] = {**clip.fields()}
    seed = Request(prompt="", seed=made.get("seed", 0)).seed
    return JobSpec(model=body.model, clips=(replace(clip, request={**clip.request, "seed": seed}),))


def _with_strengths(loras: list[JobLora], roots: NamedFiles) -> tuple[tuple[str, float], ...]:
    return tuple((str(roots.lora(lora.path)), lora.strength) for lora in loras)


def body_of(spec: JobSpec) -> JsonObject:
    """The body from which :func:`spec_of` makes the first clip of ``spec``, with whole paths."""
    clip = spec.clips[0]
    # The seed is that which was drawn, so that the clip is the same.
    return {
        "command": clip.command,
        "model": spec.model,
        "request": dict(clip.request),
        "arguments": dict(clip.own),
        "source": clip.source,
        "loras": [{"path": path, "strength": strength} for path, strength in clip.loras],
        "stage2_loras": [{"path": path, "strength": strength} for path, strength in clip.stage2_loras],
        "format": clip.suffix,
        "encoding": dict(clip.encoding),
    }


def _with_paths(request: Mapping[str, Any], found: Callable[[str], str]) -> dict[str, Any]:
    """A copy of a request's JSON in which ``found`` has replaced the name of each file."""
    fields = dict(request)
    for name in ("image", "audio", "reference_audio"):
        if isinstance(fields.get(name), str):
            fields[name] = found(fields[name])
    for name in ("images", "references"):
        if isinstance(fields.get(name), list):
            fields[name] = [
                {**entry, "source": found(entry["source"])}
                if isinstance(entry, Mapping) and isinstance(entry.get("source"), str)
                else entry
                for entry in fields[name]
            ]
    return fields


def _finite(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    try:
        return not isinstance(value, int | float) or math.isfinite(value)
    except OverflowError:
        # JSON has whole numbers that are larger than any float.
        return False
