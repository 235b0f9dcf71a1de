"""Conditioning items: each takes a state and returns a new one with something given.

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
    """Anything that can be applied to a state; the given state is never written to."""

    def apply(self, state: LatentState) -> LatentState: ...


@dataclass(frozen=True, kw_only=True)
class ImageInPlace:
    """An encoded image or clip that takes the place of the first latent frames.

    ``latent`` (B or 1, 128, K, H, W), normalised; ``strength`` 1 keeps it as it is, 0 generates freely,
    between them it is renewed in part.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if the size differs from the clip's, or if K is more than its latent frames."""
        _check_strength(self.strength)
        video, mask = _video(state)
        given = _fit_batch("image latent", self.latent, video)
        own = video.shape[2] - state.guide_frames
        _check_grid("image latent", given, video)
        frames = given.shape[2]
        if frames > own:
            raise ValueError(f"{frames} latent frames are given and the clip has {own}: give a shorter one")
        return _with_video(
            state,
            torch.cat((given, video[:, :, frames:]), dim=2),
            torch.cat((torch.full_like(mask[:, :, :frames], 1 - self.strength), mask[:, :, frames:]), dim=2),
        )


@dataclass(frozen=True, kw_only=True)
class InputVideo:
    """The whole video is given: ``latent`` (B or 1, 128, F, H, W), normalised, mask ``1 - strength``."""

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if the size or the length differs from the clip's."""
        video, _ = _video(state)
        own = video.shape[2] - state.guide_frames
        if self.latent.shape[2] != own:
            raise ValueError(
                f"the given video has {self.latent.shape[2]} latent frames and the clip {own}: "
                "cut the video, or plan the clip to its length"
            )
        return ImageInPlace(latent=self.latent, strength=self.strength).apply(state)


@dataclass(frozen=True, kw_only=True)
class InputAudio:
    """The whole audio is given: ``latent`` (B or 1, 8, T, 16), normalised, mask ``1 - strength``.

    With strength 1 the model hears it clean at every step and it comes out unchanged.
    """

    latent: Tensor
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if it does not have exactly the audio length of the clip."""
        _check_strength(self.strength)
        if state.latent.audio is None or state.mask.audio is None:
            raise ValueError("audio is given but this state has none: plan the clip with audio")
        audio = state.latent.audio
        given = _fit_batch("audio latent", self.latent, audio)
        if given.shape != audio.shape:
            raise ValueError(
                f"the given audio latent is {tuple(given.shape)} and the clip needs {tuple(audio.shape)}: "
                f"cut the waveform, or pad it with silence before it is encoded, to {audio.shape[2]} latents"
            )
        mask = audio.new_full((len(audio), 1, audio.shape[2], 1), 1 - self.strength, dtype=torch.float32)
        return replace(state, latent=replace(state.latent, audio=given), mask=replace(state.mask, audio=mask))


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Latents that the clip begins with: ``video`` (1, 128, K, H, W), ``audio`` (1, 8, T, 16) or None.

    ``skip`` of the first video frames are left to be made: one that stands for eight pictures does not fit
    the first latent frame of a clip, which stands for one. ``strength`` 1 keeps the rest as it is.
    """

    video: Tensor | None
    audio: Tensor | None
    skip: int = 0
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if there is more of it than the clip is long, or if the size differs."""
        _check_strength(self.strength)
        if self.video is not None:
            video, mask = _video(state)
            given = _fit_batch("overlap", self.video, video)
            _check_grid("overlap", given, video)
            state = _with_video(
                state,
                _laid_in(video, given[:, :, self.skip :], self.skip),
                _laid_in(mask, torch.full_like(given[:, :1, self.skip :], 1 - self.strength), self.skip),
            )
        audio, opened_audio = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.audio is not None and audio is not None and opened_audio is not None:
            given = _fit_batch("audio overlap", self.audio, audio)
            kept = torch.full_like(given[:, :1, :, :1], 1 - self.strength)
            state = replace(
                state,
                latent=replace(state.latent, audio=_laid_in(audio, given, 0)),
                mask=replace(state.mask, audio=_laid_in(opened_audio, kept, 0)),
            )
        return state


@dataclass(frozen=True, kw_only=True)
class PreserveOutside:
    """A source of which only time regions are made anew, and what lies past its end.

    ``latent`` holds the source: video (1, 128, F, H, W), audio (1, 8, T, 16), each as long as the clip or
    shorter; a stream that is None is made in full. ``video`` and ``audio`` (F or T,) are True where to make.
    Inside them the state keeps what it holds: in a second stage that of the first.
    """

    latent: AVLatent
    video: Tensor
    audio: Tensor

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if the size differs or the source is longer than the clip."""
        if self.latent.video is not None:
            video, mask = _video(state)
            given = _fit_batch("source", self.latent.video, video)
            _check_grid("source", given, video)
            made = self.video[: given.shape[2]].to(video.device).view(1, 1, -1, 1, 1)
            kept = torch.where(made, video[:, :, : given.shape[2]], given)
            opened = made.to(mask).expand_as(mask[:, :, : given.shape[2]])
            state = _with_video(state, _laid_in(video, kept, 0), _laid_in(mask, opened, 0))
        audio, opened_audio = state.latent.audio, expand_mask(state.mask, state.latent).audio
        if self.latent.audio is not None and audio is not None and opened_audio is not None:
            given = _fit_batch("audio source", self.latent.audio, audio)
            made = self.audio[: given.shape[2]].to(audio.device).view(1, 1, -1, 1)
            kept = torch.where(made, audio[:, :, : given.shape[2]], given)
            state = replace(
                state,
                latent=replace(state.latent, audio=_laid_in(audio, kept, 0)),
                mask=replace(
                    state.mask,
                    audio=_laid_in(
                        opened_audio, made.to(opened_audio).expand(len(opened_audio), -1, -1, -1), 0
                    ),
                ),
            )
        return state


@dataclass(frozen=True, kw_only=True)
class GuideFrames:
    """An encoded image or clip shown beside the video, at pixel frame ``frame``, and cut off afterwards.

    ``latent`` (B or 1, 128, K, H, W). ``strength`` 1 keeps it clean, less renews it in part. ``attention``
    weighs what the video sees of it, or of each latent cell of it (K, H, W): 1 is plain attention, 0
    nothing, above 1 more. ComfyUI couples the two: the strength of its guides is both. ``scale`` is how many
    times larger the clip is, and ``time_scale`` how many of the clip's frames one of its own stands for, for
    references of IC-LoRAs that are kept small. ``single_frame`` says that its first latent frame was made
    from one picture, by default whether it has only one.
    """

    latent: Tensor
    frame: int
    strength: float = 1.0
    attention: float | Tensor = 1.0
    scale: int = 1
    single_frame: bool | None = None
    time_scale: int = 1

    def positions(self, frames: int, height: int, width: int, fps: float) -> Tensor:
        """Positions (1, 3, N, 2) of its cells on the clip's grid.

        Raises ValueError for a ``time_scale`` at another frame than 0.
        """
        if self.time_scale < 1 or (self.time_scale > 1 and self.frame):
            raise ValueError(
                f"a reference of every {self.time_scale}. frame begins with the clip, at frame 0; got "
                f"frame {self.frame}"
            )
        positions = guide_positions(
            frames, height, width, fps, frame=self.frame, single_frame=self.single_frame
        )
        positions[:, 1:, :, 1] += (self.scale - 1) * SPATIAL_SCALE
        if self.time_scale > 1:
            seconds = positions[:, :1] * self.time_scale - (self.time_scale - 1) / fps
            positions = torch.cat((seconds.clamp(min=0), positions[:, 1:]), dim=1)
        return positions

    def apply(self, state: LatentState) -> LatentState:
        """Raises ValueError if the size differs from the clip's, or for a negative strength or attention."""
        for name, value in (("strength", self.strength), ("attention", self.attention)):
            values = torch.as_tensor(value)
            if not bool((values.isfinite() & (values >= 0)).all()):
                raise ValueError(f"{name}={value} must be 0 or more")
        video, mask = _video(state)
        given, keep = dilate(_fit_batch("guide latent", self.latent, video), self.scale)
        _check_grid("guide latent", given, video)
        frames, height, width = given.shape[2:]
        guide = Guide(
            frames=frames,
            positions=self.positions(frames, height, width, state.fps),
            attention=self._attention(frames, height, width),
            keep=None if keep is None else keep.flatten(),
        )
        renewed = mask.new_full((len(video), 1, frames, height, width), max(0.0, 1 - self.strength))
        if keep is not None:
            renewed = renewed * keep.to(renewed)
        state = _with_video(state, torch.cat((video, given), dim=2), torch.cat((mask, renewed), dim=2))
        return replace(state, guides=(*state.guides, guide))

    def _attention(self, *grid: int) -> float | Tensor:
        """One weight, or one for each token of the full grid."""
        if not isinstance(self.attention, Tensor):
            return self.attention
        cells = repeat(self.attention, "k h w -> k (h y) (w x)", y=self.scale, x=self.scale)
        if cells.shape != grid:
            raise ValueError(
                f"attention of shape {tuple(self.attention.shape)} must be (K, H, W) of the guide latent "
                f"{tuple(self.latent.shape)}"
            )
        return cells.flatten()


def dilate(latent: Tensor, scale: int) -> tuple[Tensor, Tensor | None]:
    """Spread a latent (B, C, K, H, W) over a grid ``scale`` times finer.

    The second result (K, sH, sW) is True where its cells are, or None for a scale of 1.
    """
    if scale < 1:
        raise ValueError(f"scale={scale} must be 1 or more")
    if scale == 1:
        return latent, None
    _, _, frames, height, width = latent.shape
    spread = latent.new_zeros(*latent.shape[:3], height * scale, width * scale)
    spread[..., ::scale, ::scale] = latent
    keep = torch.zeros(frames, height * scale, width * scale, dtype=torch.bool, device=latent.device)
    keep[:, ::scale, ::scale] = True
    return spread, keep


def _laid_in(whole: Tensor, part: Tensor, at: int) -> Tensor:
    """A copy of ``whole`` with ``part`` in it from ``at`` on, along time."""
    end = at + part.shape[2]
    if end > whole.shape[2]:
        raise ValueError(
            f"{end} latents are given and the clip has {whole.shape[2]}: give fewer, or plan it longer"
        )
    return torch.cat((whole[:, :, :at], part.to(whole), whole[:, :, end:]), dim=2)


def _video(state: LatentState) -> tuple[Tensor, Tensor]:
    mask = expand_mask(state.mask, state.latent).video
    if state.latent.video is None or mask is None:
        raise ValueError("an image or video is given but this state has no video: plan the clip with video")
    return state.latent.video, mask


def _with_video(state: LatentState, video: Tensor, mask: Tensor) -> LatentState:
    return replace(state, latent=replace(state.latent, video=video), mask=replace(state.mask, video=mask))


def _fit_batch(name: str, given: Tensor, own: Tensor) -> Tensor:
    if given.ndim != own.ndim or given.shape[0] not in (1, own.shape[0]):
        raise ValueError(
            f"{name} of shape {tuple(given.shape)} does not fit {tuple(own.shape)}: "
            f"give one sample or {own.shape[0]}"
        )
    return given.to(own).expand(own.shape[0], *given.shape[1:])


def _check_grid(name: str, given: Tensor, own: Tensor) -> None:
    if given.shape[1] != own.shape[1] or given.shape[3:] != own.shape[3:]:
        raise ValueError(
            f"{name} has {given.shape[1]} channels on {given.shape[3]}x{given.shape[4]} cells and the clip "
            f"{own.shape[1]} on {own.shape[3]}x{own.shape[4]}: encode it at the size of this stage"
        )


def _check_strength(strength: float) -> None:
    if not (math.isfinite(strength) and 0 <= strength <= 1):
        raise ValueError(f"strength={strength} must be in [0, 1]")
