"""What a run returns: latents at once, frames and audio when they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..media import VideoWriter
from ..media.writer import AAC_RATES
from ..sampling.caching import Evaluations
from ..shapes import ClipPlan
from ..types import AVLatent
from .codecs import Codecs
from .request import Request

METADATA_KEY = "ltx2"
"""Tag of the MP4 file that holds the settings as JSON."""


@dataclass(frozen=True, kw_only=True, eq=False)
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
        path: str | os.PathLike[str],
        *,
        crf: int = 18,
        on_frames: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Write an MP4 (H.264, AAC): frames are encoded as they are decoded, the settings go into its tags.

        ``on_frames`` is called with (frames written, all frames). No file is left if it fails or is stopped.
        Raises what :class:`~ltx2_core.media.VideoWriter` raises.
        """
        waveform, rate = playable(*self.audio())
        waveform = as_long_as(waveform, rate, self.clip.seconds)
        settings = json.dumps(self.settings())
        with VideoWriter(
            path,
            width=self.clip.width,
            height=self.clip.height,
            fps=self.clip.fps,
            sample_rate=rate,
            metadata={METADATA_KEY: settings, "comment": self.request.text.prompt},
            crf=crf,
        ) as writer:
            # Audio is short and known at once, while frames arrive over minutes.
            writer.write_audio(waveform)
            for chunk in self.frames(as_bytes=True, stop=stop):
                writer.write_frames(chunk)
                if on_frames is not None:
                    on_frames(writer.frame_count, self.clip.frames)


def as_long_as(waveform: Tensor, rate: int, seconds: float) -> Tensor:
    """The audio (..., S) of exactly ``seconds``: cut, or followed by silence.

    The last audio latent may end some hundredths of a second before the last frame.
    """
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[-1]))


def playable(waveform: Tensor, rate: int) -> tuple[Tensor, int]:
    """The audio at a rate that AAC has, unchanged where it already is."""
    return (waveform, rate) if rate in AAC_RATES else (resample(waveform, rate, 48000), 48000)
