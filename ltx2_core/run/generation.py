"""The result of a run: its latents, and its frames and audio, which are decoded when they are read."""

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
    """A sampled clip, decoded on demand.

    ``latents`` are normalised: video (1, 128, F, H, W), audio (1, 8, T, 16). Pass them to another run as
    ``latents``, or to ``pipeline.upsample``. ``sigmas`` are the noise levels that were used, one schedule for
    each stage. ``codecs`` decode the latents. ``run_settings`` are JSON values that describe the model files
    and the execution; :meth:`settings` adds those of the request.
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
    keyframes: Tensor | None = None
    """Latents (1, 128, K, H, W) of the keyframes that the first stage generated next to the clip, if any."""
    recorded: dict[str, Any] | None = None
    """The settings, where the latents come from an earlier run."""

    @property
    def fps(self) -> float:
        return self.clip.fps

    def frames(self, *, as_bytes: bool = False, stop: Callable[[], bool] | None = None) -> Iterator[Tensor]:
        """Decode the frames in chunks (N, 3, H, W), float in [-1, 1], or uint8 with ``as_bytes``.

        Memory does not grow with the length of the clip. ``stop`` is called before each chunk; if it returns
        True, decoding ends with :class:`Stopped`.
        """
        assert self.latents.video is not None
        return self.codecs.decode_video(self.latents.video, as_bytes=as_bytes, stop=stop)

    def array(self) -> NDArray[np.uint8]:
        """Decode all frames into one array (F, H, W, 3) uint8."""
        chunks = [chunk.numpy() for chunk in self.frames(as_bytes=True)]
        return np.asarray(rearrange(np.concatenate(chunks), "f c h w -> f h w c"))

    def audio(self) -> tuple[Tensor, int]:
        """Return (waveform (C, S) in [-1, 1], rate in Hz): the input audio if there is one, else decoded."""
        # Input audio is returned as it was, without the loss of an encode and a decode.
        if self.input_audio is not None:
            return self.input_audio
        assert self.latents.audio is not None
        return self.codecs.decode_audio(self.latents.audio)

    def settings(self) -> dict[str, Any]:
        """The settings from which the same clip can be generated again, as JSON values."""
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
        """Decode the clip and write it to a file, whose name decides the kind of file.

        ``.mp4``, ``.mov``, ``.mkv`` and ``.webm`` hold video and audio. ``.gif`` and ``.webp``, a text that
        ends in a slash (a folder of PNG frames) and names such as ``f_%05d.png`` hold the frames alone;
        ``.wav``, ``.flac``, ``.mp3`` and ``.m4a`` the audio alone. Settings are stored as tags if the kind of
        file has tags. ``encoding`` are the fields of :class:`~ltx2_core.media.Encoding`: ``video_codec``,
        ``crf``, ``encoder_preset``, ``pixel_format`` and ``audio_bitrate``.

        ``on_frames`` is called with (frames written, all frames). ``stop`` ends the work when it returns
        True. No file is left if it fails or is stopped. Raises TypeError for unknown keywords, ValueError for
        encodings that the kind of file does not allow, and what :class:`~ltx2_core.media.VideoWriter` raises.
        """
        save_clip(
            path,
            self.as_clip(stop),
            Encoding(**encoding),
            on_frames=on_frames,
            timed=self.codecs.networks.clock.timed,
        )

    def as_clip(self, stop: Callable[[], bool] | None = None) -> Clip:
        """The frames, the audio and the tags for writing a file.

        ``stop`` ends decoding when it returns True.
        """

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
            # Players and file managers display the tag ``comment``.
            tags={METADATA_KEY: json.dumps(self.settings()), "comment": self.request.text.prompt},
        )

    def __repr__(self) -> str:
        return notebook.line_of(self)

    def _repr_html_(self) -> str:
        """HTML for notebooks: a player with the clip, and a table of its settings."""
        return notebook.html_of(self)


def as_long_as(waveform: Tensor, rate: int, seconds: float) -> Tensor:
    """Cut the audio (..., S) at ``rate`` Hz to exactly ``seconds``, or append silence.

    This is needed because the last audio latent may end some hundredths of a second before the last frame.
    """
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[-1]))
