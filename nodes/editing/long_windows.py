"""One window of a long clip, sampled with the host's model, and what is given to it.

Letters: N pictures, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...ltx2_core.conditioning.items import Conditioning, GuideFrames, InputAudio, InputVideo
from ...ltx2_core.editing import PromptSchedule
from ...ltx2_core.editing.windows import PlacedLatent, Window
from ...ltx2_core.shapes import ClipPlan
from ...ltx2_core.types import AVLatent, LatentState
from ..clip.plan import empty_latent
from ..conditioning.attached import AttachedGuide, AttachedImage
from ..conditioning.guides import add_guide, attach_guide, crop_guides
from ..conditioning.images import place_image
from ..convert import clip_audio, encoder_audio, image_at_stage, split, video_of
from ..sampling.stage import Run
from ..sampling.two_stage import applied


@dataclass(frozen=True, kw_only=True, eq=False)
class WindowSampler:
    """Samples a window with the host's model; all windows share the schedule of the first one."""

    model: Any
    video_vae: Any
    run: Run
    seed: int
    prompts: dict[str, Any]
    negative: Any
    schedule: PromptSchedule
    image: Tensor | None
    shown: Shown | None
    sound: Tensor | None

    def __call__(self, window: Window, given: Sequence[Conditioning]) -> tuple[AVLatent, LatentState | None]:
        positive = self.prompts[self.schedule.at(window.prompt_s, window.index)]
        negative, latent = self.negative, empty_latent(window.clip, 1)
        if self.shown is not None and self.shown.starts:
            encoded = self.video_vae.encode(image_at_stage(self.shown.part(window), video_of(latent), 0))
            latent = applied(latent, InputVideo(latent=encoded, strength=0.0))
        if self.image is not None and window.index == 0:
            latent = place_image(self.video_vae, latent, AttachedImage(self.image, 1.0))
        if self.sound is not None:
            end = window.audio_start + window.clip.audio_latents
            latent = applied(latent, InputAudio(latent=self.sound[:, :, window.audio_start : end]))
        for item in (one for one in given if not isinstance(one, GuideFrames)):
            latent = applied(latent, item)
        for item in (one for one in given if isinstance(one, GuideFrames)):
            # The host couples how clean a guide is and how much it is looked at.
            guide_item = replace(item, attention=item.strength)
            positive, negative, latent = attach_guide(positive, negative, latent, guide_item)
        if self.shown is not None and self.shown.strength > 0:
            strength, scale = self.shown.strength, self.shown.scale
            guide = AttachedGuide(
                image=self.shown.part(window), frame=0, strength=strength, attention=strength, mask=None,
                downscale=scale, every=self.shown.every,
            )  # fmt: skip
            positive, negative, latent, _ = add_guide(positive, negative, self.video_vae, latent, guide)
        sampled = self.run(self.model, positive, negative, latent, seed=(self.seed + window.index) % 2**64)
        video, audio = split(crop_guides(positive, negative, sampled)[2])
        assert video is not None and audio is not None
        return AVLatent(video["samples"], audio["samples"]), None


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A clip (N, H, W, 3) that each window is shown, ``scale`` times smaller, and may start from.

    Of its pictures every ``every``-th is shown.
    """

    image: Tensor
    strength: float
    scale: int
    starts: bool
    every: int = 1

    def part(self, window: Window) -> Tensor:
        return self.image[window.first_frame : window.first_frame + window.clip.frames]


def placed_keyframes(
    video_vae: Any, keyframes: Tensor | None, frames: str, strength: float, clip: ClipPlan
) -> list[PlacedLatent]:
    """Every picture, encoded, at its frame."""
    if keyframes is None:
        return []
    try:
        numbers = [int(word) for word in frames.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"keyframe_frames {frames!r} must be frame numbers, such as 0, 48, -1") from None
    wrong = [number for number in numbers if not -clip.frames <= number < clip.frames]
    if wrong or len(numbers) != len(keyframes):
        raise ValueError(
            f"keyframe_frames {frames!r} must be one number from {-clip.frames} to {clip.frames - 1} for "
            f"each of the {len(keyframes)} keyframes"
        )
    latent = video_of(empty_latent(clip, 1))
    return [
        PlacedLatent(
            frame=number % clip.frames,
            latent=video_vae.encode(image_at_stage(picture[None], latent, 0)),
            strength=strength,
        )
        for number, picture in zip(numbers, keyframes, strict=True)
    ]


def shown_source(
    source: Tensor | None, clip: ClipPlan, strength: float, denoise: float, scale: int, every: int = 1
) -> Shown | None:
    if source is None:
        if denoise < 1:
            raise ValueError(f"denoise={denoise:g} keeps a part of the source: connect one, or set it to 1")
        return None
    if len(source) < clip.frames:
        raise ValueError(
            f"the source has {len(source)} frames and the clip {clip.frames}: plan a clip that is not longer"
        )
    return Shown(image=source, strength=strength, scale=scale, starts=denoise < 1, every=every)


def kept_sound(audio: Any, audio_vae: Any, clip: ClipPlan) -> tuple[dict[str, Any], Tensor]:
    """The AUDIO as long as the clip, and its latent."""
    if audio_vae is None:
        raise ValueError("a sound is connected and audio_vae is not: connect the audio VAE that encodes it")
    waveform, rate, _ = clip_audio(audio, 0.0, clip.audio_latents)
    encoded = audio_vae.encode(encoder_audio(waveform, rate, audio_vae.audio_sample_rate, clip.audio_latents))
    return {"waveform": waveform, "sample_rate": rate}, encoded


def identity(x: Tensor | None) -> list[float] | None:
    """Numbers that differ for another tensor."""
    return None if x is None else [*x.shape, sum(float(part.double().sum()) for part in x)]
