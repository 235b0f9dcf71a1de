"""The format ``ltx2.shots/1``: reading it checks keys, types and sizes, and opens no file that it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT: Final = "ltx2.shots/1"
MAX_BYTES: Final = 2**22
"""The largest shot list in bytes: 4 MiB."""
MAX_ENTRIES: Final = 1000
"""The most entries of one list."""

Time: TypeAlias = float | Annotated[str, Field(max_length=20)]
"""Seconds as a number or text such as "0:30", a frame as "f48", or a share of the clip as "50%"."""


class _Entry(BaseModel):
    # Numbers as text would hide a mistake; unknown keys are errors, so that a typo is not ignored.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class ClipOfShots(_Entry):
    """Size, length and sampling of the clip; what is left out is by the recipe of the checkpoint."""

    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    frames: int | None = None
    fps: float | None = None
    stages: Literal[1, 2] | None = None
    seed: int | None = None
    steps: int | None = None
    cfg: float | None = None
    audio_cfg: float | None = None
    sampler: str | None = None
    distilled: bool | None = None


class LoraOfShots(_Entry):
    """A LoRA for both stages, or with ``stage`` 2 for the second alone."""

    file: str
    strength: float = 1.0
    audio: float | None = None
    stage: Literal[2] | None = None


class Part(_Entry):
    """A prompt from a time on, until the next part begins; ``to`` may say where that is.

    ``loras`` are read only to say why a part has none of its own: weights are those of the whole run.
    """

    start: Time = Field(0.0, alias="from")
    to: Time | None = None
    prompt: str
    loras: list[LoraOfShots] = Field([], max_length=MAX_ENTRIES)


class ImageOfShots(_Entry):
    """An image at a time: "start" replaces the first frame, "key" guides the frames around its time."""

    file: str
    at: Time = 0.0
    strength: float = 1.0
    crf: int | None = None
    mode: Literal["start", "key"] | None = None


class Control(_Entry):
    """A control video or reference for an IC-LoRA, for the whole clip or from one time to another.

    Seconds ``trim`` of the file are used, whose first frame is at ``from``.
    """

    file: str
    strength: float = 1.0
    scale: int | None = None
    every: int | None = None
    start: Time = Field(0.0, alias="from")
    to: Time = "end"
    trim: tuple[float, float | None] = (0.0, None)


class AudioPiece(_Entry):
    """Part of an audio file, placed in the clip: seconds ``trim`` of the file are heard from ``at`` on."""

    file: str
    at: Time = 0.0
    trim: tuple[float, float | None] = (0.0, None)
    gain_db: float = Field(0.0, ge=-100, le=40)
    fade: float = Field(0.0, ge=0, le=60)


class Voice(_Entry):
    """Audio that the generated audio imitates, by a LoRA that was trained for it."""

    file: str
    seconds: float | None = None
    identity: float | None = None


class SourceOfShots(_Entry):
    """A video of which seconds are regenerated and everything else is preserved."""

    file: str


class RegionOfShots(_Entry):
    """Seconds to regenerate, of the video, of the audio, or of both.

    Without a source they are seconds in which audio is generated in place of the pieces and their silence.
    """

    track: Literal["video", "audio", "both"] = "both"
    start: Time = Field(0.0, alias="from")
    to: Time = "end"


class Shots(_Entry):
    """A shot list. Keys that begin with ``x-`` are for other tools and are not read."""

    format: Literal["ltx2.shots/1"]
    clip: ClipOfShots = ClipOfShots()
    prompt: str = ""
    negative: str | None = None
    trigger: str | None = None
    parts: list[Part] = Field([], max_length=MAX_ENTRIES)
    fade: float | None = None
    method: Literal["separate", "relay", "relay_wdc"] | None = None
    images: list[ImageOfShots] = Field([], max_length=MAX_ENTRIES)
    control: list[Control] = Field([], max_length=MAX_ENTRIES)
    audio: list[AudioPiece] = Field([], max_length=MAX_ENTRIES)
    voice: Voice | None = None
    source: SourceOfShots | None = None
    regions: list[RegionOfShots] = Field([], max_length=MAX_ENTRIES)
    loras: list[LoraOfShots] = Field([], max_length=MAX_ENTRIES)


def read_shots(path: Path) -> Shots:
    """Read a shot list from a file; paths in it are relative to its folder.

    Raises FileNotFoundError unless ``path`` is a regular file, and ValueError, which names the file, for
    anything that :func:`parse_shots` refuses.
    """
    text = shots_text(path)
    try:
        return parse_shots(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def shots_text(path: Path) -> str:
    """The text of a file with a shot list, at most ``MAX_BYTES`` long; raises as :func:`read_shots` does."""
    # A pipe would block for ever.
    if not path.is_file():
        raise FileNotFoundError(f"no shot list at {path}")
    with path.open("rb") as stream:
        content = stream.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"{path}: a shot list has at most {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from None


def parse_shots(text: str) -> Shots:
    """Read a shot list from JSON text.

    Raises ValueError for text that is no JSON object of this format, with the place of the mistake: unknown
    keys, wrong types, numbers out of range, and more than ``MAX_ENTRIES`` entries of a list; and for a list
    without any prompt.
    """
    values = parse_json(text)
    if values.get("format") != FORMAT:
        raise ValueError(
            f'a shot list begins with "format": "{FORMAT}"; found {values.get("format")!r:.60}. Timelines of '
            "LTX Director and prompts of Wan2GP are converted by ltx2 shots"
        )
    try:
        shots = Shots.model_validate_json(json.dumps(_without_notes(values)))
    except ValidationError as error:
        raise ValueError(_first_mistakes(error)) from None
    if not shots.prompt.strip() and not any(part.prompt.strip() for part in shots.parts):
        raise ValueError("the shot list has no prompt: write prompt, or parts with a prompt each")
    number = next((number for number, part in enumerate(shots.parts, start=1) if part.loras), None)
    if number is not None:
        raise ValueError(
            f"parts {number}, loras: the weights of a run are the same for all of its frames, so that no "
            "part has LoRAs of its own: move them to loras of the list, with stage 2 for the second stage "
            "alone, or make the parts as clips of their own, each by ltx2 extend of the one before"
        )
    alone = shots.regions if shots.source is None else []
    if alone and not (shots.audio and all(one.track == "audio" for one in alone)):
        raise ValueError(
            "regions are seconds of a source that are regenerated: name the video as source, or leave them "
            "out; without one, regions of the track audio are generated between pieces of audio"
        )
    if shots.source is not None and not shots.regions:
        raise ValueError(
            "a source without regions would be preserved whole: write regions, the seconds to regenerate"
        )
    return shots


def parse_json(text: str) -> dict[str, Any]:
    """Read a JSON object; raises ValueError for other JSON, NaN, keys that occur twice, or deep nesting."""
    try:
        values = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None
    if not isinstance(values, dict):
        raise ValueError(f"a JSON object is expected, found {type(values).__name__}")
    return values


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} occurs twice in one object")
    return values


def _without_notes(value: Any) -> Any:
    """``value`` without keys that begin with ``x-``, at any depth."""
    if isinstance(value, Mapping):
        return {name: _without_notes(one) for name, one in value.items() if not name.startswith("x-")}
    return [_without_notes(one) for one in value] if isinstance(value, list) else value


def _first_mistakes(error: ValidationError) -> str:
    """Describe the first three mistakes that pydantic found, and the number of the others, in one line."""
    found = []
    for one in error.errors()[:3]:
        place = ".".join(map(str, one["loc"]))
        if one["type"] == "extra_forbidden":
            found.append(f"{place} is no key of {FORMAT}; keys of your own begin with x-")
        else:
            found.append(f"{place}: {one['msg']}; got {one['input']!r:.60}")
    more = error.error_count() - len(found)
    return "; ".join(found) + (f"; and {more} more" if more > 0 else "")
