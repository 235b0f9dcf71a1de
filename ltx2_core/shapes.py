"""The latent grid: converts pixels, frames and seconds to the sizes of video and audio latents, and back.

``frames`` are pixel frames, ``latent_frames`` latent ones; ``fps`` is frames per second, a float. A latent
cell covers 32 x 32 pixels. Latent frame 0 holds pixel frame 0, every later one holds 8 pixel frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from fractions import Fraction
from typing import Final, Literal

from .types import Numerics

TEMPORAL_SCALE = 8
SPATIAL_SCALE = 32
VIDEO_CHANNELS = 128
AUDIO_CHANNELS = 8
AUDIO_BINS = 16
AUDIO_SAMPLE_RATE = 16000
AUDIO_HOP_LENGTH = 160
AUDIO_DOWNSAMPLE = 4
AUDIO_LATENTS_PER_SECOND = 25
AUTO: Final = "auto"
"""The word that stands in place of a length in seconds if the length is to be predicted from the prompt."""


class Snap(Enum):
    """How a size or length is brought onto the latent grid: down, to the nearest, up, or not (an error).

    ``NEAREST`` takes the smaller of two values at the same distance.
    """

    FLOOR = "floor"
    NEAREST = "nearest"
    CEIL = "ceil"
    ERROR = "error"


def latent_frames_of(frames: int) -> int:
    """The number of latent frames of a clip of ``frames`` pixel frames: k + 1 for 8k + 1 up to 8k + 8."""
    return (frames - 1) // TEMPORAL_SCALE + 1


def frames_of(latent_frames: int) -> int:
    """The number of pixel frames that ``latent_frames`` latent frames decode to: 8k + 1 for k + 1."""
    return (latent_frames - 1) * TEMPORAL_SCALE + 1


def audio_latents_of(frames: int, fps: float, numerics: Numerics = Numerics.OFFICIAL) -> int:
    """The number of audio latent frames, 25 a second, of ``frames`` pixel frames at ``fps``; at least one.

    The official numerics round to the nearest (ties to even), those of ComfyUI round up.
    """
    # Divide before multiplying, as both implementations do: another order rounds differently in the last bit,
    # and near a tie that changes the length.
    latents = frames / fps * AUDIO_LATENTS_PER_SECOND
    # Clips of a few frames would otherwise get no audio at all, which the networks cannot take.
    return max(1, math.ceil(latents) if numerics.is_comfy else round(latents))


@dataclass(frozen=True, kw_only=True)
class ClipPlan:
    """Size and length of a clip on the latent grid, video and audio together; built by :func:`plan_clip`.

    ``width`` and ``height`` are pixels, ``frames`` pixel frames at ``fps``; ``numerics`` decides how the
    length of the audio is rounded. ``changes`` are sentences about what differs from the request.
    """

    width: int
    height: int
    frames: int
    fps: float
    numerics: Numerics = Numerics.OFFICIAL
    changes: tuple[str, ...] = ()
    """One sentence for each value that differs from the requested one."""

    @property
    def seconds(self) -> float:
        return self.frames / self.fps

    @property
    def latent_frames(self) -> int:
        return latent_frames_of(self.frames)

    @property
    def latent_height(self) -> int:
        return self.height // SPATIAL_SCALE

    @property
    def latent_width(self) -> int:
        return self.width // SPATIAL_SCALE

    @property
    def audio_latents(self) -> int:
        return audio_latents_of(self.frames, self.fps, self.numerics)

    @property
    def video_tokens(self) -> int:
        return self.latent_frames * self.latent_height * self.latent_width

    @property
    def audio_tokens(self) -> int:
        return self.audio_latents

    def video_shape(self, batch: int = 1) -> tuple[int, int, int, int, int]:
        """Shape (B, 128, F, H, W) of the video latent: F latent frames, H latent rows, W latent columns."""
        return batch, VIDEO_CHANNELS, self.latent_frames, self.latent_height, self.latent_width

    def audio_shape(self, batch: int = 1) -> tuple[int, int, int, int]:
        """Shape (B, 8, T, 16) of the audio latent: T latent frames, 16 latent bins."""
        return batch, AUDIO_CHANNELS, self.audio_latents, AUDIO_BINS

    def half(self) -> ClipPlan:
        """The plan of the first stage of a two-stage run: half the width and height, the same length.

        Raises ValueError if the size is not a multiple of 64; plan the clip with ``stages=2``.
        """
        # The first stage itself has to lie on the latent grid.
        multiple = 2 * SPATIAL_SCALE
        if self.width % multiple or self.height % multiple:
            raise ValueError(
                f"{self.width}x{self.height} cannot be halved: width and height must be multiples of "
                f"{multiple}; plan the clip with stages=2"
            )
        return replace(self, width=self.width // 2, height=self.height // 2)

    def before(self, enlargement: Fraction) -> ClipPlan:
        """The plan of the first of two stages, if the upscaler between them enlarges by ``enlargement``.

        Width and height are divided by ``enlargement``, such as 3/2; the length is the same. Raises
        ValueError if the smaller size is not a whole number of latent rows and columns.
        """
        if enlargement == 2:
            return self.half()
        multiple = SPATIAL_SCALE * enlargement.numerator
        if self.width % multiple or self.height % multiple:
            raise ValueError(
                f"the upscaler enlarges by {float(enlargement):g}, two stages of {self.width}x{self.height} "
                f"need 2: use an upscaler x2, or a width and height that are multiples of {multiple}"
            )
        return replace(
            self,
            width=int(self.width / enlargement),
            height=int(self.height / enlargement),
        )


def size_like(columns: int, rows: int, pixels: float, multiple: int) -> tuple[int, int]:
    """Width and height in the proportions of an image of ``columns`` x ``rows``, of about ``pixels`` in all.

    Both are multiples of ``multiple`` pixels, and at least that.
    """
    scale = (pixels / (rows * columns)) ** 0.5
    width, height = (max(1, round(size * scale / multiple)) * multiple for size in (columns, rows))
    return width, height


def plan_clip(
    width: int,
    height: int,
    *,
    frames: int | None = None,
    seconds: float | None = None,
    fps: float = 24.0,
    snap: Snap = Snap.NEAREST,
    stages: int = 1,
    numerics: Numerics = Numerics.OFFICIAL,
) -> ClipPlan:
    """Bring a requested size and length onto the latent grid, and record what changed.

    Width and height in pixels become multiples of 32 (of 64 with two ``stages``), the length 8k + 1 frames,
    by the rule ``snap``. The length is either ``frames`` or ``seconds``. The audio follows the snapped
    length, so that both end together; ``numerics`` decides how its length is rounded.

    Raises ValueError for ``stages`` other than 1 and 2, for values that are not positive and finite, for both
    or neither of ``frames`` and ``seconds``, and, with ``Snap.ERROR``, for anything off the grid (naming the
    nearest values on it).
    """
    if stages not in (1, 2):
        raise ValueError(
            f"stages={stages} is not supported: use 1, or 2 for half size first and then an upsample"
        )
    if (frames is None) == (seconds is None):
        raise ValueError(
            f"the length must be set once: got frames={frames}, seconds={seconds}; use one of the two"
        )
    _check_positive("fps", fps)
    multiple = SPATIAL_SCALE * stages
    changes: list[str] = []

    def snapped_size(name: str, value: int) -> int:
        _check_whole(name, value)
        result, rule = _snap(value, first=multiple, step=multiple, snap=snap), f"a multiple of {multiple}"
        if result is None:
            below, above = _neighbours(value, first=multiple, step=multiple)
            raise ValueError(f"{name}={value} must be {rule}: the nearest are {below} and {above}")
        if result != value:
            changes.append(f"{name} is {result} instead of {value}: it must be {rule}")
        return result

    width, height = snapped_size("width", width), snapped_size("height", height)
    length, change = _snapped_length(frames, seconds, fps, snap)
    return ClipPlan(
        width=width,
        height=height,
        frames=length,
        fps=float(fps),
        numerics=numerics,
        changes=(*changes, *change),
    )


def _snapped_length(
    frames: int | None, seconds: float | None, fps: float, snap: Snap
) -> tuple[int, tuple[str, ...]]:
    """Bring a length, stated as ``frames`` or else as ``seconds``, to 8k + 1 frames at ``fps`` per second.

    Returns (number of frames, sentences about the change): one sentence if the number is not the requested
    one, else none. Raises ValueError for a length that is not positive, and with ``Snap.ERROR`` for one that
    is not 8k + 1 frames.
    """
    if seconds is None:
        assert frames is not None
        _check_whole("frames", frames)
        requested, text = float(frames), f"frames={frames}"
    else:
        _check_positive("seconds", seconds)
        # Seconds times a rate such as 24000/1001 misses the intended whole frame by a few ulp.
        requested, text = (
            round(seconds * fps, 6),
            f"seconds={seconds:g} ({seconds * fps:g} frames at {fps:g} fps)",
        )
    length = _snap(requested, first=1, step=TEMPORAL_SCALE, snap=snap)
    if length is None:
        options = " and ".join(
            f"{n} ({n / fps:.3f} s)" for n in _neighbours(requested, first=1, step=TEMPORAL_SCALE)
        )
        raise ValueError(f"{text} must be {TEMPORAL_SCALE}k + 1 frames: the nearest are {options}")
    if length == requested:
        return length, ()
    return length, (
        f"the clip has {length} frames ({length / fps:.3f} s) instead of {text}: "
        f"it must be {TEMPORAL_SCALE}k + 1 frames",
    )


def _neighbours(value: float, *, first: int, step: int) -> tuple[int, int]:
    """The grid values ``first + k * step`` (k from 0) below and above ``value``.

    Both are ``value`` if it is on the grid, and ``first`` if it is below the grid.
    """
    steps = (value - first) / step
    return first + max(0, math.floor(steps)) * step, first + max(0, math.ceil(steps)) * step


def _snap(value: float, *, first: int, step: int, snap: Snap) -> int | None:
    """``value`` snapped to the grid ``first + k * step``, k from 0, by the rule ``snap``.

    None if ``value`` is off the grid with ``Snap.ERROR``.
    """
    below, above = _neighbours(value, first=first, step=step)
    if snap is Snap.ERROR:
        return below if below == value else None
    if snap is Snap.FLOOR:
        return below
    if snap is Snap.CEIL:
        return above
    return below if value - below <= above - value else above


def _check_positive(name: str, value: float) -> None:
    if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be a positive, finite number")


def _check_whole(name: str, value: int) -> None:
    # A bool is an int to isinstance, and never a size.
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{name}={value} must be a positive whole number")


@dataclass(frozen=True, kw_only=True)
class ClipSize:
    """The size and length that a request asks for; None takes the default for the checkpoint.

    ``width`` and ``height`` are pixels; the length is ``num_frames`` (at ``fps``) or ``seconds``. With
    "auto" as ``seconds`` the duration head of the model predicts the length. ``snap`` is how size and length
    are brought onto the latent grid. With ``video`` False, audio alone is generated, of that length.
    """

    width: int | None = None
    height: int | None = None
    num_frames: int | None = None
    seconds: float | Literal["auto"] | None = None
    fps: float | None = None
    snap: Snap = Snap.NEAREST
    video: bool = True

    @property
    def auto(self) -> bool:
        """Whether the length is predicted from the prompt."""
        return self.seconds == AUTO
