"""Conditioning items: each takes a latent state and returns a copy with its conditioning added.

Letters: B batch, K F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..types import AVLatent, LatentState
from .masks import expand_mask
from .streams import check_grid, check_strength, fit_batch, inserted, video_and_mask, with_video


class Conditioning(Protocol):
    """Anything that can be applied to a latent state; ``apply`` returns a changed copy of the state."""

    def apply(self, state: LatentState) -> LatentState: ...


@dataclass(frozen=True, kw_only=True)
class ImageInPlace:
    """An encoded image or clip that replaces the first K latent frames of a video (image to video).

    ``latent`` (B or 1, 128, K, H, W) is normalised. ``strength`` in [0, 1] sets the denoise mask of these
    frames to ``1 - strength``: 1 preserves them exactly, 0 regenerates them, values between regenerate them
    partly.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with this image or clip as its first latent frames.

        Their denoise mask becomes ``1 - strength``. Raises ValueError for a strength outside [0, 1], for a
        state without video, if channels, rows, columns or batch size of the latent do not fit the clip, and
        if the clip has fewer latent frames.
        """
        check_strength(self.strength)
        video, mask = video_and_mask(state)
        image = fit_batch("image latent", self.latent, video)
        # Guide frames lie behind the clip and cannot be replaced by an image.
        clip_frames = video.shape[2] - state.guide_frames
        check_grid("image latent", image, video)
        frames = image.shape[2]
        if frames > clip_frames:
            raise ValueError(
                f"the image latent has {frames} latent frames and the clip {clip_frames}: use a shorter one"
            )
        return with_video(
            state,
            torch.cat((image, video[:, :, frames:]), dim=2),
            torch.cat((torch.full_like(mask[:, :, :frames], 1 - self.strength), mask[:, :, frames:]), dim=2),
        )


@dataclass(frozen=True, kw_only=True)
class InputVideo:
    """An input video of the clip's full length, for video to video or video to audio.

    ``latent`` (B or 1, 128, F, H, W) is normalised. The denoise mask becomes ``1 - strength`` everywhere:
    strength 1 preserves the video, 0 regenerates it.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with this input video as the latent of the clip.

        The denoise mask of the clip becomes ``1 - strength``; guides after it are unchanged. Raises
        ValueError if the number of latent frames differs from the clip's, and what :meth:`ImageInPlace.apply`
        raises.
        """
        video, _ = video_and_mask(state)
        clip_frames = video.shape[2] - state.guide_frames
        if self.latent.shape[2] != clip_frames:
            raise ValueError(
                f"the input video has {self.latent.shape[2]} latent frames and the clip {clip_frames}: "
                "cut the video, or plan the clip to its length"
            )
        return ImageInPlace(latent=self.latent, strength=self.strength).apply(state)


@dataclass(frozen=True, kw_only=True)
class InputAudio:
    """An input audio of the clip's full length, for audio to video.

    ``latent`` (B or 1, 8, T, 16) is normalised. The denoise mask becomes ``1 - strength`` everywhere. With
    strength 1 the model receives the audio without noise at every step and the audio is returned unchanged.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with this input audio as its audio latent.

        The denoise mask of the audio becomes ``1 - strength``, in float32. A latent with a batch of one is
        repeated for all samples of the state. Raises ValueError for a strength outside [0, 1], for a state
        without audio, and for a latent whose batch size is neither 1 nor that of the state's audio latent, or
        whose channels, latent frames or mel bins differ from it.
        """
        check_strength(self.strength)
        if state.latent.audio is None or state.mask.audio is None:
            raise ValueError("there is input audio but this state has no audio: plan the clip with audio")
        audio = state.latent.audio
        fitted = fit_batch("audio latent", self.latent, audio)
        if fitted.shape != audio.shape:
            raise ValueError(
                f"the input audio latent is {tuple(fitted.shape)} and the clip needs {tuple(audio.shape)}: "
                f"cut the waveform, or pad it with silence before it is encoded, to {audio.shape[2]} latents"
            )
        # Masks are float32 in every state, whatever the dtype of the latents.
        mask = audio.new_full((len(audio), 1, audio.shape[2], 1), 1 - self.strength, dtype=torch.float32)
        return replace(
            state, latent=replace(state.latent, audio=fitted), mask=replace(state.mask, audio=mask)
        )


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Latents of an earlier clip that this clip begins with, for extending and for windows of a long clip.

    ``video`` (1, 128, K, H, W) and ``audio`` (1, 8, T, 16) fill the start of the clip's latents; one that is
    None changes nothing. The first ``skip`` latent frames of ``video`` are not used, and the clip's own ones
    are generated there: a latent frame from inside a clip stands for eight pixel frames and cannot serve as
    the first latent frame, which stands for one. ``strength`` 1 preserves the overlap, 0 regenerates it.
    """

    video: Tensor | None
    audio: Tensor | None
    skip: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the overlap at the start of video and audio, and its mask there.

        In the overlap the mask becomes ``1 - strength``. ``audio`` has no effect on a state without audio.
        Raises ValueError for a strength outside [0, 1], if the overlap is longer than the clip, if latent
        rows or columns differ, and if there is ``video`` but the state has none.
        """
        check_strength(self.strength)
        if self.video is not None:
            video, mask = video_and_mask(state)
            overlap = fit_batch("overlap", self.video, video)
            check_grid("overlap", overlap, video)
            state = with_video(
                state,
                inserted(video, overlap[:, :, self.skip :], self.skip),
                inserted(mask, torch.full_like(overlap[:, :1, self.skip :], 1 - self.strength), self.skip),
            )
        audio, audio_mask = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.audio is not None and audio is not None and audio_mask is not None:
            overlap = fit_batch("audio overlap", self.audio, audio)
            overlap_mask = torch.full_like(overlap[:, :1, :, :1], 1 - self.strength)
            state = replace(
                state,
                latent=replace(state.latent, audio=inserted(audio, overlap, 0)),
                mask=replace(state.mask, audio=inserted(audio_mask, overlap_mask, 0)),
            )
        return state


@dataclass(frozen=True, kw_only=True)
class PreserveOutside:
    """A source clip whose latents are preserved outside of the regions to regenerate (retake).

    ``latent`` holds the source: video (1, 128, F, H, W), audio (1, 8, T, 16), each as long as the clip or
    shorter. ``video`` (F,) and ``audio`` (T,) are bool, True for latent frames to regenerate. Those have the
    latents and the mask of the state, so that a second sampling stage starts from the result of the first and
    not from the source, and a first image inside a region stays in place. What lies past the end of the
    source, and a stream that is None in ``latent``, does not change: in a new state it is generated in full.
    """

    latent: AVLatent
    video: Tensor
    audio: Tensor

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the source outside of the regions and a mask that regenerates them.

        Source audio has no effect on a state without audio. Raises ValueError if latent rows or columns
        differ, if the source is longer than the clip, and for source video in a state without video.
        """
        if self.latent.video is not None:
            video, mask = video_and_mask(state)
            source = fit_batch("source", self.latent.video, video)
            check_grid("source", source, video)
            merged, merged_mask = _merged_outside(video, mask, source, self.video)
            state = with_video(state, merged, merged_mask)
        # The other stream is optional, so that a video-only state can use an audio-video source.
        audio, mask_of_audio = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.latent.audio is not None and audio is not None and mask_of_audio is not None:
            source = fit_batch("audio source", self.latent.audio, audio)
            merged, merged_mask = _merged_outside(audio, mask_of_audio, source, self.audio)
            state = replace(
                state,
                latent=replace(state.latent, audio=merged),
                mask=replace(state.mask, audio=merged_mask),
            )
        return state


def _merged_outside(own: Tensor, mask: Tensor, source: Tensor, regenerate: Tensor) -> tuple[Tensor, Tensor]:
    """Merge a source into the latent ``own`` and the ``mask`` of one stream; returns (latent, mask).

    All have time along axis 2. Where ``regenerate`` (latent frames,) is False the latent is that of
    ``source`` and the mask 0. Where it is True, and after the last latent frame of ``source``, both are
    unchanged. Raises ValueError if the source is longer than ``own``.
    """
    length = source.shape[2]
    if length > own.shape[2]:
        raise ValueError(
            f"the source has {length} latents and the clip {own.shape[2]}: cut it, or plan a longer clip"
        )
    chosen = regenerate[:length].to(own.device).view(1, 1, -1, *(1,) * (own.ndim - 3))
    merged = torch.where(chosen, own[:, :, :length], source)
    return inserted(own, merged, 0), inserted(mask, mask[:, :, :length] * chosen.to(mask), 0)
