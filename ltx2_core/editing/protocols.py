"""What an edit needs from the outside: codecs, sampled clips, and something that samples.

The edits call these protocols and never a pipeline, so that the library and the nodes for ComfyUI run the
same steps. Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..conditioning.items import Conditioning
from ..media.clip_frames import Frames
from ..run.generation import Generation
from ..run.progress import OnStep, Stop
from ..run.request import Request
from ..run.stages import Stage
from ..shapes import ClipPlan
from ..types import Numerics

Waveform = tuple[Tensor, int]
"""Audio: samples (C, S) in [-1, 1] and their rate in Hz."""

OnSampled = Callable[[Generation], None]
"""Called with the sampled latents before any of them is decoded."""


class Encoders(Protocol):
    """Encodes frames and audio; :class:`~ltx2_core.run.codecs.Codecs` and the VAEs of ComfyUI both can."""

    def encode_video(self, frames: Frames) -> Tensor:
        """frames (8k + 1, 3, H, W) in [0, 1] -> normalised latent (1, 128, k + 1, H / 32, W / 32)."""
        ...

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """waveform (C, S) -> normalised latent (1, 8, latent_frames, 16), cut or padded with silence."""
        ...


class Decoders(Protocol):
    """Decodes latents, the video as a stream."""

    def decode_video(self, latent: Tensor | Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
        """Latent (1, 128, F, h, w), whole or in pieces -> chunks (N, 3, H, W) in [-1, 1], or in uint8."""
        ...

    def decode_audio(self, latent: Tensor) -> Waveform:
        """Latent (1, 8, T, 16) -> waveform and rate."""
        ...


class SampledClip(Protocol):
    """A sampled run of an edit, decoded on demand; :class:`Generation` is one."""

    @property
    def clip(self) -> ClipPlan: ...

    def frames(self) -> Iterator[Tensor]:
        """Chunks (N, 3, H, W) in [-1, 1]."""
        ...

    def audio(self) -> Waveform: ...

    def settings(self) -> Mapping[str, Any]:
        """What made the clip, as JSON values."""
        ...


class StageInput(Protocol):
    """Conditioning of every stage, encoded at the size of each."""

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning: ...


class Pipeline(Encoders, Decoders, Protocol):
    """Samples a request; :class:`~ltx2_core.LTX2Pipeline` does."""

    @property
    def numerics(self) -> Numerics: ...

    def check(self, request: Request, *, further: bool = False) -> tuple[Stage, ...]:
        """The stages of ``request``; raises for everything that is wrong before a network is loaded."""
        ...

    def resolve(self, request: Request) -> Request:
        """``request`` with everything that it leaves open filled in from the recipe."""
        ...

    def stages(self, request: Request) -> tuple[Stage, ...]: ...

    def __call__(
        self,
        prompt: Request,
        *,
        conditioning: Sequence[StageInput] = (),
        on_step: OnStep | None = None,
        stop: Stop | None = None,
    ) -> Generation: ...
