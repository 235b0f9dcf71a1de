"""The methods that an edit needs from outside: to encode, to decode, and to sample.

Edits use these protocols and no class that implements them, so that the library and the ComfyUI nodes run the
same steps.
Letters: N frames, C channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from ..conditioning.items import Conditioning
from ..loading import Lora
from ..media.clip_frames import Frames, TwiceFrames
from ..run.components import Components
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
    """Encodes frames and audio.

    In the library :class:`~ltx2_core.run.codecs.Codecs` does so, in ComfyUI a class around its VAEs.
    """

    @property
    def has_audio(self) -> bool:
        """Whether the model has audio; LTX-Video has none."""
        ...

    def encode_video(self, frames: Frames | TwiceFrames) -> Tensor:
        """Encode frames (8k + 1, 3, H, W) in [0, 1] to a normalised latent (1, 128, k + 1, H/32, W/32)."""
        ...

    def encode_audio(self, waveform: Tensor, sample_rate: int, *, latent_frames: int | None = None) -> Tensor:
        """Encode a waveform (C, S) in [-1, 1] at ``sample_rate`` Hz to a normalised latent (1, 8, T, 16).

        If ``latent_frames`` is not None, T is that number: the waveform is cut or padded with silence.
        """
        ...


class Decoders(Protocol):
    """Decodes latents to frames and audio; frames come in chunks."""

    @property
    def has_audio(self) -> bool:
        """Whether the model has audio; LTX-Video has none."""
        ...

    def decode_video(self, latent: Tensor | Iterable[Tensor], *, as_bytes: bool = False) -> Iterator[Tensor]:
        """Decode a normalised latent (1, 128, F, h, w), whole or in pieces along F, to chunks of frames.

        Chunks are (N, 3, 32 h, 32 w), float in [-1, 1], or uint8 with ``as_bytes``.
        """
        ...

    def decode_audio(self, latent: Tensor) -> Waveform:
        """Decode a normalised latent (1, 8, T, 16) to (waveform (C, S) in [-1, 1], rate in Hz)."""
        ...


class SampledClip(Protocol):
    """The result of a sampling run, decoded on demand; :class:`Generation` is one."""

    @property
    def clip(self) -> ClipPlan: ...

    def frames(self) -> Iterator[Tensor]:
        """Yield the decoded frames in chunks (N, 3, H, W), float in [-1, 1]."""
        ...

    def audio(self) -> Waveform: ...

    def settings(self) -> Mapping[str, Any]:
        """The settings of the run that sampled the clip, as JSON values."""
        ...


class StageInput(Protocol):
    """A conditioning item, such as an image at a frame, which every sampling stage encodes at its size."""

    def at(self, codecs: Encoders, clip: ClipPlan) -> Conditioning: ...


class Pipeline(Encoders, Decoders, Protocol):
    """A set of networks that samples requests, encodes and decodes; :class:`~ltx2_core.LTX2Pipeline` is one.

    A call with a request samples it, with ``conditioning`` in addition to that of the request.
    """

    @property
    def numerics(self) -> Numerics: ...

    def check(
        self, request: Request, *, further: bool = False, source: tuple[int, int] | None = None
    ) -> tuple[Stage, ...]:
        """Check ``request`` before any network is loaded, and return its sampling stages.

        Its inputs are read, and the headers of the model files. ``further`` says that there is conditioning
        in addition to that of the request. ``source`` is the (width, height) in pixels of an edit's source,
        None without an edit. Raises ValueError or FileNotFoundError for what cannot be sampled.
        """
        ...

    def resolve(self, request: Request) -> Request:
        """Return ``request`` with its None fields filled in by the checkpoint's recipe (default settings)."""
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


class LongPipeline(Pipeline, Protocol):
    """A pipeline that also has the attributes ``networks``, its model files, and ``loras``, its LoRAs.

    Clips that are sampled in several windows need them: their saved windows record which models made them.
    :class:`~ltx2_core.LTX2Pipeline` is one.
    """

    @property
    def networks(self) -> Components: ...

    @property
    def loras(self) -> tuple[Lora, ...]: ...
