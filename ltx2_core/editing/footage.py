"""The source video of an edit: its frames, its audio, and how they are brought to the size of the model.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real

import torch
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..media import VideoClip, fit_image, read_video
from ..media.clip_frames import ClipFrames, Frames
from ..media.exr import is_exr_folder
from ..media.images import BLACK, Colour, FitMode, SourceFit, pad_image
from ..media.recut import Recut, plan_recut
from ..memory.source_stage import CHUNK_FRAMES
from ..shapes import ClipPlan, Snap, plan_clip
from ..types import Numerics
from .protocols import Waveform
from .renamed import renamed


@renamed(sound="audio")
@dataclass(frozen=True, kw_only=True, eq=False)
class Footage:
    """The source of an edit: frames (frames, 3, height, width) in [0, 1], their rate, and the audio.

    ``audio`` is (waveform (channels, samples), rate in Hz), None without audio. The frames are in memory, or
    in a file from which they are decoded when needed. ``notes`` are sentences that say what was changed when
    the file was read. ``fit`` says what happens to frames whose size the model cannot generate. With "own"
    the model sees them padded (last row and column repeated) and the result has their own size; the other
    modes crop or scale them, see :func:`~ltx2_core.media.fit_image`. Raises ValueError for frames of another
    shape and for none.
    """

    frames: Frames
    fps: float
    audio: Waveform | None = None
    fit: SourceFit = "own"
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.frames.ndim != 4 or self.frames.shape[1] != 3 or not len(self.frames):
            raise ValueError(f"frames must be (N, 3, H, W), at least one; got {tuple(self.frames.shape)}")
        if not isinstance(self.fps, Real) or isinstance(self.fps, bool):
            raise TypeError(f"fps={self.fps!r:.40} must be a number of frames per second")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps={self.fps} must be above 0")
        if self.audio is not None and not (isinstance(self.audio, tuple) and len(self.audio) == 2):
            raise TypeError("audio must be (waveform (C, S) in [-1, 1], sample rate in Hz)")

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        start_s: float = 0.0,
        max_frames: int | None = None,
        background: Colour = BLACK,
        hdr: str | None = None,
        fps: float | None = None,
    ) -> Footage:
        """Open a video file, or a part of it: its audio is read at once, frames when they are needed.

        The part begins at ``start_s`` seconds and has at most ``max_frames`` frames. Transparent pixels are
        blended with ``background``, RGB in [0, 1].

        A folder of EXR images is of the colour space ``hdr``, a key of ``HDR_SPACES``, and has ``fps`` frames
        per second; both are None for other files. Raises what ``read_video`` raises, and ValueError for a
        folder of EXR images without ``fps``, and for another file with ``hdr`` or ``fps``.
        """
        if not is_exr_folder(path):
            for name, value in (("hdr", hdr), ("fps", fps)):
                if value is not None:
                    raise ValueError(f"{name}={value} is for a folder of EXR images, and {path} is none")
        elif hdr is not None and fps is None:
            raise ValueError(f"{path} is a folder of EXR images, which state no frame rate: give fps (--fps)")
        clip = read_video(
            path, start_s=start_s, max_frames=max_frames, background=background, hdr=hdr, fps=fps
        )
        return cls(frames=ClipFrames.of(clip), fps=clip.fps, audio=clip.audio(), notes=clip.notes)

    @property
    def hdr(self) -> str | None:
        """The name of the colour space of a folder of EXR images, a key of ``HDR_SPACES``; None for others.

        The frames of such a folder are codes of ACEScct.
        """
        space = self.frames.clip.hdr if isinstance(self.frames, ClipFrames) else None
        return None if space is None else space.name

    @property
    def seconds(self) -> float:
        return len(self.frames) / self.fps

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.frames.shape[3], self.frames.shape[2]

    @property
    def file(self) -> VideoClip | None:
        """The video file that the frames are from, if they are all of its frames and unchanged; else None."""
        whole = isinstance(self.frames, ClipFrames) and self.frames.is_whole_file
        return self.frames.clip if whole and isinstance(self.frames, ClipFrames) else None

    def plan(
        self,
        frames: int,
        *,
        stages: int = 1,
        numerics: Numerics = Numerics.OFFICIAL,
        max_pixels: int | None = None,
    ) -> ClipPlan:
        """Plan a run over this source of at least ``frames`` frames (the next 8k + 1).

        Width and height are those of the source, brought to multiples that the model can generate, which
        depend on ``stages``, the number of sampling stages (1 or 2), and on ``numerics``, the implementation
        whose rounding is followed (the official one or ComfyUI's). They are rounded up if the field ``fit``
        is "own" and ``max_pixels`` is None, because the frames are padded then, else to the nearest. If the
        source has more than ``max_pixels`` pixels a frame, the plan has about that many, in the same
        proportions; None sets no limit.
        """
        width, height = self.size
        if max_pixels is not None and width * height > max_pixels:
            scale = math.sqrt(max_pixels / (width * height))
            width, height = round(width * scale), round(height * scale)
        # Rounded up, because a source at its own size is padded and never cut.
        longer = plan_clip(
            width, height, frames=frames, fps=self.fps, snap=Snap.CEIL, stages=stages, numerics=numerics
        )
        if self.fit == "own" and max_pixels is None:
            return longer
        return plan_clip(width, height, frames=longer.frames, fps=self.fps, stages=stages, numerics=numerics)

    def part(self, first: int, stop: int | None = None) -> Footage:
        """Return a copy with the frames ``first`` to ``stop - 1`` and without audio; None is up to the end.

        Negative numbers count from the end.
        """
        frames = self.frames
        part = frames.part(first, stop) if isinstance(frames, ClipFrames) else frames[first:stop]
        return replace(self, frames=part, audio=None)

    def recut(self, changed: Sequence[tuple[int, int]], frame_count: int) -> Recut:
        """Plan a file that copies the encoded packets of the source, except where frames are new.

        ``changed`` are the ranges of new frames, (first, end) with the end exclusive; ``frame_count`` is the
        number of frames of the result. Raises ValueError unless the frames are those of a whole video file,
        and what :func:`~ltx2_core.media.recut.plan_recut` raises.
        """
        if self.file is None:
            raise ValueError("exact_outside copies packets: the source must be a whole video file")
        return plan_recut(self.file, changed, frame_count)

    def chunks(self) -> Iterator[Tensor]:
        """Yield the frames in chunks (up to ``CHUNK_FRAMES``, 3, height, width) in [0, 1]."""
        return iter(self.frames.split(CHUNK_FRAMES))

    def fitted(self, clip: ClipPlan) -> Footage:
        """Return a copy whose frames have the width and height of ``clip``.

        The field ``fit`` says how frames of another size are brought to it. With "own" they are scaled and
        cropped around the centre, as with "official"; :meth:`on_grid` pads them instead.
        """
        mode: FitMode = "official" if self.fit == "own" else self.fit
        if isinstance(self.frames, ClipFrames):
            return replace(self, frames=self.frames.fitted(clip.width, clip.height, mode))
        return replace(self, frames=fit_image(self.frames, clip.width, clip.height, mode=mode))

    def on_grid(self, clip: ClipPlan, *, mirrored: bool = False) -> Footage:
        """Return the source as the model sees it: if its ``fit`` is "own", padded to the size of ``clip``.

        The last row and column are repeated, or with ``mirrored`` the frames are reflected. With another
        ``fit`` the source is returned unchanged. A first sampling stage of smaller size scales the padded
        frames down, which crops nothing, because the proportions are equal.
        """
        if self.fit != "own":
            return self
        if isinstance(self.frames, ClipFrames):
            return replace(self, frames=self.frames.padded(clip.width, clip.height, mirrored=mirrored))
        return replace(self, frames=pad_image(self.frames, clip.width, clip.height, mirrored=mirrored))

    def beside(self, clip: ClipPlan) -> Footage:
        """Return the source at the size of the result of the edit.

        That is its own size if the field ``fit`` is "own", else the size of ``clip``.
        """
        return self if self.fit == "own" else self.fitted(clip)

    def result_size(self, clip: ClipPlan) -> tuple[int, int]:
        """Return (width, height) in pixels of the result of an edit that generates ``clip``.

        That is the source's own size if the field ``fit`` is "own", else the size of ``clip``.
        """
        return self.size if self.fit == "own" else (clip.width, clip.height)

    def track(self, channels: int, rate: int, seconds: float) -> Tensor:
        """Return the audio (``channels``, samples) at ``rate`` Hz, of exactly ``seconds``.

        It is cut or padded with silence; without audio all of it is silence. Mono audio is repeated for each
        channel; other audio must have ``channels`` channels.
        """
        samples = round(seconds * rate)
        if self.audio is None:
            return torch.zeros(channels, samples)
        waveform, own = self.audio
        # Equal rates are left alone, so that samples of the source stay exact.
        waveform = waveform if own == rate else resample(waveform, own, rate)
        return functional.pad(waveform, (0, samples - waveform.shape[1])).expand(channels, -1)
