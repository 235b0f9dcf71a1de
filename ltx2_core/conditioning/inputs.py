"""The inputs of a request as a user names them: files, or values in memory, before anything is encoded.

Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from numbers import Integral
from os import PathLike
from typing import Any, Literal, TypeAlias

from torch import Tensor

from ..media.images import ImageSource, parse_colour
from ..shapes import ClipPlan
from ..types import AVLatent
from .guides import GuidePlacement, place_guide
from .regions import Region, check_regions

AudioSource: TypeAlias = "str | PathLike[str] | tuple[Tensor, int]"
"""An audio or video file, or (waveform (C, S) in [-1, 1], sample rate in Hz)."""
VideoSource: TypeAlias = "str | PathLike[str] | Tensor"
"""A video file, or frames (N, 3, H, W) in [0, 1]."""
Fit: TypeAlias = Literal["crop", "pad", "stretch"]
"""How images of another shape are brought to that of the clip: cut around the centre, with black borders, or
distorted."""


MIN_REFERENCE_FRAMES = 9
"""The fewest frames of a reference for a range of the clip: what lasts longer than one latent frame."""
MAX_STRENGTH = 10.0
"""The largest strength of a guide or a reference."""


def check_strength(strength: float, what: str) -> None:
    """Raise ValueError if the strength of a guide or reference is negative, NaN or above 10.

    ``what`` names the input in the message, such as "an image".
    """
    # NaN lies on neither side of a bound.
    if not 0 <= strength <= MAX_STRENGTH:
        raise ValueError(f"strength={strength!r} of {what} must be from 0 to {MAX_STRENGTH:g}")


@dataclass(frozen=True, kw_only=True)
class FirstImage:
    """The image, or clip (frames, 3, height, width) in [0, 1], that replaces the first latent frames.

    ``source`` is None without one. ``strength`` 1 preserves it, 0 ignores it; ``stage2_strength`` is that of
    a second sampling stage. ``crf`` is the strength of the H.264 round trip of a single image, 0 is off. None
    is left to the recipe (default settings) of the checkpoint.
    """

    source: ImageSource | None = None
    strength: float | None = None
    stage2_strength: float | None = None
    crf: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageAt:
    """An image that guides the clip at pixel frame ``frame``, counted from 0; -1 is the last frame.

    ``strength`` 1 follows the image, less lets the model change it. ``crf`` is the strength of the H.264
    round trip of the image, 0 is off; None is left to the recipe (default settings) of the checkpoint.
    """

    source: ImageSource
    frame: int = 0
    strength: float = 1.0
    crf: int | None = None

    def __post_init__(self) -> None:
        """Check the fields.

        Raises TypeError for a ``frame`` that is no whole number, ValueError for a strength or crf out of
        range.
        """
        # ``True`` is an integer to Python and would be frame 1.
        if not isinstance(self.frame, Integral) or isinstance(self.frame, bool):
            raise TypeError(f"frame={self.frame!r} of an image must be a whole number; -1 is the last frame")
        check_strength(self.strength, "an image")
        if self.crf is not None and not 0 <= self.crf <= 51:
            raise ValueError(f"crf={self.crf!r} of an image must be from 0 to 51; 0 is off")

    @classmethod
    def of(cls, value: Any) -> Any:
        """Convert an entry of ``images``, (image, frame) or (image, frame, strength), to this class.

        Any other value is returned unchanged.
        """
        if isinstance(value, tuple | list) and len(value) in (2, 3):
            return cls(source=value[0], frame=value[1], strength=value[2] if len(value) == 3 else 1.0)
        return value


@dataclass(frozen=True, kw_only=True)
class VideoReference:
    """A control video, or another reference for an IC-LoRA, frame by frame for the clip or a range of it.

    ``source`` is a file or frames (frames, 3, height, width) in [0, 1]. It is encoded at 1/``scale`` of the
    clip's width and height, and of each ``every`` frames one is used; None takes the value from the LoRAs of
    the run. ``strength`` 1 leaves it without noise, less lets the model change it.

    The range begins at pixel frame ``frame`` of the clip and has ``frames`` frames, None up to the end of the
    clip; it is brought to the latent grid as :func:`.guides.place_guide` does. The source is read from second
    ``start_s`` on.
    """

    source: VideoSource
    strength: float = 1.0
    scale: int | None = None
    every: int | None = None
    frame: int = 0
    frames: int | None = None
    start_s: float = 0.0

    def __post_init__(self) -> None:
        """Check the fields.

        Raises ValueError for a strength out of range, a scale, every or number of frames below 1, and for a
        frame or a second below 0.
        """
        check_strength(self.strength, "a reference")
        for name, least in (("scale", 1), ("every", 1), ("frame", 0), ("frames", 1)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise ValueError(f"{name}={value!r} of a reference must be a whole number from {least} on")
        if not 0 <= self.start_s < math.inf:
            raise ValueError(f"start_s={self.start_s!r} of a reference must be seconds from 0 on")

    def place(self, clip: ClipPlan) -> GuidePlacement:
        """Where its frames lie in ``clip``.

        Raises ValueError for a range of fewer than 9 frames, and for one that ends after the clip.
        """
        frames = clip.frames - self.frame if self.frames is None else self.frames
        if frames < MIN_REFERENCE_FRAMES:
            raise ValueError(
                f"the range of a reference has {frames} frames: {MIN_REFERENCE_FRAMES} are the fewest, of "
                f"the clip's {clip.frames}"
            )
        return place_guide(frames, self.frame, clip.latent_frames)

    @classmethod
    def of(cls, value: Any) -> Any:
        """Convert an entry of a request's ``references``, a video or (video, strength), to this class.

        Any other value is returned unchanged.
        """
        if isinstance(value, str | PathLike | Tensor):
            return cls(source=value)
        if isinstance(value, tuple | list) and len(value) == 2:
            return cls(source=value[0], strength=value[1])
        return value


@dataclass(frozen=True, kw_only=True)
class AudioTrack:
    """Audio that becomes the audio of the clip; the clip begins at second ``start_s`` of it.

    The audio is cut, or padded with silence, to the length of the clip. ``source`` is None without one.
    ``noise_db`` is the loudness (dB of full scale) of noise that is added to what is encoded, None for no
    noise; the audio that is returned with the clip stays clean. ``regions`` are (start, end) in seconds of
    the clip in which audio is generated; elsewhere it is preserved.
    """

    source: AudioSource | None = None
    start_s: float = 0.0
    noise_db: float | None = None
    regions: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        """Check the regions; raises ValueError or TypeError for regions that are none, or without audio."""
        try:
            object.__setattr__(self, "regions", check_regions(self.regions))
        except (TypeError, ValueError) as error:
            raise type(error)(f"audio_regions: {error}") from None
        if self.regions and self.source is None:
            raise ValueError("audio_regions are seconds of input audio that are generated: give audio too")


@dataclass(frozen=True, kw_only=True)
class ReferenceVoice:
    """Audio, such as a voice, that the generated audio imitates; for LoRAs that were trained for this.

    ``source`` is None without one; its first ``seconds`` are used. ``identity`` is the guidance scale towards
    the voice, 0 is off; it costs one more guidance pass in each sampling step.
    """

    source: AudioSource | None = None
    seconds: float = 5.0
    identity: float = 3.0


@dataclass(frozen=True, kw_only=True)
class SourceClip:
    """The video file that an edit started from, and the regions of it that the edit regenerated.

    ``video`` and ``audio`` are lists of (start, end) in seconds. ``edit`` names the edit, such as ``retake``.
    This is only a record; sampling does not read it.
    """

    path: str
    edit: str
    video: tuple[Region, ...] = ()
    audio: tuple[Region, ...] = ()

    def __post_init__(self) -> None:
        for name in ("video", "audio"):
            # JSON has lists of lists.
            regions = tuple((float(start), float(end)) for start, end in getattr(self, name))
            object.__setattr__(self, name, regions)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All inputs of a request.

    ``fit`` says how images and control videos of another shape are brought to that of the clip;
    ``background`` is the CSS colour that replaces transparent pixels of them, and of an edit's source.
    Sampling starts from ``latents`` if there are any, else from an empty clip. ``noise`` takes the place of
    the noise that is drawn for the first sampling stage. ``hdr`` is the colour space of EXR images and of the
    HDR clip that is made; None makes an SDR clip.
    """

    image: FirstImage = field(default_factory=FirstImage)
    images: tuple[ImageAt, ...] = ()
    references: tuple[VideoReference, ...] = ()
    audio: AudioTrack = field(default_factory=AudioTrack)
    reference_audio: ReferenceVoice = field(default_factory=ReferenceVoice)
    fit: Fit = "crop"
    background: str = "black"
    latents: AVLatent | None = None
    noise: AVLatent | None = None
    source_clip: SourceClip | None = None
    hdr: str | None = None

    def __post_init__(self) -> None:
        try:
            parse_colour(self.background)
        except ValueError as error:
            raise ValueError(f"background={self.background!r}: {error}") from None
        object.__setattr__(self, "images", tuple(map(ImageAt.of, self.images)))
        object.__setattr__(self, "references", tuple(map(VideoReference.of, self.references)))
