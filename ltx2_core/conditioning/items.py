"""Conditioning items: each takes a latent state and returns a new one with its conditioning added.

Letters: B batch, K F latent frames, H W latent rows and columns, T audio latent frames.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from einops import repeat
from torch import Tensor

from ..shapes import SPATIAL_SCALE
from ..types import AVLatent, Guide, LatentState
from .masks import expand_mask
from .patchify import guide_positions


class Conditioning(Protocol):
    """Anything that can be applied to a state; ``apply`` returns a new state and never changes its input."""

    def apply(self, state: LatentState) -> LatentState: ...


@dataclass(frozen=True, kw_only=True)
class ImageInPlace:
    """An encoded image or clip that replaces the first latent frames (image to video).

    ``latent`` (B or 1, 128, K, H, W) is normalised. ``strength`` in [0, 1] sets the denoise mask of these
    frames to ``1 - strength``: 1 preserves them exactly, 0 regenerates them, values between regenerate them
    partly.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Replace the first K latent frames and their mask.

        Raises ValueError if the size differs from the clip's, or if the clip has fewer than K latent frames.
        """
        _check_strength(self.strength)
        video, mask = _video(state)
        image = _fit_batch("image latent", self.latent, video)
        # Guide frames lie behind the clip and cannot be replaced by an image.
        clip_frames = video.shape[2] - state.guide_frames
        _check_grid("image latent", image, video)
        frames = image.shape[2]
        if frames > clip_frames:
            raise ValueError(
                f"the image latent has {frames} latent frames and the clip {clip_frames}: use a shorter one"
            )
        return _with_video(
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
        """Replace all latent frames and their mask.

        Raises ValueError if the size or the length differs from the clip's.
        """
        video, _ = _video(state)
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
        """Replace the audio latent and its mask.

        Raises ValueError for a state without audio, or if the shape is not exactly the clip's.
        """
        _check_strength(self.strength)
        if state.latent.audio is None or state.mask.audio is None:
            raise ValueError("there is input audio but this state has no audio: plan the clip with audio")
        audio = state.latent.audio
        fitted = _fit_batch("audio latent", self.latent, audio)
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

    ``video`` (1, 128, K, H, W) and ``audio`` (1, 8, T, 16) fill the start of their streams; None leaves a
    stream as it is. The first ``skip`` latent frames of ``video`` are not used, and the clip's own ones are
    generated there: a latent frame from inside a clip stands for eight pixel frames and cannot serve as the
    first latent frame, which stands for one. ``strength`` 1 preserves the overlap, 0 regenerates it.
    """

    video: Tensor | None
    audio: Tensor | None
    skip: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Insert the overlap at the start of both streams and set its mask.

        Raises ValueError if the overlap is longer than the clip, or if the size differs.
        """
        _check_strength(self.strength)
        if self.video is not None:
            video, mask = _video(state)
            overlap = _fit_batch("overlap", self.video, video)
            _check_grid("overlap", overlap, video)
            state = _with_video(
                state,
                _inserted(video, overlap[:, :, self.skip :], self.skip),
                _inserted(mask, torch.full_like(overlap[:, :1, self.skip :], 1 - self.strength), self.skip),
            )
        audio, audio_mask = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.audio is not None and audio is not None and audio_mask is not None:
            overlap = _fit_batch("audio overlap", self.audio, audio)
            overlap_mask = torch.full_like(overlap[:, :1, :, :1], 1 - self.strength)
            state = replace(
                state,
                latent=replace(state.latent, audio=_inserted(audio, overlap, 0)),
                mask=replace(state.mask, audio=_inserted(audio_mask, overlap_mask, 0)),
            )
        return state


@dataclass(frozen=True, kw_only=True)
class PreserveOutside:
    """A source clip whose latents are preserved outside of the regions to regenerate (retake).

    ``latent`` holds the source: video (1, 128, F, H, W), audio (1, 8, T, 16), each as long as the clip or
    shorter. A stream that is None, and whatever lies past the end of the source, is generated in full.
    ``video`` (F,) and ``audio`` (T,) are bool, True where to regenerate. There the state's own latents stay,
    so that a second stage starts from the first stage's result and not from the source.
    """

    latent: AVLatent
    video: Tensor
    audio: Tensor

    def apply(self, state: LatentState) -> LatentState:
        """Insert the source outside of the regions and set the mask to regenerate them.

        Raises ValueError if the size differs or the source is longer than the clip.
        """
        if self.latent.video is not None:
            video, mask = _video(state)
            source = _fit_batch("source", self.latent.video, video)
            _check_grid("source", source, video)
            merged, merged_mask = _merged_outside(video, mask, source, self.video)
            state = _with_video(state, merged, merged_mask)
        # The other stream is optional, so that a video-only state can use an audio-video source.
        audio, mask_of_audio = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.latent.audio is not None and audio is not None and mask_of_audio is not None:
            source = _fit_batch("audio source", self.latent.audio, audio)
            merged, merged_mask = _merged_outside(audio, mask_of_audio, source, self.audio)
            state = replace(
                state,
                latent=replace(state.latent, audio=merged),
                mask=replace(state.mask, audio=merged_mask),
            )
        return state


@dataclass(frozen=True, kw_only=True)
class GuideFrames:
    """An encoded image or clip whose tokens are appended to the video's, positioned at pixel frame ``frame``.

    The video attends to these tokens; :func:`.state.drop_guides` removes them after sampling. ``latent``
    (B or 1, 128, K, H, W) is normalised. ``strength`` 1 leaves it without noise, less regenerates it partly.
    ``attention`` weights the attention between video and guide, as one number or per latent cell (K, H, W):
    1 is plain attention, 0 none, above 1 more. (In ComfyUI a guide's strength sets both of these at once.)

    IC-LoRAs may take a reference that is smaller than the clip: ``scale`` is the width of the clip divided by
    that of the reference, ``time_scale`` how many frames of the clip one frame of the reference stands for.
    ``single_frame`` says that the guide was encoded from one image; None takes that from K == 1.
    """

    latent: Tensor
    frame: int
    strength: float = 1.0
    attention: float | Tensor = 1.0
    scale: int = 1
    single_frame: bool | None = None
    time_scale: int = 1

    def positions(self, frames: int, height: int, width: int, fps: float) -> Tensor:
        """Positions (1, 3, N, 2) in seconds and pixels for a guide latent of that many frames and cells.

        Raises ValueError if ``time_scale`` is below 1, or above 1 for a guide that does not start at frame 0.
        """
        if self.time_scale < 1 or (self.time_scale > 1 and self.frame):
            raise ValueError(
                f"a reference of every {self.time_scale}. frame begins with the clip, at frame 0; got "
                f"frame {self.frame}"
            )
        positions = guide_positions(
            frames, height, width, fps, frame=self.frame, single_frame=self.single_frame
        )
        # Each cell of a small reference stands for scale x scale cells of the clip, so its interval grows.
        positions[:, 1:, :, 1] += (self.scale - 1) * SPATIAL_SCALE
        if self.time_scale > 1:
            # The first frame of the reference stands for the first frame of the clip alone, so that all later
            # ones are earlier by the frames that it does not cover. The bound leaves that first one at 0.
            seconds = positions[:, :1] * self.time_scale - (self.time_scale - 1) / fps
            positions = torch.cat((seconds.clamp(min=0), positions[:, 1:]), dim=1)
        return positions

    def apply(self, state: LatentState) -> LatentState:
        """Append the guide's latent frames, mask and positions to the state.

        Raises ValueError if the size differs from the clip's, or for a negative strength or attention.
        """
        for name, value in (("strength", self.strength), ("attention", self.attention)):
            # Not limited to 1, as in ComfyUI; a strength above 1 acts like 1.
            values = torch.as_tensor(value)
            if not bool((values.isfinite() & (values >= 0)).all()):
                raise ValueError(f"{name}={value} must be 0 or more")
        video, mask = _video(state)
        cells, valid = dilate(_fit_batch("guide latent", self.latent, video), self.scale)
        _check_grid("guide latent", cells, video)
        frames, height, width = cells.shape[2:]
        guide = Guide(
            frames=frames,
            positions=self.positions(frames, height, width, state.fps),
            attention=self._attention(frames, height, width),
            valid=None if valid is None else valid.flatten(),
        )
        # The rest of the strength is the noise level of the guide's tokens. Above 1 there is no less noise
        # than none.
        guide_mask = mask.new_full((len(video), 1, frames, height, width), max(0.0, 1 - self.strength))
        if valid is not None:
            # Cells without a token are of mask 0, so that they come back as they are.
            guide_mask = guide_mask * valid.to(guide_mask)
        state = _with_video(state, torch.cat((video, cells), dim=2), torch.cat((mask, guide_mask), dim=2))
        # Frames, mask and positions are appended in the same order, by which the model finds the tokens of
        # each guide.
        return replace(state, guides=(*state.guides, guide))

    def _attention(self, *grid: int) -> float | Tensor:
        """The weight of attention to the guide: one number, or (N,) for the cells of ``grid``.

        ``grid`` is (K, H, W) of the guide on the grid of the clip. Raises ValueError for weights that do not
        fit it.
        """
        if not isinstance(self.attention, Tensor):
            return self.attention
        # Repeated over the finer grid, of which only the cells with a token are read later.
        cells = repeat(self.attention, "k h w -> k (h y) (w x)", y=self.scale, x=self.scale)
        if cells.shape != grid:
            raise ValueError(
                f"attention of shape {tuple(self.attention.shape)} must be (K, H, W) of the guide latent "
                f"{tuple(self.latent.shape)}"
            )
        return cells.flatten()


def dilate(latent: Tensor, scale: int) -> tuple[Tensor, Tensor | None]:
    """Spread a latent (B, C, K, H, W) over a grid ``scale`` times finer, with zeros between its cells.

    It is how ComfyUI appends a small reference to a latent; cells in between have no token in the model.
    Returns (B, C, K, sH, sW) and a bool mask (K, sH, sW) that is True at the original cells, or the latent
    itself and None for a scale of 1. Raises ValueError for a scale below 1.
    """
    if scale < 1:
        raise ValueError(f"scale={scale} must be 1 or more")
    if scale == 1:
        return latent, None
    _, _, frames, height, width = latent.shape
    spread = latent.new_zeros(*latent.shape[:3], height * scale, width * scale)
    # The original cells lie at the first of each group, as in ComfyUI.
    spread[..., ::scale, ::scale] = latent
    valid = torch.zeros(frames, height * scale, width * scale, dtype=torch.bool, device=latent.device)
    valid[:, ::scale, ::scale] = True
    return spread, valid


def _merged_outside(own: Tensor, mask: Tensor, source: Tensor, regenerate: Tensor) -> tuple[Tensor, Tensor]:
    """Latent and mask of one stream, with ``source`` where ``regenerate`` (F or T,) is False.

    Elsewhere the latent is ``own``, and the mask becomes 1. Past the end of the source both stay as they are.
    """
    length = source.shape[2]
    if length > own.shape[2]:
        raise ValueError(
            f"the source has {length} latents and the clip {own.shape[2]}: cut it, or plan a longer clip"
        )
    chosen = regenerate[:length].to(own.device).view(1, 1, -1, *(1,) * (own.ndim - 3))
    merged = torch.where(chosen, own[:, :, :length], source)
    return _inserted(own, merged, 0), _inserted(mask, chosen.to(mask).expand_as(mask[:, :, :length]), 0)


def _inserted(whole: Tensor, part: Tensor, at: int) -> Tensor:
    """A copy of ``whole`` in which ``part`` replaces the latents from index ``at`` on (axis 2, time)."""
    end = at + part.shape[2]
    if end > whole.shape[2]:
        raise ValueError(
            f"the conditioning reaches to latent {end} and the clip has {whole.shape[2]}: "
            "use a shorter one, or plan a longer clip"
        )
    return torch.cat((whole[:, :, :at], part.to(whole), whole[:, :, end:]), dim=2)


def _video(state: LatentState) -> tuple[Tensor, Tensor]:
    mask = expand_mask(state.mask, state.latent).video
    if state.latent.video is None or mask is None:
        raise ValueError(
            "there is an input image or video but this state has no video: plan the clip with video"
        )
    return state.latent.video, mask


def _with_video(state: LatentState, video: Tensor, mask: Tensor) -> LatentState:
    return replace(state, latent=replace(state.latent, video=video), mask=replace(state.mask, video=mask))


def _fit_batch(name: str, latent: Tensor, own: Tensor) -> Tensor:
    """``latent`` in the dtype and on the device of ``own``, one sample expanded to the batch."""
    if latent.ndim != own.ndim or latent.shape[0] not in (1, own.shape[0]):
        raise ValueError(
            f"{name} of shape {tuple(latent.shape)} does not fit {tuple(own.shape)}: "
            f"use one sample or {own.shape[0]}"
        )
    return latent.to(own).expand(own.shape[0], *latent.shape[1:])


def _check_grid(name: str, latent: Tensor, own: Tensor) -> None:
    if latent.shape[1] != own.shape[1] or latent.shape[3:] != own.shape[3:]:
        raise ValueError(
            f"{name} has {latent.shape[1]} channels on {latent.shape[3]}x{latent.shape[4]} cells and the "
            f"clip {own.shape[1]} on {own.shape[3]}x{own.shape[4]}: encode it at the size of this stage"
        )


def _check_strength(strength: float) -> None:
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise ValueError(f"strength={strength} must be in [0, 1]")
