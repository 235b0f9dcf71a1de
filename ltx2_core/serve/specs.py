"""What a job is to make, as JSON values in the queue: checked, with paths found and seeds drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from ..editing import EditTask, LongVideo
from ..editing.task import FIXED, EditKind, source_record
from ..run.flat_options import RequestFields
from ..run.request import Request
from ..run.request_json import from_json
from ..storage.files import JsonObject, ParsedJson

Command: TypeAlias = Literal["generate", "long", "extend", "retake", "sound", "audio", "dub", "hdr"]
_LORAS = ("loras", "stage2_loras")


@dataclass(frozen=True, kw_only=True)
class ClipSpec:
    """One clip of a job.

    ``command`` is that of ``ltx2`` that would make it; "audio" is ``ltx2 sound`` without a video. ``request``
    are the fields of its request that were stated, with a seed, and ``own`` the arguments that only this
    command has. ``source`` is the video of an edit. ``loras`` are pairs (path, strength), ``stage2_loras``
    those that are added in the second stage. ``suffix`` is the kind of file, and ``encoding`` are its
    options. ``refused`` is the error with which the clip fails, for an API that promises a job that fails in
    place of a refusal; None if it can be made.
    """

    command: Command
    request: ParsedJson
    own: ParsedJson = field(default_factory=dict)
    source: str | None = None
    loras: tuple[tuple[str, float], ...] = ()
    stage2_loras: tuple[tuple[str, float], ...] = ()
    suffix: str = "mp4"
    encoding: ParsedJson = field(default_factory=dict)
    refused: str | None = None

    def fields(self) -> RequestFields:
        """The fields of the request as keywords. Raises ValueError for values of a wrong type."""
        return from_json(self.request)

    def whole_request(self) -> Request:
        """The request of the clip, or for an edit that of the parts that the source does not decide."""
        fields = self.fields()
        if self.command != "generate" and self.command != "long":
            fields = {**fields, **FIXED.get(self.command, {})}
        return Request(**fields)

    def edit(self, callbacks: Mapping[str, Any] | None = None) -> EditTask:
        """The edit as a task that can be planned or run; ``callbacks`` are more arguments of its function."""
        fields: dict[str, Any] = {**self.fields()}
        prompt = fields.pop("prompt")
        kind: EditKind = self.command  # type: ignore[assignment]
        source = None if self.source is None else Path(self.source)
        if source is not None:
            fields["source_clip"] = source_record(source, kind, self.own)
        options = {**fields, **self.own, **(callbacks or {})}
        return EditTask(kind=kind, prompt=prompt, source=source, options=options)

    def long(self) -> tuple[str, LongVideo, dict[str, Any]]:
        """The prompts, the division into windows and the fields of the request of a long clip."""
        fields: dict[str, Any] = {**self.fields()}
        return fields.pop("prompt"), LongVideo(**self.own), fields


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What a job makes: ``clips``, one after the other, by the model with the id ``model``."""

    model: str
    clips: tuple[ClipSpec, ...]

    def json(self) -> JsonObject:
        return asdict(self)

    @classmethod
    def of(cls, values: ParsedJson) -> JobSpec:
        """Read the JSON values of :meth:`json`."""
        return cls(model=values["model"], clips=tuple(_clip(clip) for clip in values["clips"]))


def _clip(values: ParsedJson) -> ClipSpec:
    # JSON has lists in place of tuples.
    loras = {name: tuple((path, strength) for path, strength in values.get(name, ())) for name in _LORAS}
    return ClipSpec(**{**values, **loras})
