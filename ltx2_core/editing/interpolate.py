"""Doubles the frame rate of any video by a temporal latent upscaler; its audio is copied as it is.

Nothing is sampled: frames are encoded, the latent gets a new latent frame between every two, and is decoded.
Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor

from ..config import upsampler_config, video_vae_config
from ..loading import Checkpoint, Component
from ..media import Destination, Encoding
from ..media.beside import check_audio_copy, save_beside
from ..media.encoder_thread import Timed
from ..media.save import Clip, check_destination, save_clip
from ..memory import MemoryEstimate, encoder_bytes
from ..memory.estimate import decoding
from ..memory.rate_stage import upsampler_bytes
from ..run.codecs import Codecs
from ..run.frame_rate import (
    WINDOW,
    at_double_rate,
    doubled_pieces,
    doubling,
    open_temporal_upscaler,
)
from ..run.generation import METADATA_KEY
from ..run.input_files import file_record
from ..shapes import ClipPlan
from .footage import Footage
from .joints import cropped, take

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from ..media.encoding import EncodingOptions

DOUBLED_KEY: Final = "interpolate"
"""Key of the settings that only a file with a doubled frame rate has."""


def interpolate(codecs: Codecs, source: Footage, upscaler: str | os.PathLike[str] | Checkpoint) -> Doubled:
    """Plan ``source`` with twice the frames a second: a new frame between every two, 2N - 1 for N.

    ``codecs``, such as a pipeline, load the video encoder and decoder; no other network of it is used.
    ``upscaler`` is a temporal latent upscaler. Frames whose size the model cannot encode are padded for it,
    and the result is cut. Nothing is computed before the result is saved. Raises ValueError for a source of
    one frame, for light (HDR), for codecs without these networks, and what
    :func:`~ltx2_core.run.frame_rate.open_temporal_upscaler` raises.
    """
    if len(source.frames) < 2:
        raise ValueError("the source has one frame, and a new one is made between two: give a longer video")
    if source.hdr is not None:
        raise ValueError(
            f"the source is HDR (hdr={source.hdr}), whose frame rate cannot be doubled: give an SDR video"
        )
    for component in (Component.VIDEO_ENCODER, Component.VIDEO_DECODER):
        codecs.networks.file(component)
    file = upscaler if isinstance(upscaler, Checkpoint) else open_temporal_upscaler(upscaler)
    return Doubled(codecs=codecs, source=source, upscaler=file, clip=source.plan(len(source.frames)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Doubled:
    """A video with twice the frames a second of ``source``, made while it is read.

    ``clip`` is the size and length at which the source is encoded, padded to the latent grid.
    """

    codecs: Codecs
    source: Footage
    upscaler: Checkpoint
    clip: ClipPlan

    @property
    def frame_count(self) -> int:
        return 2 * len(self.source.frames) - 1

    @property
    def fps(self) -> float:
        return 2 * self.source.fps

    @property
    def plan(self) -> ClipPlan:
        """Size, length and frame rate of the result."""
        width, height = self.source.size
        return ClipPlan(width=width, height=height, frames=self.frame_count, fps=self.fps)

    @property
    def windows(self) -> bool:
        """Whether the latent is too long to be doubled at once, so that parts of it are blended."""
        return self.clip.latent_frames > WINDOW

    def memory(self) -> tuple[MemoryEstimate, ...]:
        """Predict the device memory of encoding, doubling and decoding, from headers alone.

        All three networks are loaded at the same time, so that the sum of the weights counts for each.
        """
        networks, clip = self.codecs.networks, self.clip
        weights = networks.component_bytes(Component.VIDEO_ENCODER, Component.VIDEO_DECODER)
        weights += self.upscaler.nbytes(Component.UPSAMPLER)
        vae = video_vae_config(networks.file(Component.VIDEO_DECODER).config)
        window = (min(clip.latent_frames, WINDOW), clip.latent_height, clip.latent_width)
        activations = {
            "encode": encoder_bytes(
                video_vae_config(networks.file(Component.VIDEO_ENCODER).config),
                clip.width,
                clip.height,
                networks.dtype,
            ),
            "double": upsampler_bytes(upsampler_config(self.upscaler.config), window, networks.dtype),
            "decode": decoding(vae, at_double_rate(clip), networks.dtype.itemsize).peak,
        }
        return tuple(
            MemoryEstimate(stage=stage, weights=weights, activations=size)
            for stage, size in activations.items()
        )

    def frames(self, *, as_bytes: bool = False) -> Iterator[Tensor]:
        """Yield the frames in chunks (N, 3, H, W), float in [-1, 1], or uint8 with ``as_bytes``.

        Memory does not grow with the length of the source.
        """
        with doubling(self.codecs.networks, self.upscaler) as double:
            pieces = doubled_pieces(double, self.codecs.encode_stream(self._padded()))
            chunks = self.codecs.decode_video(pieces, as_bytes=as_bytes)
            # The last frames only fill the latent grid.
            yield from take(cropped(chunks, self.source.size), 0, self.frame_count)

    def _padded(self) -> Iterator[Tensor]:
        """Yield the frames of the source in chunks at the size of ``clip``, the last one up to its length."""
        missing = self.clip.frames - len(self.source.frames)
        last: Tensor | None = None
        for chunk in self.source.on_grid(self.clip).chunks():
            yield chunk
            last = chunk[-1:]
        if missing and last is not None:
            yield last.expand(missing, -1, -1, -1)

    def as_clip(self) -> Clip:
        """The frames, the audio and the tags as one value for writers of files, decoded while it is read."""
        track, audio = self.source.audio, None
        if track is not None:
            waveform, rate = track
            audio = lambda: ((waveform,), rate)  # noqa: E731 a value and not a function of its own
        width, height = self.source.size
        return Clip(
            width=width,
            height=height,
            fps=self.fps,
            frame_count=self.frame_count,
            frames=self.frames,
            audio=audio,
            tags={METADATA_KEY: json.dumps(self.settings())},
        )

    def settings(self) -> dict[str, Any]:
        """JSON values for the tags of the file: the source and the upscaler."""
        file = self.source.file
        return {
            DOUBLED_KEY: {"fps": self.fps, "temporal_upscaler": self.upscaler.path.name},
            "source_file": None if file is None else file_record(file.path),
        }

    def check(self, path: str | os.PathLike[str] | Destination, encoding: Encoding) -> None:
        """Raise ValueError if the clip cannot be written to ``path``, with advice."""
        destination = Destination.of(path)
        if not destination.format.video and not destination.is_images:
            raise ValueError(f"{destination} holds audio alone, which is not changed: name a video file")
        check_destination(destination, encoding)
        if self._copies(destination) and self.source.file is not None:
            check_audio_copy(self.source.file.path, destination.format)

    def _copies(self, destination: Destination) -> bool:
        """Whether tracks of the source are copied: it is a video file, and the new file can hold audio."""
        fmt = destination.format
        return self.source.file is not None and bool(fmt.video and fmt.audio)

    def save(
        self,
        path: str | os.PathLike[str] | Destination,
        *,
        on_frames: Callable[[int, int], None] | None = None,
        timed: Timed | None = None,
        **encoding: Unpack[EncodingOptions],
    ) -> None:
        """Make the frames and write them to a file, whose name decides the kind of file.

        The packets of all other tracks of the source are copied, audio first of all. ``encoding`` are those
        of :meth:`~ltx2_core.run.generation.Generation.save`; ``on_frames`` is called with (frames written,
        all frames), ``timed`` measures the seconds of encoding. Raises what :meth:`check` and that method
        raise.
        """
        chosen, destination = Encoding(**encoding), Destination.of(path)
        self.check(destination, chosen)
        clip, file = self.as_clip(), self.source.file
        if file is None or not self._copies(destination):
            save_clip(destination, clip, chosen, on_frames=on_frames, timed=timed)
            return
        origin_s = file.timeline.origin_s
        save_beside(file.path, destination, clip, chosen, origin_s=origin_s, on_frames=on_frames, timed=timed)

    def describe(self) -> str:
        """A text for reports: the result, and how it is made."""
        clip = at_double_rate(self.clip)
        width, height = self.source.size
        size = (clip.width, clip.height)
        lines = [f"{width}x{height}, {self.frame_count} frames at {self.fps:g} fps; audio as it is"]
        if size != (width, height):
            lines.append(f"encoded at {size[0]}x{size[1]}, padded, and cut again")
        if self.windows:
            lines.append(f"doubled in windows of {WINDOW} latent frames that are blended")
        return "\n".join(lines)
