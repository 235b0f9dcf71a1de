"""What an edit gives to the pipeline, encoded at the size of each stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..conditioning.guides import place_guide
from ..conditioning.items import Conditioning, GuideFrames, ImageInPlace, InputVideo, Overlap, PreserveOutside
from ..media import fit_image
from ..shapes import SPATIAL_SCALE, ClipPlan, frames_of, latent_frames_of
from ..types import AVLatent
from .footage import Footage

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline


@dataclass(frozen=True)
class Ready:
    """An item that is encoded already, for one stage."""

    item: Conditioning

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        return self.item


@dataclass(frozen=True, eq=False)
class FirstFrames:
    """Pictures (8k + 1, 3, H, W) in [0, 1] that the clip begins with."""

    frames: Tensor

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        return ImageInPlace(latent=pipeline.encode_video(fit_image(self.frames, clip.width, clip.height)))


@dataclass(frozen=True, eq=False)
class FirstAudio:
    """An encoded sound (1, 8, T, 16) that the clip begins with."""

    latent: Tensor

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        return Overlap(video=None, audio=self.latent)


@dataclass(frozen=True, eq=False)
class WholeVideo:
    """Pictures (8k + 1, 3, H, W) in [0, 1] that are the whole video."""

    frames: Tensor

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        return InputVideo(latent=pipeline.encode_video(fit_image(self.frames, clip.width, clip.height)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Keyframe:
    """A picture or clip (N, 3, H, W) in [0, 1] shown at a pixel frame; negative counts from the end."""

    frames: Tensor
    frame: int
    strength: float = 1.0
    attention: float = 1.0

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        placed = place_guide(len(self.frames), self.frame, clip.latent_frames)
        pixels = fit_image(placed.frames_to_encode(self.frames), clip.width, clip.height)
        return GuideFrames(
            latent=placed.latent(pipeline.encode_video(pixels)),
            frame=placed.frame,
            strength=self.strength,
            attention=self.attention,
            single_frame=placed.single_frame,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Reference:
    """A clip (8k + 1, 3, H, W) in [0, 1] as long as the video, shown beside it, ``scale`` times smaller.

    Of its frames every ``every``-th is shown.
    """

    frames: Tensor
    scale: int = 1
    strength: float = 1.0
    every: int = 1

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        """Raises ValueError for a size that ``scale`` does not divide."""
        check_scale(clip, self.scale)
        shown = self.frames[:: self.every]
        shown = shown[: frames_of(latent_frames_of(len(shown)))]
        latent = pipeline.encode_video(fit_image(shown, clip.width // self.scale, clip.height // self.scale))
        return GuideFrames(
            latent=latent, frame=0, strength=self.strength, scale=self.scale, time_scale=self.every
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Outside:
    """A source that is kept but for the latent frames that ``video`` and ``audio`` (F or T,) name."""

    source: Footage
    sound: Tensor | None
    video: Tensor
    audio: Tensor

    def at(self, pipeline: LTX2Pipeline, clip: ClipPlan) -> Conditioning:
        pixels = fit_image(self.source.frames, clip.width, clip.height)
        latent = AVLatent(pipeline.encode_video(pixels), self.sound)
        return PreserveOutside(latent=latent, video=self.video, audio=self.audio)


def check_scale(clip: ClipPlan, scale: int) -> None:
    """Raise ValueError unless a reference ``scale`` times smaller than the clip is whole latent cells."""
    if clip.latent_width % scale or clip.latent_height % scale:
        raise ValueError(
            f"a reference {scale} times smaller does not fit {clip.width} x {clip.height}: use a width and "
            f"height that are multiples of {SPATIAL_SCALE * scale}"
        )


def encoded_audio(pipeline: LTX2Pipeline, sound: tuple[Tensor, int], latents: int) -> Tensor:
    """A sound ((C, S), Hz) as ``latents`` audio latents: cut, or followed by silence."""
    return pipeline.encode_audio(*sound, latent_frames=latents) if latents else torch.zeros(1, 8, 0, 16)
