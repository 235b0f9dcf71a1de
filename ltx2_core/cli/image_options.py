"""Parses the options for images and control videos."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TypeVar

from ..conditioning.inputs import ImageAt, VideoReference
from ..run.flat_options import RequestFields

T = TypeVar("T")

_SUFFIX = re.compile(r"\.[a-z]\w*$", re.IGNORECASE)


def image_fields(explicit: MutableMapping[str, Any]) -> RequestFields:
    """Remove --image and --keyframe from ``explicit`` and return them as keywords of :class:`Request`.

    They become ``image``, ``image_strength`` and ``images``. ``explicit`` are the options that the user
    wrote, by name. Raises ValueError for text that cannot be parsed, for two images that name no frame, and
    if the strength of the first image is above 1 or is set twice.
    """
    fields: RequestFields = {}
    guides: list[ImageAt] = []
    for text in explicit.pop("image", ()):
        path, frame, strength = _parse("--image", text)
        # An image with a frame is a keyframe, so that one flag serves both.
        if frame is not None:
            guides.append(ImageAt(source=path, frame=frame, strength=strength))
        elif "image" in fields:
            raise ValueError(
                f"--image {fields['image']} and --image {text} both have no frame, and only one image can "
                f"be the first: write the frame, such as {path}@-1 for the last one"
            )
        else:
            fields["image"] = path
            if strength > 1:
                raise ValueError(f"--image {text}: the strength of the first image is from 0 to 1")
            if strength != 1:
                _check_once(explicit, text)
                fields["image_strength"] = strength
    for text in explicit.pop("images", ()):
        path, frame, strength = _parse("--keyframe", text)
        if frame is None:
            raise ValueError(
                f"--keyframe {text} must be an image and its frame, such as end.png@-1 or a.png@40:0.8"
            )
        guides.append(ImageAt(source=path, frame=frame, strength=strength))
    if guides:
        fields["images"] = tuple(guides)
    return fields


def image_file(flag: str, text: str) -> str:
    """The file in ``text``, a value of the option ``flag``: --image or --keyframe.

    Raises ValueError for text that cannot be parsed.
    """
    return _parse(flag, text)[0]


def parse_control(text: str) -> VideoReference:
    """Parse a value of --control, ``FILE[:STRENGTH][,scale=N][,every=N]``; the strength is 1 by default.

    ``scale=N`` encodes the video N times smaller than the clip, ``every=N`` uses each N-th frame. Raises
    ValueError for other text.
    """
    # Only a comma before a known setting divides, because names of files may hold commas.
    path, *settings = re.split(r",(?=\s*(?:scale|every)\s*=)", text)
    numbers: dict[str, int] = {}
    for setting in settings:
        name, _, value = (part.strip() for part in setting.partition("="))
        if not value.isdigit() or int(value) < 1:
            raise ValueError(f"--control {text}: {name} is a whole number from 1; got {value!r}")
        numbers[name] = int(value)
    path, strength = _split(path)
    return _made("--control", text, lambda: VideoReference(source=path, strength=strength, **numbers))


def _parse(flag: str, text: str) -> tuple[str, int | None, float]:
    """Parse ``FILE[@FRAME][:STRENGTH]``, a value of the option ``flag``, to (file, frame, strength).

    Without @FRAME the frame is None, without :STRENGTH the strength is 1. Raises ValueError for other text.
    """
    where, strength = _split(text)
    if "\0" in where or not where.strip():
        raise ValueError(f"{flag} {text!r} is no path: it is empty or holds a NUL")
    path, at, frame = where.rpartition("@")
    # Names such as photo@2x.png contain the sign; a frame is never followed by a file type.
    if not at or _SUFFIX.search(frame):
        path, at, frame = where, "", ""
    # Seven digits hold the largest number of frames of a clip, a million.
    if at and not (path and re.fullmatch(r"-?\d{1,7}", frame)):
        raise ValueError(
            f"{flag} {text}: {frame!r} after @ is no frame. Write a whole number, -1 for the last frame, and "
            f"then the strength: {path or 'last.png'}@-1:0.7"
        )
    number = int(frame) if frame else None
    # Made for its checks alone, so that the error of a wrong strength names the flag.
    _made(flag, text, lambda: ImageAt(source=path, strength=strength))
    return path, number, strength


def _split(text: str) -> tuple[str, float]:
    """Split ``FILE[:STRENGTH]`` to (file, strength), which is 1 by default.

    A colon with no number after it, as in ``C:\\clip.png``, is part of the file's name.
    """
    path, _, number = text.rpartition(":")
    try:
        return (path, float(number)) if path else (text, 1.0)
    except ValueError:
        return text, 1.0


def _made(flag: str, text: str, make: Callable[[], T]) -> T:
    """Return ``make()``; a ValueError of it is raised again with ``flag`` and ``text`` before its message.

    ``flag`` is the option, ``text`` its value as the user wrote it.
    """
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{flag} {text}: {error}") from None


def _check_once(explicit: Mapping[str, Any], text: str) -> None:
    if "image_strength" in explicit:
        raise ValueError(f"--image {text} and --image-strength both set the strength: leave one out")
