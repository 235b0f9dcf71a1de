"""What a run returns: latents at once, frames and audio when they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..media import Destination, Encoding
from ..media.save import Clip, save_clip
from ..sampling.caching import Evaluations
from ..shapes import ClipPlan
from ..types import AVLatent
from . import notebook
from .codecs import Codecs
from .request import Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..media.encoding import EncodingOptions

METADATA_KEY = "ltx2"
"""Tag of a file that holds the settings as JSON."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Generation:
    """A sampled clip.

    ``latents`` are normalised: video (1, 128, F, H, W), audio (1, 8, T, 16); give them to the next call, or
    to ``pipeline.upsample``. ``sigmas`` are the schedules that ran, one for each stage. ``codecs`` decode the
    latents. ``run_settings`` are JSON values of the files and the execution that sampled them: see
    :meth:`settings`, which adds what the request says.
    """

    codecs: Codecs
    latents: AVLatent
    clip: ClipPlan
    request: Request
    sigmas: tuple[tuple[float, ...], ...]
    run_settings: Mapping[str, Any] = field(default_factory=dict)
    input_audio: tuple[Tensor, int] | None = None
    evaluations: tuple[Evaluations, ...] = ()
    """Of each stage: passes that the transformer evaluated, and passes that the step cache saved."""
    recorded: dict[str, Any] | None = None
    """The settings, where the latents come from an earlier run."""

    @property
    def fps(self) -> float:
        return self.clip.fps

    def frames(self, *, as_bytes: bool = False, stop: Callable[[], bool] | None = None) -> Iterator[Tensor]:
        """Decode the frames in chunks (N, 3, H, W) in [-1, 1], or in uint8 with ``as_bytes``.

        Memory does not grow with the clip.
        """
        assert self.latents.video is not None
        return self.codecs.decode_video(self.latents.video, as_bytes=as_bytes, stop=stop)

    def array(self) -> NDArray[np.uint8]:
        """All frames at once, (F, H, W, 3) uint8."""
        chunks = [chunk.numpy() for chunk in self.frames(as_bytes=True)]
        return np.asarray(rearrange(np.concatenate(chunks), "f c h w -> f h w c"))

    def audio(self) -> tuple[Tensor, int]:
        """(waveform (C, S) in [-1, 1], sample rate in Hz): the input audio if there was one, else decoded."""
        # Input audio is returned as it was, without the loss of an encode and a decode.
        if self.input_audio is not None:
            return self.input_audio
        assert self.latents.audio is not None
        return self.codecs.decode_audio(self.latents.audio)

    def settings(self) -> dict[str, Any]:
        """The settings that repeat this clip, as JSON values."""
        if self.recorded is not None:
            return self.recorded
        try:
            package = version("comfyui-ltx2")
        # A checkout that is not installed has no version.
        except PackageNotFoundError:
            package = "source"
        return {
            "version": package,
            **self.run_settings,
            "clip": [self.clip.width, self.clip.height, self.clip.frames, self.clip.fps],
            "sigmas": [list(sigmas) for sigmas in self.sigmas],
            "evaluations": [used._asdict() for used in self.evaluations],
            "request": self.request.settings(),
        }

    def save(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        on_frames: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
        **encoding: Unpack[EncodingOptions],
    ) -> None:
        """Write the clip as what ``path`` says: frames are encoded as they are decoded.

        ``.mp4``, ``.mov``, ``.mkv`` and ``.webm`` hold video and audio; ``.gif``, ``.webp``, a text with a
        slash at its end (a folder of PNG frames) and names such as ``f_%05d.png`` the frames; ``.wav``,
        ``.flac``, ``.mp3`` and ``.m4a`` the audio. The settings go into the tags of the kinds that have some.
        ``encoding`` are the fields of :class:`~ltx2_core.media.Encoding`: ``video_codec``, ``crf``,
        ``encoder_preset``, ``pixel_format`` and ``audio_bitrate``.

        ``on_frames`` is called with (frames written, all frames). No file is left if it fails or is stopped.
        Raises TypeError for other options, ValueError for those that the kind of file cannot have, and what
        :class:`~ltx2_core.media.VideoWriter` raises.
        """
        save_clip(
            path,
            self.as_clip(stop),
            Encoding(**encoding),
            on_frames=on_frames,
            timed=self.codecs.networks.clock.timed,
        )

    def as_clip(self, stop: Callable[[], bool] | None = None) -> Clip:
        """What is written to a file; ``stop`` ends the decoding when it returns True."""

        def frames(*, as_bytes: bool) -> Iterator[Tensor]:
            return self.frames(as_bytes=as_bytes, stop=stop)

        def audio() -> tuple[Iterator[Tensor], int]:
            waveform, rate = self.audio()
            return iter((as_long_as(waveform, rate, self.clip.seconds),)), rate

        return Clip(
            width=self.clip.width,
            height=self.clip.height,
            fps=self.clip.fps,
            frame_count=self.clip.frames,
            frames=None if self.latents.video is None else frames,
            audio=audio,
            tags={METADATA_KEY: json.dumps(self.settings()), "comment": self.request.text.prompt},
        )

    def __repr__(self) -> str:
        return notebook.line_of(self)

    def _repr_html_(self) -> str:
        """The clip with its settings, as a notebook shows it."""
        return notebook.html_of(self)


def as_long_as(waveform: Tensor, rate: int, seconds: float) -> Tensor:
    """The audio (..., S) of exactly ``seconds``: cut, or followed by silence.

    The last audio latent may end some hundredths of a second before the last frame.
    """
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[-1]))
