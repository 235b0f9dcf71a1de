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
    0.33: there each block first updates the video by attention to the audio, and the audio then attends to
    the updated video. The model was trained with the audio attending to the video before that update, so
    this choice only serves to reproduce graphs of these versions.
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
    """Normalised latents of B clips: video (B, C, F, H, W), audio (B, 8, T, 16); None for an absent stream.

    F, H, W are latent frames, rows and columns, T audio latent frames. Supports ``+`` and ``-`` with another
    AVLatent of the same streams, and ``*`` with a number, a tensor or an AVLatent of broadcastable masks, so
    that sampler code is the same as for a single tensor.
    """

    video: Tensor | None
    audio: Tensor | None

    def map(self, fn: Callable[[Tensor], Tensor]) -> AVLatent:
        """Return the latents with ``fn`` applied to each stream that is present; absent ones stay None."""
        return AVLatent(
            None if self.video is None else fn(self.video), None if self.audio is None else fn(self.audio)
        )

    def zip(self, other: AVLatent, fn: Callable[[Tensor, Tensor], Tensor]) -> AVLatent:
        """Return ``fn(self.video, other.video)`` and ``fn(self.audio, other.audio)`` as one AVLatent.

        A stream that both lack stays None. Raises ValueError if only one of the two has a stream.
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
    """The output of the text projection for B prompts, which the text connectors take as input.

    ``video`` (B, S, Kv) and ``audio`` (B, S, Ka) are the features for each modality: S text tokens of width
    Kv and Ka. ``mask`` (B, S) is 1 on valid tokens and 0 on padding.
    """

    video: Tensor
    audio: Tensor
    mask: Tensor

    def to(self, dtype: torch.dtype) -> TextFeatures:
        """The features in another dtype; the mask stays as it is."""
        return TextFeatures(self.video.to(dtype), self.audio.to(dtype), self.mask)

    def split(self) -> list[TextFeatures]:
        """Split along the batch: a list of the features of each prompt, with B = 1."""
        parts = zip(self.video.split(1), self.audio.split(1), self.mask.split(1), strict=True)
        return [TextFeatures(*part) for part in parts]


@dataclass(frozen=True)
class TextContext:
    """The output of the text connectors, to which the transformer's cross-attention attends.

    ``video`` (B, S, Kv) is the text for the video stream, ``audio`` (B, S, Ka) that for the audio stream: B
    prompts of S text tokens of width Kv and Ka; Ka is 0 for a model without audio. ``by_time`` are texts for
    parts of the clip, which replace this one for tokens from second 0 on, or say which tokens of this one
    describe which part; None is one text for all tokens.
    """

    video: Tensor
    audio: Tensor
    by_time: TextsByTime | RelayedText | None = None


@dataclass(frozen=True)
class TextsByTime:
    """The texts of a clip whose prompt changes with time.

    ``parts`` are (start in seconds, text) in rising order, the first at 0; each lasts until the next begins.
    Within ``fade_s`` seconds around the start of a part its text and the one before are mixed linearly.
    """

    parts: tuple[tuple[float, TextContext], ...]
    fade_s: float


@dataclass(frozen=True)
class RelayedText:
    """Where one text describes the parts of a clip, one after the other.

    ``parts`` are (start in seconds, first text token, end of its text tokens, exclusive), the starts in
    rising order and the first one 0. ``seconds`` is the length of the clip with the windows of the pack
    WhatDreamsCost, which are narrower than the parts; with None each part has its whole time.
    """

    parts: tuple[tuple[float, int, int], ...]
    seconds: float | None = None


@dataclass(frozen=True)
class TimeRule:
    """How the number of a latent frame becomes the seconds that the transformer is told.

    With ``causal`` the first latent frame covers one pixel frame, without it eight. ``reciprocal`` multiplies
    by the reciprocal of the frame rate instead of dividing, which rounds differently.
    """

    causal: bool = True
    reciprocal: bool = False


AS_LTX2 = TimeRule()


@dataclass(frozen=True, kw_only=True)
class Guide:
    """Describes extra tokens that are appended to those of the video and removed after sampling.

    The video attends to these N tokens of ``frames`` latent frames; their latents are in the
    :class:`LatentState`. ``positions`` (1 or B, 3, N, 2) are start and end of each token in time (seconds),
    height and width (pixels). ``attention`` weights the attention between guide and video, as one number or
    per token (N,): 1 is plain attention, 0 none. ``valid`` (N,) bool is False for tokens without content,
    which exist where a smaller reference is spread over the grid of the clip; None means that all have
    content. ``generated`` True marks keyframes that the model generates itself next to the clip (LTX-2.5),
    one pixel frame for each latent frame; False marks images and clips of the user.
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
    video's frame rate in pixel frames per second. The last latent frames of the video are those of
    ``guides``. ``reference_audio`` is a latent of audio to imitate, None without.
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
    times: TimeRule = AS_LTX2
    """That of the model; only LTX-Video has another one than the default."""

    @property
    def guide_frames(self) -> int:
        return sum(guide.frames for guide in self.guides)


class LayerOptions(TypedDict):
    """Keyword arguments of every layer: the device and the dtype of its parameters."""

    dtype: torch.dtype | None
    device: torch.device | str | None


class NetworkOptions(LayerOptions):
    """Keyword arguments of a network: those of its layers, and ``operations``, the namespace of the layers.

    The namespace is like ``torch.nn``: a host can pass layers of its own.
    """

    operations: Any


class Denoise(Protocol):
    """A function that predicts the clean latents x0 from the noisy ``x`` at noise level ``sigma`` in (0, 1].

    x0 has the streams and shapes of ``x``.
    """

    def __call__(self, x: AVLatent, sigma: float) -> AVLatent: ...


OnStep = Callable[[int, int, AVLatent], None]
"""Called after each sampling step with (finished steps, total steps, x0). It may raise to stop the run."""
