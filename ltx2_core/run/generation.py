"""The result of a run: its latents, and its frames and audio, which are decoded when they are read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ..audio import resample
from ..conditioning.regions import Rounding, audio_cells
from ..media import Destination, Encoding
from ..media.hdr_space import HDR_SPACES
from ..media.save import Clip, save_clip
from ..sampling.caching import Evaluations
from ..shapes import ClipPlan
from ..storage.files import ParsedJson
from ..types import AVLatent
from ..video_vae import VolumeNoise
from . import notebook
from .audio_regions import with_regenerated
from .codecs import Codecs
from .request import Request

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..media.encoding import EncodingOptions

SILENCE_HZ = 48000
"""Sample rate of the silence of a clip without audio."""
METADATA_KEY = "ltx2"
"""Tag of a file that holds the settings as JSON."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Generation:
    """A sampled clip, decoded on demand.

    ``latents`` are normalised: video (1, 128, F, H, W), audio (1, 8, T, 16), None where the clip has no such
    stream. Pass them to another run as ``latents``, or to ``pipeline.upsample``. ``codecs`` decode them.
    ``clip`` is the size and length, ``request`` what was asked for, and ``sigmas`` are the noise levels that
    were used, one schedule for each stage. ``run_settings`` are JSON values that describe the model files and
    the execution; :meth:`settings` adds those of the request. ``input_audio`` is the audio of the request,
    (waveform (channels, samples), rate in Hz), which is saved in place of the sampled audio; None if the
    audio was generated. ``evaluations`` counts the forward passes of each stage. ``recorded`` are the
    settings of the earlier run that the latents come from; None for a new run.
    """

    codecs: Codecs
    latents: AVLatent
    clip: ClipPlan
    request: Request
    sigmas: tuple[tuple[float, ...], ...]
    run_settings: ParsedJson = field(default_factory=dict)
    input_audio: tuple[Tensor, int] | None = None
    evaluations: tuple[Evaluations, ...] = ()
    """For each stage the number of guidance passes that were evaluated, and that the step cache saved."""
    keyframes: Tensor | None = None
    """Latents (1, 128, K, H, W) of the keyframes that the first stage generated next to the clip, if any."""
    recorded: ParsedJson | None = None
    """The settings of the earlier run that the latents come from; None for a new run."""
    after_sampling: VolumeNoise | None = None
    """Noise of the generator that drew the noise of the run, from its state after sampling on."""

    @property
    def fps(self) -> float:
        return self.clip.fps

    def frames(self, *, as_bytes: bool = False, stop: Callable[[], bool] | None = None) -> Iterator[Tensor]:
        """Decode the frames in chunks (frames, 3, height, width), in [-1, 1] or uint8 with ``as_bytes``.

        Memory does not grow with the length of the clip. ``stop`` is called before each chunk; if it returns
        True, decoding ends with :class:`Stopped`. Frames of an HDR clip are codes of ACEScct, decoded in
        float32; :meth:`light` yields their light. Raises ValueError for an HDR clip with ``as_bytes``.
        """
        assert self.latents.video is not None
        if self.hdr is None:
            return self.codecs.decode_video(
                self.latents.video, as_bytes=as_bytes, stop=stop, after_sampling=self.after_sampling
            )
        if as_bytes:
            raise ValueError(
                f"this clip is HDR ({self.hdr}), and 8 bits would clip it: use light(), or save it as .exr"
            )
        return self.codecs.decode_video(
            self.latents.video, stop=stop, dtype=torch.float32, after_sampling=self.after_sampling
        )

    @property
    def hdr(self) -> str | None:
        """The colour space of an HDR clip, a key of ``HDR_SPACES``; None for an SDR clip."""
        hdr: str | None = self.request.hdr
        return hdr

    def light(self, *, stop: Callable[[], bool] | None = None) -> Iterator[Tensor]:
        """Decode an HDR clip in chunks (N, 3, H, W) float32, as its EXR images are written.

        Values are of the colour space of the run: linear light, where 1 is diffuse white, or for "acescct"
        its log codes. ``stop`` is that of :meth:`frames`. Raises ValueError for an SDR clip.
        """
        if self.hdr is None:
            raise ValueError(
                "this clip is SDR and has no light above white: sample it with hdr, or use frames()"
            )
        space = HDR_SPACES[self.hdr]
        return (space.of_codes((chunk + 1) / 2) for chunk in self.frames(stop=stop))

    def array(self) -> NDArray[np.uint8]:
        """Decode all frames into one uint8 array (frames, height, width, 3)."""
        chunks = [chunk.numpy() for chunk in self.frames(as_bytes=True)]
        return np.asarray(rearrange(np.concatenate(chunks), "f c h w -> f h w c"))

    def audio(self) -> tuple[Tensor, int]:
        """Return the audio of the clip: (waveform (channels, samples) in [-1, 1], sample rate in Hz).

        It is the input audio unchanged, if the request has one, except in its regions to generate, else the
        decoded audio latent, or silence for a model without audio (LTX-Video).
        """
        # Input audio is returned as it was, without the loss of an encode and a decode.
        if self.input_audio is not None:
            return self._with_regions(*self.input_audio)
        if self.latents.audio is None:
            return silence(self.clip.seconds)
        return self.codecs.decode_audio(self.latents.audio)

    def _with_regions(self, waveform: Tensor, rate: int) -> tuple[Tensor, int]:
        """The input audio ``waveform`` (channels, samples), in whose regions the generated audio is heard."""
        regions, latent = self.request.inputs.audio.regions, self.latents.audio
        if not regions or latent is None:
            return waveform, rate
        made, own_rate = self.codecs.decode_audio(latent)
        # The input is never resampled, so that its samples can be preserved.
        made = made if own_rate == rate else resample(made, own_rate, rate)
        channels = max(len(made), len(waveform))
        preserved = as_long_as(waveform.expand(channels, -1), rate, self.clip.seconds)
        new = made if len(made) == channels else made.mean(dim=0, keepdim=True).expand(channels, -1)
        generated = audio_cells(regions, latent.shape[2], Rounding.COVER)
        return with_regenerated(preserved, new, rate, generated), rate

    @property
    def silent(self) -> bool:
        """Whether there is neither sampled nor input audio (LTX-Video)."""
        return self.input_audio is None and self.latents.audio is None

    def settings(self) -> ParsedJson:
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

        An HDR clip becomes EXR images (a folder, or names such as ``f_%05d.exr``), or in ``.mp4``, ``.mov``
        and ``.mkv`` an HLG master with a folder of EXR images next to it, ``clip_exr/`` for ``clip.mp4``.

        ``on_frames`` is called with (frames written, all frames). ``stop`` ends the work when it returns
        True. No file is left if the work fails or is stopped. Raises TypeError for unknown keywords,
        ValueError for encodings that the kind of file does not allow, and what
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
        """The frames, the audio and the tags as one value that files are written from.

        Frames and audio are decoded when they are read from it.

        ``stop`` is called before each chunk of frames; decoding ends with :class:`Stopped` when it returns
        True.
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
            # A clip without audio has no track, and not one of silence.
            audio=None if self.latents.audio is None and self.input_audio is None else audio,
            hdr=None if self.latents.video is None else self.hdr,
            # Players and file managers display the tag ``comment``.
            tags={METADATA_KEY: json.dumps(self.settings()), "comment": self.request.text.prompt},
        )

    def __repr__(self) -> str:
        return notebook.line_of(self)

    def _repr_html_(self) -> str:
        """HTML for notebooks: a player with the clip, and a table of its settings."""
        return notebook.html_of(self)


def silence(seconds: float) -> tuple[Tensor, int]:
    """Silence in stereo, as the audio of a clip without any: (waveform (2, samples), sample rate in Hz)."""
    return torch.zeros(2, round(seconds * SILENCE_HZ)), SILENCE_HZ


def as_long_as(waveform: Tensor, rate: int, seconds: float) -> Tensor:
    """Cut a waveform (..., samples) at ``rate`` Hz to exactly ``seconds``, or append silence.

    This is needed because the last audio latent frame may end some hundredths of a second before the last
    frame.
    """
    return functional.pad(waveform, (0, round(seconds * rate) - waveform.shape[-1]))
