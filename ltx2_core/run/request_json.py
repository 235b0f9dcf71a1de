"""Converts a request to JSON values by keyword and back, with a schema; the tags of files hold these values.

The format is that of version 0.1. Pydantic reads the values, so that an error names the place of a wrong
type; bounds and descriptions in the schema come from the table of options.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from functools import cache
from os import PathLike, fspath
from typing import Annotated, Any, Literal, TypeAlias, cast, get_type_hints

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError, create_model
from torch import Tensor

from ..conditioning.inputs import ImageAt, SourceClip, VideoReference
from ..sampling.guidance import Guidance, GuidanceSchedule
from ..shapes import Snap
from ..storage.files import JsonObject, ParsedJson
from ..text.prompt import PromptEmbeds
from ..types import AVLatent
from . import flat_options
from .flat_options import FIELDS, RequestFields, RequestOptions
from .options import BY_RECIPE, OPTIONS


class ImageAtJson(BaseModel, extra="forbid"):
    """The JSON form of :class:`ImageAt`, an image that guides the clip at a frame."""

    source: str
    frame: int = 0
    strength: float = 1.0
    crf: int | None = None


class ReferenceJson(BaseModel, extra="forbid"):
    """The JSON form of :class:`VideoReference`, a control video or a reference of an IC-LoRA."""

    source: str
    strength: float = 1.0
    scale: int | None = None
    every: int | None = None
    frame: int = 0
    frames: int | None = None
    start_s: float = 0.0


def _guidance_kind(value: Any) -> str:
    return "schedule" if isinstance(value, Mapping) and "entries" in value else "plain"


_AnyGuidance: TypeAlias = Annotated[
    Annotated[Guidance, Tag("plain")] | Annotated[GuidanceSchedule, Tag("schedule")],
    Discriminator(_guidance_kind),
]

_JSON_TYPES: Mapping[str, object] = {
    "prompt": str,
    "snap": Literal["floor", "nearest", "ceil", "error"],
    "image": str | None,
    "audio": str | None,
    "reference_audio": str | None,
    "audio_regions": list[tuple[float, float]],
    "latents": None,
    "noise": None,
    "prompt_embeds": None,
    "images": list[ImageAtJson],
    "references": list[ReferenceJson],
    "source_clip": SourceClip | None,
    "sigmas": list[float] | None,
    "stage2_sigmas": list[float] | None,
    "guidance": _AnyGuidance | None,
    "generated_keyframes": list[int] | int | None,
}
"""Keyword -> the type of its JSON value, for keywords that also take values which JSON does not have."""


def to_json(request: Any) -> JsonObject:
    """Convert a :class:`Request` to JSON values by keyword.

    A file is its path, and a value that JSON does not have a note such as "<Tensor in memory>". Encoded
    prompts are None, because the texts are in the settings.
    """
    plain = {name: _plain(getattr(request, name)) for name in FIELDS}
    # A value that JSON does not have is an error here, before anything is sampled or written.
    json.dumps(plain)
    return plain


def from_json(settings: ParsedJson) -> RequestFields:
    """Convert JSON values of :func:`to_json` back to the keywords of a request.

    Raises ValueError for unknown names, for values of a wrong type, and for notes such as
    "<Tensor in memory>", whose values cannot be restored.
    """
    if not isinstance(settings, Mapping):
        raise ValueError(f"settings must be an object of names and values; got {type(settings).__name__}")
    # Before pydantic, whose message would not name the cause: a file of a newer version.
    unknown = settings.keys() - FIELDS.keys()
    if unknown:
        raise ValueError(
            f"the settings have {', '.join(sorted(unknown))}, which this version does not support: use the "
            "version that wrote them"
        )
    for name, value in settings.items():
        if in_memory(value):
            raise ValueError(f"{name} was {_note(value)} and is not in the settings: give it again")
    try:
        model = _model().model_validate(dict(settings))
    except ValidationError as error:
        raise ValueError(_one_line(error)) from None
    # Only the fields that were stated, because a request tells a default from a value that was chosen.
    values = {name: getattr(model, name) for name in model.model_fields_set}
    if "snap" in values:
        values["snap"] = Snap(values["snap"])
    for name, kind in (("images", ImageAt), ("references", VideoReference)):
        if name in values:
            values[name] = tuple(kind(**vars(one)) for one in values[name])
    return cast(RequestFields, values)


def schema() -> JsonObject:
    """The JSON schema of the values that :func:`to_json` returns."""
    whole = _model().model_json_schema()
    whole["title"] = "LTX-2 request"
    for option in OPTIONS:
        entry = whole["properties"].get(option.name) if option.request else None
        if entry is None:
            continue
        entry["description"] = option.help + (f" Unit: {option.unit}." if option.unit else "")
        lowest = "exclusiveMinimum" if option.above else "minimum"
        for key, bound in zip((lowest, "maximum"), option.range, strict=True):
            if bound is not None and option.kind in ("int", "float"):
                entry[key] = bound
        if option.choices:
            entry["examples"] = list(option.choices)
        if option.default is BY_RECIPE:
            entry["description"] += " null: by the recipe of the checkpoint."
    return whole


@cache
def _model() -> type[BaseModel]:
    plain = {name: kind for name, kind in RequestOptions.__annotations__.items() if name not in _JSON_TYPES}
    # The sources of frames and audio are no JSON types, and cannot be evaluated as annotations either.
    hints = get_type_hints(type("Plain", (), {"__annotations__": plain}), globalns=vars(flat_options))
    types = {**hints, **_JSON_TYPES}
    fields: dict[str, Any] = {name: (types[name], ... if name == "prompt" else None) for name in FIELDS}
    return create_model("RequestSettings", __config__=ConfigDict(extra="forbid", strict=False), **fields)


def _plain(value: Any) -> Any:
    if isinstance(value, Snap):
        return value.value
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, PromptEmbeds):
        # The texts are in the settings, and encoding them again gives the same.
        return None
    if isinstance(value, Tensor | AVLatent) or hasattr(value, "__array_interface__"):
        return f"<{type(value).__name__} in memory>"
    if is_dataclass(value) and not isinstance(value, type):
        # Not asdict, which would copy the pixels of an image in memory.
        if isinstance(value, ImageAt | VideoReference):
            return {name: _plain(one) for name, one in vars(value).items()}
        return asdict(value)
    if isinstance(value, tuple) and any(isinstance(one, Tensor) for one in value):
        return f"<{type(value).__name__} in memory>"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(one) for one in value]
    return value


def in_memory(value: Any) -> bool:
    """Whether a JSON value is or contains a note such as "<Tensor in memory>", which replaced a value."""
    if isinstance(value, list):
        return any(in_memory(one) for one in value)
    if isinstance(value, Mapping):
        return any(in_memory(one) for one in value.values())
    return isinstance(value, str) and value.startswith("<") and value.endswith(" in memory>")


def _note(value: Any) -> str:
    return value if isinstance(value, str) else "in memory"


def _one_line(error: ValidationError) -> str:
    """Describe in one line the first three errors that pydantic found, and the number of the others."""
    found = [
        f"{'.'.join(map(str, one['loc']))}: {one['msg']}; got {one['input']!r}" for one in error.errors()[:3]
    ]
    more = error.error_count() - len(found)
    return "the settings cannot be read: " + "; ".join(found) + (f" and {more} more" if more > 0 else "")
