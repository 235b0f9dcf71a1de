"""A clip of any length as overlapping windows of picture and sound, one sampling run each.

Nothing here knows how a window is sampled: the pipeline and ComfyUI bring that along.
Letters: F latent frames, H W latent rows and columns, T audio latents.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..conditioning.items import Conditioning, GuideFrames, Overlap
from ..conditioning.state import drop_guides
from ..latent_filters import adain
from ..media.atomic import replacing
from ..shapes import AUDIO_LATENTS_PER_SECOND, TEMPORAL_SCALE, ClipPlan, frames_of, latent_frames_of
from ..types import AVLatent, LatentState


@dataclass(frozen=True, kw_only=True)
class Window:
    """One run: ``start`` and ``audio_start`` are the first latents of it in the whole clip.

    ``clip`` is its own plan. ``overlap`` latent frames and ``audio_overlap`` audio latents at its beginning
    were made by the window before it; its first ``fresh`` and ``audio_fresh`` stay when the next one is made.
    """

    index: int
    start: int
    audio_start: int
    clip: ClipPlan
    overlap: int = 0
    audio_overlap: int = 0
    fresh: int = 0
    audio_fresh: int = 0

    @property
    def first_frame(self) -> int:
        """Pixel frame of the whole clip that its frame 0 stands for."""
        return self.start * TEMPORAL_SCALE

    @property
    def prompt_s(self) -> float:
        """The second whose prompt it takes: the middle of what is new in it."""
        new = frames_of(self.overlap) if self.overlap else 0
        return (self.first_frame + (new + self.clip.frames) / 2) / self.clip.fps

    def frame_within(self, frame: int) -> int | None:
        """A pixel frame of the whole clip as one of this window, or None if it is not in it."""
        own = frame - self.first_frame
        return own if 0 <= own < self.clip.frames and (own or not self.start) else None


def plan_windows(clip: ClipPlan, window_frames: int, overlap_frames: int) -> tuple[Window, ...]:
    """Windows of ``window_frames`` (8k + 1) pixel frames; each but the first repeats ``overlap_frames`` (8k).

    The last one is as long as what is left. Raises ValueError for lengths that are off the grid or do not
    leave anything new in a window.
    """
    length, overlap = latent_frames_of(window_frames), overlap_frames // TEMPORAL_SCALE
    if window_frames != frames_of(length) or length < 3:
        raise ValueError(f"window_frames={window_frames} must be 8k + 1 and at least 17")
    if overlap_frames % TEMPORAL_SCALE or not 2 <= overlap < length:
        raise ValueError(
            f"overlap_frames={overlap_frames} must be a multiple of {TEMPORAL_SCALE}, at least 16 and less "
            f"than the window of {window_frames}"
        )
    starts = [0]
    while starts[-1] + length < clip.latent_frames:
        starts.append(starts[-1] + length - overlap)
    windows = []
    for index, start in enumerate(starts):
        frames = min(length, clip.latent_frames - start)
        own = replace(clip, frames=frames_of(frames), changes=())
        offset = round(start * TEMPORAL_SCALE / clip.fps * AUDIO_LATENTS_PER_SECOND)
        if index == len(starts) - 1:
            offset = clip.audio_latents - own.audio_latents
        windows.append(Window(index=index, start=start, audio_start=offset, clip=own))
    whole = []
    for index, window in enumerate(windows):
        before, after = windows[index - 1] if index else None, windows[index + 1 : index + 2]
        whole.append(
            replace(
                window,
                overlap=overlap if before else 0,
                audio_overlap=before.audio_start + before.clip.audio_latents - window.audio_start
                if before
                else 0,
                fresh=after[0].start - window.start if after else window.clip.latent_frames,
                audio_fresh=(
                    after[0].audio_start - window.audio_start if after else window.clip.audio_latents
                ),
            )
        )
    return tuple(whole)


class WindowStore:
    """Finished windows in a folder, each in a file that is there whole or not at all.

    ``settings`` is what the clip is made from. Raises ValueError if the folder holds windows of another clip.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        plan, text = folder / "clip.json", json.dumps(settings, sort_keys=True, indent=1)
        if plan.exists() and plan.read_text(encoding="utf-8") != text:
            raise ValueError(
                f"{folder} holds windows of a clip with other settings: give another folder, or empty it"
            )
        if not plan.exists():
            with replacing(plan) as temporary:
                Path(temporary).write_text(text, encoding="utf-8")

    def has(self, index: int) -> bool:
        return self._path(index).is_file()

    def save(self, index: int, latent: AVLatent) -> None:
        tensors = {"video": latent.video, "audio": latent.audio}
        with replacing(self._path(index)) as temporary:
            save_file({k: t.contiguous().cpu() for k, t in tensors.items() if t is not None}, temporary)

    def load(self, index: int) -> AVLatent:
        tensors = load_file(self._path(index))
        return AVLatent(tensors.get("video"), tensors.get("audio"))

    def _path(self, index: int) -> Path:
        return self.folder / f"window_{index:05d}.safetensors"


@dataclass(frozen=True, kw_only=True)
class PlacedLatent:
    """An encoded picture (1, 128, 1, H, W) at a pixel frame of the whole clip."""

    frame: int
    latent: Tensor
    strength: float = 1.0


SampleWindow = Callable[[Window, Sequence[Conditioning]], tuple[AVLatent, LatentState | None]]
"""Samples a window from what it is given; with the state that it began from if guides are still in it."""


def make_windows(
    windows: Sequence[Window],
    store: WindowStore,
    sample: SampleWindow,
    *,
    strength: float = 1.0,
    adain_factor: float = 0.0,
    keyframes: Sequence[PlacedLatent] = (),
    on_window: Callable[[int, int], None] | None = None,
) -> None:
    """Make every window that the store does not hold yet, in order.

    The end of each window is the beginning of the next: kept with ``strength`` 1, partly renewed below, and
    then faded over from the old to the new. ``adain_factor`` brings each channel's mean and deviation back
    to those of the first window, against drift. ``on_window`` hears (windows that are done, all of them).
    """
    for window in windows:
        if not store.has(window.index):
            before = store.load(window.index - 1) if window.index else None
            given = _given(window, before, strength, keyframes)
            latent, state = sample(window, given)
            latent = (latent if state is None else drop_guides(latent, state)).to("cpu", torch.float32)
            if window.index and adain_factor and latent.video is not None:
                reference = store.load(0).video
                assert reference is not None
                latent = replace(latent, video=adain(latent.video, reference, factor=adain_factor))
            store.save(window.index, latent if before is None else _joined(window, before, latent))
        if on_window is not None:
            on_window(window.index + 1, len(windows))


def video_pieces(windows: Sequence[Window], store: WindowStore) -> Iterator[Tensor]:
    """The video latent of the whole clip, (1, 128, f, H, W) a window."""
    for window in windows:
        video = store.load(window.index).video
        assert video is not None
        yield video[:, :, : window.fresh]


def audio_pieces(windows: Sequence[Window], store: WindowStore) -> Iterator[Tensor]:
    """The audio latent of the whole clip, (1, 8, t, 16) a window."""
    for window in windows:
        audio = store.load(window.index).audio
        assert audio is not None
        yield audio[:, :, : window.audio_fresh]


def _given(
    window: Window, before: AVLatent | None, strength: float, keyframes: Sequence[PlacedLatent]
) -> list[Conditioning]:
    items: list[Conditioning] = []
    if before is not None:
        tail = None if before.video is None else before.video[:, :, -window.overlap :]
        sound = None
        if before.audio is not None and window.audio_overlap > 0:
            sound = before.audio[:, :, -window.audio_overlap :]
        items.append(Overlap(video=tail, audio=sound, skip=1, strength=strength))
    for keyframe in keyframes:
        frame = window.frame_within(keyframe.frame)
        if frame is not None:
            items.append(GuideFrames(latent=keyframe.latent, frame=frame, strength=keyframe.strength))
    return items


def _joined(window: Window, before: AVLatent, latent: AVLatent) -> AVLatent:
    """The window with its overlap faded from the old to the new; its first latent frame is the old one."""
    video, audio = latent.video, latent.audio
    if video is not None and before.video is not None:
        video = _faded(before.video[:, :, -window.overlap :], video, hold=1)
    if audio is not None and before.audio is not None and window.audio_overlap > 0:
        audio = _faded(before.audio[:, :, -window.audio_overlap :], audio, hold=0)
    return AVLatent(video, audio)


def _faded(old: Tensor, new: Tensor, *, hold: int) -> Tensor:
    count = old.shape[2]
    weight = (torch.arange(count - hold) + 1) / (count - hold + 1)
    shape = (1, 1, -1) + (1,) * (new.ndim - 3)
    mixed = torch.lerp(old[:, :, hold:], new[:, :, hold:count], weight.view(shape))
    return torch.cat((old[:, :, :hold], mixed, new[:, :, count:]), dim=2)
