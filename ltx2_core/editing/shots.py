"""The retake of a shot list that names a source: which seconds of it are regenerated, and by what."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from ..conditioning.regions import Region, Rounding, video_cells
from ..media import read_video
from ..media.clip_frames import ClipFrames
from ..run.flat_options import RequestOptions
from ..run.replacing import without
from ..run.shots import Shots, mapped
from ..run.shots.format import RegionOfShots
from ..run.shots.mapping import Find, clip_fields, placed_pieces
from ..run.shots.times import Times
from ..shapes import ClipPlan, frames_of, latent_frames_of, plan_clip
from ..types import Numerics
from .footage import Footage
from .retake import Retake, plan_retake
from .task import EditArguments, EditTask

_SIZE: Final = ("width", "height", "num_frames", "seconds", "fps", "snap")
_KEYS: Final = {"num_frames": "frames"}
"""Keyword of a request -> key of a shot list, where they differ."""
_FIRST: Final = ("image", "image_strength", "image_crf")


@dataclass(frozen=True, kw_only=True)
class ListedRetake:
    """The retake that a shot list asks for: its prompt, the video, its regions and pieces, and a request.

    ``own`` are the arguments of the edit, ``fields`` the keywords of its request without the prompt.
    ``notes`` are sentences on what was rounded or has no effect.
    """

    prompt: str
    source: Path
    own: EditArguments
    fields: RequestOptions
    notes: tuple[str, ...] = field(default=())

    def task(self) -> EditTask:
        return EditTask(
            kind="retake", prompt=self.prompt, source=self.source, options={**self.fields, **self.own}
        )

    def plan(self, numerics: Numerics) -> Retake:
        """Plan the retake, for which the audio is read; raises as :func:`plan_retake` does."""
        return plan_retake(
            self.task().footage(),
            self.own["video"],
            self.own["audio"],
            Rounding.COVER,
            stages=self.fields.get("stages") or 1,
            numerics=numerics,
        )


def retake_of(shots: Shots, find: Find, fields: Mapping[str, Any], *, numerics: Numerics) -> ListedRetake:
    """Convert a shot list with a source to the retake of ``ltx2 retake`` that it describes.

    ``find`` says where the files are; of the source only the header is read. ``fields`` are keywords of a
    request that replace values of the list, ``numerics`` the implementation whose rounding is followed. Audio
    pieces take the place of the source's audio. A first image whose frame is preserved is left out.

    Raises ValueError for times outside of the source, for a size, length or frame rate that is written and
    is not that of the source, and what :func:`~ltx2_core.run.shots.mapped` raises.
    """
    assert shots.source is not None
    path = Path(find(shots.source.file))
    footage = Footage(frames=ClipFrames.of(clip := read_video(path)), fps=clip.fps)
    written = {**without(clip_fields(shots.clip), fields), **fields}
    stages = written.get("stages", 1)
    usable = frames_of(latent_frames_of(len(footage.frames)))
    plan = footage.plan(usable, stages=stages, numerics=numerics)
    _check_size(written, footage, plan)
    times = Times(plan, [])
    # With the frames after the last 8k + 1, which are not sampled.
    whole = Times(replace(plan, frames=len(footage.frames)), [])
    video, audio = (tuple(_regions(shots.regions, track, whole)) for track in ("video", "audio"))
    made = mapped(shots.model_copy(update={"audio": []}), plan, find)
    own_fields = {**without(cast("dict[str, Any]", made.fields), fields), **fields}
    prompt = str(own_fields.pop("prompt", made.prompt))
    notes = [*made.notes]
    first = video_cells(video, plan.latent_frames, plan.fps, Rounding.COVER)[0]
    if "image" in own_fields and not first:
        notes.append("the first image has no effect: the first frame of the source is preserved")
        own_fields = {name: value for name, value in own_fields.items() if name not in _FIRST}
    own: EditArguments = {"video": video, "audio": audio}
    if shots.audio:
        own["pieces"] = [asdict(piece) for piece in placed_pieces(shots.audio, times, find)]
    return ListedRetake(
        prompt=prompt,
        source=path,
        own=own,
        fields=cast(RequestOptions, {name: value for name, value in own_fields.items() if name not in _SIZE}),
        notes=tuple(notes),
    )


def _regions(regions: Sequence[RegionOfShots], track: str, times: Times) -> Iterator[Region]:
    for number, one in enumerate(regions, start=1):
        region = times.region(one.start, one.to, f"regions {number}")
        if one.track in (track, "both"):
            yield region


def _check_size(written: Mapping[str, Any], footage: Footage, plan: ClipPlan) -> None:
    """Raise ValueError if a size, length or rate in ``written`` is not that of the source.

    ``plan`` is the clip that is sampled for ``footage``, whose numbers are allowed too.
    """
    (width, height), frames, fps = footage.size, len(footage.frames), footage.fps
    allowed = {
        "width": {width, plan.width},
        "height": {height, plan.height},
        "num_frames": {frames, plan.frames},
    }
    wrong = [name for name, values in allowed.items() if written.get(name, min(values)) not in values]
    if abs(written.get("fps", fps) - fps) > 1e-3 * fps:
        wrong.append("fps")
    seconds = written.get("seconds")
    if seconds is not None and not _lasts(seconds, frames, plan):
        wrong.append("seconds")
    if wrong:
        raise ValueError(
            f"clip: {' and '.join(_KEYS.get(name, name) for name in wrong)} must be that of the source, "
            f"which has {width}x{height} and {frames} frames at {fps:g} fps: leave it out, or write that"
        )


def _lasts(seconds: float | str, frames: int, plan: ClipPlan) -> bool:
    """Whether a clip of ``seconds`` is as long as the source of ``frames`` frames, or as its run ``plan``."""
    if isinstance(seconds, str):
        return False
    asked = plan_clip(plan.width, plan.height, seconds=seconds, fps=plan.fps)
    return asked.frames == plan.frames or round(seconds * plan.fps) == frames
