"""The timeline that LTX Director stores, as a shot list. Its times are pixel frames."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ...storage.files import JsonObject, JsonValue
from .format import FORMAT

LISTS: Final = ("segments", "motionSegments", "audioSegments")
"""Keys of a timeline with its pieces: prompts and images, control videos, audio."""
_TRACKS: Final = {
    "segments": "mainTrackEnabled",
    "motionSegments": "motionTrackEnabled",
    "audioSegments": "audioTrackEnabled",
}

Segment = Mapping[str, Any]


def director(timeline: Mapping[str, Any], saved: Mapping[str, Any]) -> tuple[JsonObject, tuple[str, ...]]:
    """Convert ``timeline``; ``saved`` is the whole file, which may have the settings of the node too.

    Returns the shot list and what was left out. Raises ValueError for a track that is no list of objects.
    """
    settings = saved.get("settings")
    reader = _Director(timeline, settings if isinstance(settings, Mapping) else {})
    shots: JsonObject = {
        "format": FORMAT,
        "clip": reader.clip(),
        "prompt": text_of(saved.get("global_prompt") or timeline.get("global_prompt")),
    }
    tracks: dict[str, list[JsonValue]] = {
        "parts": list(reader.parts()),
        "images": list(reader.images()),
        "control": list(reader.control()),
        "audio": list(reader.audio()),
    }
    shots.update({name: track for name, track in tracks.items() if track})
    shots.update(reader.retake(timeline))
    if "source" in shots:
        _of_retake(shots, timeline, saved)
    elif timeline.get("inpaint_audio") and tracks["audio"]:
        shots["regions"] = list(reader.gaps())
    return shots, (*reader.notes, *_left_out(timeline))


def number(value: Any, default: float = 0.0) -> float:
    """A number of another tool's JSON, which may be text; ``default`` for anything else."""
    try:
        found = float(value) if isinstance(value, int | float | str) else default
    except (ValueError, OverflowError):
        return default
    return found if math.isfinite(found) else default


def text_of(value: Any) -> str:
    """A text of another tool's JSON without space around it; empty for anything else."""
    return value.strip() if isinstance(value, str) else ""


class _Director:
    """Reads the tracks of a timeline; ``settings`` are widgets of the node, ``notes`` what was left out."""

    def __init__(self, timeline: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self.notes: list[str] = []
        self._settings = settings
        self._fps = number(settings.get("frame_rate"), 24.0) or 24.0
        main, self._motion, self._audio = (self._track(timeline, name) for name in LISTS)
        self._main = sorted(main, key=lambda one: number(one.get("start")))

    def clip(self) -> JsonObject:
        """Size, rate and length, of which only a saved file has a copy."""
        clip: JsonObject = {}
        for ours, names in (
            ("width", ("width", "custom_width")),
            ("height", ("height", "custom_height")),
            ("frames", ("duration_frames", "length")),
        ):
            value = next(
                (number(self._settings.get(n)) for n in names if number(self._settings.get(n)) > 0), 0
            )
            if value:
                clip[ours] = int(value)
        if "frame_rate" in self._settings:
            clip["fps"] = self._fps
        frames = clip.get("frames")
        if isinstance(frames, int) and frames % 8 != 1:
            clip["frames"] = 8 * math.ceil((frames - 1) / 8) + 1
            self.notes.append(
                f"the length of {frames} frames, which is {clip['frames']} on the grid of 8k + 1"
            )
        return clip

    def parts(self) -> Iterator[JsonObject]:
        for one in self._main:
            if text_of(one.get("prompt")):
                yield {"from": f"f{_frame(one)}", "prompt": text_of(one["prompt"])}

    def images(self) -> Iterator[JsonObject]:
        strengths = text_of(self._settings.get("guide_strength")).split(",")
        shown = 0
        for one in self._main:
            name = self._file(one, "imageFile", "imageB64")
            if one.get("type") == "video":
                self.notes.append(f"the video {name} at frame {_frame(one)}: see ltx2 extend")
                continue
            if not name:
                continue
            last = int(number(one.get("length"), 1)) - 1 if one.get("isEndFrame") else 0
            image: JsonObject = {"file": name, "at": f"f{_frame(one) + max(0, last)}", "mode": "key"}
            if shown < len(strengths) and strengths[shown].strip():
                image["strength"] = number(strengths[shown], 1.0)
            shown += 1
            yield image

    def control(self) -> Iterator[JsonObject]:
        for one in self._motion:
            name = self._file(one, "videoFile", "videoB64")
            if not name:
                continue
            if one.get("isStaticImage"):
                self.notes.append(f"the still {name} among the control videos: show it by an image at a time")
                continue
            if number(one.get("videoAttentionStrength"), 1.0) != 1.0:
                self.notes.append(f"the weight of attention to the control video {name}: it is 1 here")
            control: JsonObject = {"file": name, "strength": number(one.get("videoStrength"), 1.0)}
            length = int(number(one.get("length")))
            if _frame(one):
                control["from"] = f"f{_frame(one)}"
            if length > 0:
                control["to"] = f"f{_frame(one) + length}"
            first = number(one.get("trimStart")) / self._fps
            if first > 0:
                control["trim"] = [round(first, 4), None]
            yield control

    def retake(self, timeline: Segment) -> JsonObject:
        """The source and its regions, if the timeline regenerates a part of a video; else nothing."""
        if not timeline.get("retakeMode"):
            return {}
        video = timeline.get("retakeVideo")
        name = self._file(video, "fileName", "imageFile") if isinstance(video, Mapping) else ""
        length = int(number(timeline.get("retakeLength")))
        if not name or length < 1:
            self.notes.append("the retake, which names no video or has no length")
            return {}
        if number(timeline.get("retakeStrength"), 1.0) != 1.0:
            self.notes.append("the strength of the retake: what is regenerated is generated in full")
        first = max(0, int(number(timeline.get("retakeStart"))))
        return {"source": {"file": name}, "regions": [{"from": f"f{first}", "to": f"f{first + length}"}]}

    def audio(self) -> Iterator[JsonObject]:
        for one in self._audio:
            name = self._file(one, "audioFile", "audioB64")
            if not name:
                continue
            start, first, length = (
                number(one.get(key)) / self._fps for key in ("start", "trimStart", "length")
            )
            end = round(first + length, 4) if length > 0 else None
            yield {"file": name, "at": round(start, 4), "trim": [round(first, 4), end]}

    def gaps(self) -> Iterator[JsonObject]:
        """Regions of audio between the pieces and, if the length of the clip is known, after the last one."""
        last = 0.0
        # One without a file is not heard.
        heard = [one for one in self._audio if text_of(one.get("audioFile"))]
        spans = [(number(one.get("start")), number(one.get("length"))) for one in heard]
        for start, length in sorted(spans):
            if start > last:
                yield {"track": "audio", "from": self._seconds(last), "to": self._seconds(start)}
            # A piece without a length lasts as long as its file.
            last = max(last, start + length) if length > 0 else math.inf
        if last < number(self._settings.get("duration_frames")):
            yield {"track": "audio", "from": self._seconds(last)}

    def _seconds(self, frames: float) -> float:
        return round(frames / self._fps, 4)

    def _track(self, timeline: Mapping[str, Any], name: str) -> list[Segment]:
        found = timeline.get(name)
        if found is None:
            return []
        if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
            raise ValueError(f"{name} of the timeline is no list of objects")
        if found and timeline.get(_TRACKS[name]) is False:
            self.notes.append(f"{name}, whose track is switched off")
            return []
        return found

    def _file(self, segment: Segment, name: str, embedded: str) -> str:
        file = text_of(segment.get(name))
        if not file and segment.get(embedded):
            self.notes.append(f"media inside of the timeline ({embedded}): save them as a file and name it")
        return file


def _frame(segment: Segment) -> int:
    return max(0, int(number(segment.get("start"))))


def _of_retake(shots: JsonObject, timeline: Segment, saved: Segment) -> None:
    """Let the list ``shots`` of a retake have the prompts of the retake, and the size of its source."""
    texts = (saved.get("retake_global_prompt"), timeline.get("retakePrompt"))
    prompt = " ".join(filter(None, map(text_of, texts)))
    if prompt:
        shots["prompt"] = prompt
        shots.pop("parts", None)
    shots["clip"] = {}


def _left_out(timeline: Mapping[str, Any]) -> Iterator[str]:
    if timeline.get("overrideAudio"):
        yield "the audio of the control videos"
