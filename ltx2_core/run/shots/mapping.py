"""A shot list as keywords of a request, for one run or for a long clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from ...conditioning.inputs import ImageAt, VideoReference
from ...media.audio_mix import Piece, mix_pieces
from ...shapes import ClipPlan
from ...text.schedule import PromptSchedule
from ..flat_options import RequestOptions
from .format import AudioPiece, ClipOfShots, Control, ImageOfShots, Shots
from .times import Times

Find = Callable[[str], str]
"""Name of a file in a shot list -> the path of the file. Raises ValueError or FileNotFoundError."""

_CLIP: dict[str, str] = {"frames": "num_frames"}
"""Key of ``clip`` -> keyword of a request, where they differ."""


@dataclass(frozen=True)
class Mapped:
    """What a shot list asks for: the ``prompt``, the other keywords of a request, and what was rounded."""

    prompt: str
    fields: RequestOptions
    notes: tuple[str, ...] = field(default=())


def clip_fields(clip: ClipOfShots) -> RequestOptions:
    """The keywords of a request for size, length and sampling that are written in ``clip``."""
    written = clip.model_dump(exclude_none=True)
    return cast(RequestOptions, {_CLIP.get(name, name): value for name, value in written.items()})


def beside(path: Path) -> Find:
    """A function that finds the files of the shot list at ``path``: relative names are in its folder."""
    return lambda name: str(path.parent / checked_name(name))


def mapped(shots: Shots, clip: ClipPlan, find: Find) -> Mapped:
    """Convert ``shots`` to a request for the clip of size and length ``clip``.

    ``find`` says where the files are. Nothing is encoded; of files only audio that has to be mixed is read.
    Raises ValueError for times outside of the clip, two first images, and files that ``find`` refuses.
    """
    times = Times(clip, [])
    fields: dict[str, Any] = {**clip_fields(shots.clip), **_images(shots.images, times, find)}
    if shots.negative is not None:
        fields["negative_prompt"] = shots.negative
    if shots.trigger is not None:
        fields["trigger"] = shots.trigger
    if shots.parts:
        fields["prompts_at"] = json.dumps(_parts(shots, times))
        if shots.fade is not None:
            fields["prompt_fade"] = shots.fade
        if shots.method is not None:
            fields["prompt_method"] = shots.method
    if shots.control:
        fields["references"] = tuple(_references(shots.control, times, find))
    if shots.audio:
        fields |= _audio(shots.audio, times, find)
    if shots.regions and shots.source is None:
        fields["audio_regions"] = tuple(
            times.region(one.start, one.to, f"regions {number}")
            for number, one in enumerate(shots.regions, start=1)
        )
    if shots.voice is not None:
        fields["reference_audio"] = find(shots.voice.file)
        more = {"reference_s": shots.voice.seconds, "identity": shots.voice.identity}
        fields |= {name: value for name, value in more.items() if value is not None}
    return Mapped(shots.prompt, cast(RequestOptions, fields), tuple(times.notes))


def long_prompts(shots: Shots, clip: ClipPlan) -> PromptSchedule:
    """The prompts of a long clip: those of the parts, each behind the prompt of the whole clip."""
    if not shots.parts:
        return PromptSchedule(((0.0, shots.prompt),))
    schedule = PromptSchedule.parse(json.dumps(_parts(shots, Times(clip, []))))
    return PromptSchedule(tuple((start, f"{shots.prompt} {part}".strip()) for start, part in schedule.parts))


def _parts(shots: Shots, times: Times) -> list[dict[str, float | str]]:
    parts = []
    for number, part in enumerate(shots.parts, start=1):
        start = times.seconds(part.start, f"parts {number}, from")
        end = {} if part.to is None else {"to": times.seconds(part.to, f"parts {number}, to")}
        parts.append({"from": start, **end, "prompt": part.prompt})
    # Their order in the file is free, as that of all lists.
    return sorted(parts, key=lambda part: part["from"])  # type: ignore[arg-type]


def _images(images: list[ImageOfShots], times: Times, find: Find) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    guides = []
    for number, image in enumerate(images, start=1):
        place = f"images {number}"
        frame = times.frame(image.at, f"{place}, at")
        mode = image.mode or ("start" if frame == 0 else "key")
        if mode == "key":
            guides.append(
                ImageAt(source=find(image.file), frame=frame, strength=image.strength, crf=image.crf)
            )
            continue
        if frame != 0:
            raise ValueError(f"{place}: mode start is for time 0, and this image is at {image.at}: use key")
        if "image" in fields:
            raise ValueError(f"{place}: two images are the first frame: give one of them mode key")
        if not 0 <= image.strength <= 1:
            raise ValueError(f"{place}: strength {image.strength:g} of a first frame must be from 0 to 1")
        fields["image"] = find(image.file)
        if image.strength != 1:
            fields["image_strength"] = image.strength
        if image.crf is not None:
            fields["image_crf"] = image.crf
    return {**fields, "images": tuple(guides)} if guides else fields


def _references(control: list[Control], times: Times, find: Find) -> Iterator[VideoReference]:
    for number, one in enumerate(control, start=1):
        place = f"control {number}"
        _check_trim(one.trim, place)
        frame = times.frame(one.start, f"{place}, from")
        start, end = one.trim
        last = times.clip.frames if one.to == "end" else times.frame(one.to, f"{place}, to")
        if last <= frame:
            raise ValueError(f"{place}: it ends at {one.to}, which is no later than its start, {one.start}")
        length = last - frame if end is None else min(last - frame, round((end - start) * times.clip.fps))
        # Without a number for a range that ends with the clip, so that the whole clip stays the default.
        made = VideoReference(
            source=find(one.file),
            strength=one.strength,
            scale=one.scale,
            every=one.every,
            frame=frame,
            frames=max(1, length) if frame + length < times.clip.frames else None,
            start_s=start,
        )
        try:
            placed = made.place(times.clip)
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        if (placed.frame, placed.used) != (frame, length):
            times.notes.append(f"{place}: it is used for {placed.describe()}, on the latent grid")
        yield made


def _check_trim(trim: tuple[float, float | None], place: str) -> None:
    start, end = trim
    if start < 0 or (end is not None and end <= start):
        raise ValueError(f"{place}, trim: [{start:g}, {end}] must be a start from 0 on and a later end")


def _audio(pieces: list[AudioPiece], times: Times, find: Find) -> dict[str, Any]:
    """Keywords for the audio: a file that is used as it is, or a waveform in which pieces are mixed."""
    placed = placed_pieces(pieces, times, find)
    only = placed[0]
    if only == Piece(path=only.path, start_s=only.start_s) and len(placed) == 1:
        return {"audio": only.path, **({"audio_start_s": only.start_s} if only.start_s else {})}
    return {"audio": mix_pieces(placed, times.clip.seconds)}


def placed_pieces(pieces: list[AudioPiece], times: Times, find: Find) -> list[Piece]:
    """The pieces of audio with their times in seconds; no file is read.

    Raises ValueError for times outside of the clip, a trim that ends before it begins, and files that
    ``find`` refuses.
    """
    placed = []
    for number, one in enumerate(pieces, start=1):
        place = f"audio {number}"
        _check_trim(one.trim, place)
        start, end = one.trim
        placed.append(
            Piece(
                path=find(one.file),
                at_s=times.seconds(one.at, f"{place}, at"),
                start_s=start,
                end_s=end,
                gain_db=one.gain_db,
                fade_s=one.fade,
            )
        )
    return placed


def checked_name(name: str) -> str:
    """Return ``name``; raises ValueError for an empty name, a NUL, and data in place of a name."""
    if not name.strip() or "\0" in name:
        raise ValueError(f"{name!r:.60} is no name of a file")
    if name.startswith("data:"):
        raise ValueError("files are named, and not written into the shot list as data:")
    return name
