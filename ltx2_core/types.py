"""Values that are passed between the parts of a run; all are frozen and changed by ``dataclasses.replace``.

Letters: B batch, C latent channels, F latent frames, H W latent rows and columns, T audio latent frames,
N tokens, S text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor


class Numerics(Enum):
    """Which public implementation to reproduce where they differ.

    ``OFFICIAL`` follows the official LTX-2 repository, ``COMFY`` ComfyUI core 0.27. They differ in the
    epsilon of the query/key norm, in the timestep that feeds cross-modal gates and prompt modulation, in
    fractional denoise masks, and in the rounding of audio lengths. ``COMFY_033`` follows ComfyUI core 0.31 to
    0.33, in which the audio of each block attends to the video after this block's update by the audio, and
    not before: it differs from the trained model, and is offered for parity with graphs alone.
    """

    OFFICIAL = "official"
    COMFY = "comfy"
    COMFY_033 = "comfy-0.33"

    @property
    def is_comfy(self) -> bool:
        """Whether this follows some version of ComfyUI."""
        return self is not Numerics.OFFICIAL


@dataclass(frozen=True)
class AVLatent:
    """Normalised latents of one clip: video (B, C, F, H, W), audio (B, 8, T, 16); None is an absent stream.

    F, H, W are latent frames, rows and columns, T audio latent frames. Supports ``+`` and ``-`` with another
    AVLatent of the same streams, and ``*`` with a number, a tensor or an AVLatent of broadcastable masks, so
    that sampler code is the same as for a single tensor.
    """

    video: Tensor | None
    audio: Tensor | None

    def map(self, fn: Callable[[Tensor], Tensor]) -> AVLatent:
        """Apply ``fn`` to each stream that is present; an absent one stays None."""
        return AVLatent(
            None if self.video is None else fn(self.video), None if self.audio is None else fn(self.audio)
        )

    def zip(self, other: AVLatent, fn: Callable[[Tensor, Tensor], Tensor]) -> AVLatent:
        """Apply ``fn`` to both latents' video and to both latents' audio.

        Raises ValueError unless both have the same streams.
        """
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
    """Projected text features of B prompts, input of the text connectors.

    ``video`` (B, S, Kv) and ``audio`` (B, S, Ka), one set of features for each modality, S text tokens of
    width Kv and Ka; ``mask`` (B, S) is 1 on valid tokens and 0 on padding.
    """

    video: Tensor
    audio: Tensor
    mask: Tensor

    def to(self, dtype: torch.dtype) -> TextFeatures:
        """The features in another dtype; the mask stays as it is."""
        return TextFeatures(self.video.to(dtype), self.audio.to(dtype), self.mask)

    def split(self) -> list[TextFeatures]:
        """The features of each prompt, with B = 1."""
        parts = zip(self.video.split(1), self.audio.split(1), self.mask.split(1), strict=True)
        return [TextFeatures(*part) for part in parts]


@dataclass(frozen=True)
class TextContext:
    """Text that the transformer attends to, from the text connectors: video (B, S, Kv), audio (B, S, Ka).

    B prompts of S text tokens; Kv and Ka are the widths of the text for each stream.
    """

    video: Tensor
    audio: Tensor


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Conditioning tokens appended to the video's along time, attended to and removed after sampling.

    ``frames`` is their number of latent frames. ``positions`` (1 or B, 3, N, 2) are start and end of each of
    N tokens in seconds, pixel rows and pixel columns. ``attention`` weights the attention between guide and
    video, as one number or per token (N,): 1 is plain attention, 0 none. ``valid`` (N,) bool marks the tokens
    that exist, where a small reference was spread over a finer grid; None means all. ``generated`` True marks
    keyframes that the model generates itself next to the clip (LTX-2.5), one pixel frame for each latent
    frame; False marks images and clips of the user.
    """

    frames: int
    positions: Tensor
    attention: float | Tensor = 1.0
    valid: Tensor | None = None
    generated: bool = False


@dataclass(frozen=True, kw_only=True)
class LatentState:
    """Conditioned latents and their denoise mask, from which a sampler starts.

    ``latent`` holds the clean content (zeros where there is none). ``mask`` is 1 where to generate, 0 where
    to preserve, between where to regenerate partly: video (B, 1, F, H, W), audio (B, 1, T, 1), or shapes that
    broadcast to these (F, H, W latent frames, rows and columns, T audio latent frames). ``fps`` is the
    video's frame rate in pixel frames per second. ``guides`` are in the last latent frames of the video;
    ``reference_audio`` is a latent of audio to imitate, None without.
    """

    latent: AVLatent
    mask: AVLatent
    fps: float
    guides: tuple[Guide, ...] = ()
    """Guides in the order of their latent frames, which are the last ones of ``latent.video``."""
    reference_audio: Tensor | None = None
    """Latent (1 or B, 8, R, 16) of audio to imitate, such as a voice. Its tokens precede the clip's audio."""
    reference_follows: bool = False
    """Whether the tokens of ``reference_audio`` come after those of the clip's audio instead."""

    @property
    def guide_frames(self) -> int:
        return sum(guide.frames for guide in self.guides)


class LayerOptions(TypedDict):
    """Keyword arguments of every layer: where its parameters are allocated, and in which precision."""

    dtype: torch.dtype | None
    device: torch.device | str | None


class NetworkOptions(LayerOptions):
    """Keyword arguments of a module that builds its layers from a namespace like ``torch.nn``."""

    operations: Any


class Denoise(Protocol):
    """Predicts the clean latent x0 from the noisy ``x`` at noise level ``sigma`` in (0, 1]."""

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent: ...


OnStep = Callable[[int, int, AVLatent], None]
"""Called after each sampling step with (finished steps, total steps, x0). It may raise to stop the run."""
