"""The conditioning items of an edit, such as preserved frames; each sampling stage encodes them at its size.

Letters: N frames, F latent frames, T audio latents, S samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike

import torch
from torch import Tensor

from ..conditioning.guide_frames import GuideFrames
from ..conditioning.guides import place_guide
from ..conditioning.items import Conditioning, ImageInPlace, InputVideo, Overlap, PreserveOutside
from ..media import fit_image
from ..media.clip_frames import TwiceFrames
from ..shapes import SPATIAL_SCALE, ClipPlan, frames_of, latent_frames_of
from ..types import AVLatent
from .footage import Footage
from .protocols import Encoders, Waveform

NO_LATENTS = torch.zeros(0, dtype=torch.bool)
"""The regeneration mask of a stream that an item leaves alone."""


@dataclass(frozen=True)
class Encoded:
    """A conditioning item that is encoded already and is used unchanged at every sampling stage."""

    item: Conditioning

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        return self.item


@dataclass(frozen=True, eq=False)
class FirstFrames:
    """Frames of a source, 8k + 1 of them, with which the sampled clip begins; they are preserved."""

    footage: Footage

    @property
    def footage_size(self) -> tuple[int, int]:
        return self.footage.size

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        return ImageInPlace(latent=codecs.encode_video(self.footage.fitted(clip).frames))

    def describe(self) -> str:
        return f"{len(self.footage.frames)} frames in place of the first frames"


@dataclass(frozen=True, eq=False)
class WholeVideo:
    """Frames of a source, 8k + 1 of them, that are the whole video of the sampled clip; they are preserved.

    So only its audio is generated.
    """

    footage: Footage

    @property
    def footage_size(self) -> tuple[int, int]:
        return self.footage.size

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        return InputVideo(latent=codecs.encode_video(self.footage.fitted(clip).frames))


@dataclass(frozen=True, eq=False)
class SourceFrames:
    """A source video that is preserved except for the latent frames where ``regenerate`` (F,) is True."""

    footage: Footage
    regenerate: Tensor

    @property
    def footage_size(self) -> tuple[int, int]:
        return self.footage.size

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        encoded = codecs.encode_video(self.footage.fitted(clip).frames)
        return PreserveOutside(latent=AVLatent(encoded, None), video=self.regenerate, audio=NO_LATENTS)

    def describe(self) -> str:
        return f"the source, except {int(self.regenerate.sum())} of {len(self.regenerate)} latent frames"


def check_audio(codecs: Encoders, what: str) -> None:
    """Raise ValueError, which begins with ``what`` is asked for, if the model has no audio."""
    if not codecs.has_audio:
        raise ValueError(f"{what}: LTX-Video has no audio; use a model of LTX-2")


def first_audio(codecs: Encoders, audio: Waveform, latents: int) -> Encoded:
    """Encode the audio with which a clip begins; it is preserved.

    ``audio`` is (waveform (C, S), rate in Hz), cut or padded with silence to ``latents`` audio latents.
    """
    return Encoded(Overlap(video=None, audio=codecs.encode_audio(*audio, latent_frames=latents)))


def source_audio(codecs: Encoders, audio: Waveform, regenerate: Tensor) -> Encoded:
    """Encode source audio that is preserved except for the audio latents where ``regenerate`` (T,) is True.

    ``audio`` is (waveform (C, S), rate in Hz), cut or padded with silence to T latents.
    """
    encoded = codecs.encode_audio(*audio, latent_frames=len(regenerate))
    return Encoded(PreserveOutside(latent=AVLatent(None, encoded), video=NO_LATENTS, audio=regenerate))


@dataclass(frozen=True, eq=False, kw_only=True)
class Keyframe:
    """An image or clip (N, 3, H, W) in [0, 1] that guides the video from pixel frame ``frame`` on.

    A negative frame counts from the end: -1 is the last. With ``strength`` 1 the model sees the image without
    noise; less lets the model change it. ``attention`` scales how much the video attends to it: 1 is plain
    attention, 0 none. ``path`` is the file of the image; it is not read, only recorded with the settings.
    """

    frames: Tensor
    frame: int
    strength: float = 1.0
    attention: float = 1.0
    path: str | PathLike[str] | None = None

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        # The length in latent frames is the same in every stage, so a guide is at the same place in each.
        placed = place_guide(len(self.frames), self.frame, clip.latent_frames)
        pixels = fit_image(placed.frames_to_encode(self.frames), clip.width, clip.height)
        return GuideFrames(
            latent=placed.latent(codecs.encode_video(pixels)),
            frame=placed.frame,
            strength=self.strength,
            attention=self.attention,
            single_frame=placed.single_frame,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """A reference or control video (8k + 1, 3, H, W) in [0, 1] for an IC-LoRA, as long as the clip.

    The video is encoded at a size ``scale`` times smaller than the clip, and only each ``every``-th of its
    frames is used. Both numbers must be those that the LoRA was trained with. With ``strength`` 1 the
    reference has no noise; less lets the model change it.
    """

    frames: Tensor
    scale: int = 1
    strength: float = 1.0
    every: int = 1

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        """Encode the reference for a sampling stage; ``clip`` is the stage's size and length.

        Raises ValueError if ``scale`` does not divide the size of ``clip``.
        """
        check_scale(clip, self.scale)
        frames = self.frames[:: self.every]
        # The VAE encodes 8k + 1 frames, and every so manyth of 8k + 1 may be another number.
        frames = frames[: frames_of(latent_frames_of(len(frames)))]
        latent = codecs.encode_video(fit_image(frames, clip.width // self.scale, clip.height // self.scale))
        return GuideFrames(
            latent=latent, frame=0, strength=self.strength, scale=self.scale, time_scale=self.every
        )


def check_scale(clip: ClipPlan, scale: int) -> None:
    """Raise ValueError unless ``scale`` divides the clip's width and height in latent cells (32 pixels)."""
    if clip.latent_width % scale or clip.latent_height % scale:
        raise ValueError(
            f"a reference {scale} times smaller does not fit {clip.width} x {clip.height}: use a width and "
            f"height that are multiples of {SPATIAL_SCALE * scale}"
        )


def describe_reference(source: Footage, clip: ClipPlan, scale: int) -> str:
    """A text that says how many frames of ``source`` are the reference of ``clip``, and at what size.

    They are encoded ``scale`` times smaller than the clip in width and height.
    """
    size = "at the size of the clip" if scale == 1 else f"{scale} times smaller"
    return f"{clip.frames} of {len(source.frames)} frames are the reference, {size}"


@dataclass(frozen=True, eq=False)
class ReferenceFrames:
    """A conditioning item: the frames of ``footage``, the source, as the reference of an IC-LoRA.

    They are encoded ``scale`` times smaller, in width and height, than the clip of the sampling stage. With
    ``twice`` each frame but the last is there two times.
    """

    footage: Footage
    scale: int
    twice: bool = False

    @property
    def footage_size(self) -> tuple[int, int]:
        return self.footage.size

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning:
        smaller = replace(clip, width=clip.width // self.scale, height=clip.height // self.scale)
        frames = self.footage.fitted(smaller).frames
        latent = codecs.encode_video(TwiceFrames(frames) if self.twice else frames)
        return GuideFrames(latent=latent, frame=0, scale=self.scale)

    def describe(self) -> str:
        return f"{len(self.footage.frames)} frames of the source as the reference"
