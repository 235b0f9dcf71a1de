"""Values that travel between stages: frozen, replaced rather than written to.

Letters: B batch, C latent channels, F latent frames, H W latent rows and columns, T audio latent frames,
N tokens, S text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor


class Numerics(Enum):
    """Whose result to give where the public implementations differ.

    ``OFFICIAL`` follows the official repository, ``COMFY`` ComfyUI core 0.27: q/k norm epsilon, the noise
    level that gates and prompt modulation see, fractional denoise masks, the rounding of audio lengths.
    """

    OFFICIAL = "official"
    COMFY = "comfy"


@dataclass(frozen=True)
class AVLatent:
    """Normalised latents of one clip: video (B, C, F, H, W), audio (B, 8, T, 16); None is an absent stream.

    Supports ``+ -`` with another AVLatent of the same streams and ``*`` with a number or with an AVLatent of
    broadcastable masks, so that a sampler reads the same for it as for a tensor.
    """

    video: Tensor | None
    audio: Tensor | None

    def map(self, fn: Callable[[Tensor], Tensor]) -> AVLatent:
        """Apply ``fn`` to each stream that is present."""
        return AVLatent(
            None if self.video is None else fn(self.video), None if self.audio is None else fn(self.audio)
        )

    def zip(self, other: AVLatent, fn: Callable[[Tensor, Tensor], Tensor]) -> AVLatent:
        """Combine stream by stream; both must hold the same streams."""
        if (self.video is None) != (other.video is None) or (self.audio is None) != (other.audio is None):
            raise ValueError(
                f"cannot combine latents of different streams: {self._streams()} and {other._streams()}"
            )
        return AVLatent(
            None if self.video is None or other.video is None else fn(self.video, other.video),
            None if self.audio is None or other.audio is None else fn(self.audio, other.audio),
        )

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> AVLatent:
        return self.map(lambda x: x.to(device=device, dtype=dtype))

    def __add__(self, other: AVLatent) -> AVLatent:
        return self.zip(other, torch.add)

    def __sub__(self, other: AVLatent) -> AVLatent:
        return self.zip(other, torch.sub)

    def __mul__(self, other: AVLatent | Tensor | float) -> AVLatent:
        if isinstance(other, AVLatent):
            return self.zip(other, torch.mul)
        return self.map(lambda x: x * other)

    __rmul__ = __mul__

    def _streams(self) -> str:
        names = [n for n, x in (("video", self.video), ("audio", self.audio)) if x is not None]
        return " + ".join(names) or "nothing"


@dataclass(frozen=True)
class TextFeatures:
    """Projected text before the connectors: video and audio (B, S, K), mask (B, S) with 1 on valid tokens."""

    video: Tensor
    audio: Tensor
    mask: Tensor


@dataclass(frozen=True)
class TextContext:
    """Text after the connectors, as the transformer takes it: video (B, S, Kv), audio (B, S, Ka)."""

    video: Tensor
    audio: Tensor


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Latent frames shown to the model beside the video, at its end in time, and cut off afterwards.

    ``positions`` (1 or B, 3, N, 2) are those of its tokens, in seconds and pixels; ``attention`` is the
    weight between them and the video, one or one a token (N,): 1 is plain attention, 0 none. ``keep`` (N,)
    names the tokens that there are; by default all of them.
    """

    frames: int
    positions: Tensor
    attention: float | Tensor = 1.0
    keep: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LatentState:
    """What a sampler starts from.

    ``latent`` holds the clean content (zeros where there is none); ``mask`` is 1 where to generate, 0 where
    to keep, in between where to renew partly: video (B, 1, F, H, W), audio (B, 1, T, 1), or broadcastable.
    ``fps`` are pixel frames per second.
    """

    latent: AVLatent
    mask: AVLatent
    fps: float
    guides: tuple[Guide, ...] = ()
    """In the order of their frames, which are the last ones of the video."""
    reference_audio: Tensor | None = None
    """A sound (1 or B, 8, T, 16) that is heard before the clip, such as a voice, and is no part of it."""

    @property
    def guide_frames(self) -> int:
        return sum(guide.frames for guide in self.guides)


class Denoise(Protocol):
    """Predicts the clean latent x0 from ``x`` at noise level ``sigma`` in (0, 1]."""

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent: ...


OnStep = Callable[[int, int, AVLatent], None]
"""Called after each step with (finished steps, all steps, x0). It may raise to stop the run."""
