"""A file's own video with another audio track: the packets are copied and never encoded again.

Letters: C channels, S samples.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.stream import Disposition
from torch import Tensor

from .atomic import check_output, replacing
from .container import open_media
from .writer import AAC_BIT_RATE, AAC_RATES

log = logging.getLogger(__name__)

BLOCK = 1024
"""Samples of an AAC block."""


class CannotCopy(ValueError):
    """The video of a file has a codec, or packets without times, that an MP4 cannot hold."""


def copy_with_audio(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    waveform: Tensor,
    rate: int,
    *,
    origin_s: float = 0.0,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = True,
) -> None:
    """Write an MP4 with the video packets of ``source`` and ``waveform`` (C, S), C 1 or 2, at ``rate`` Hz.

    The packets, their time stamps, rotation, colour tags, and subtitles that an MP4 can hold are those of the
    source; its audio is replaced. The new audio begins at the time stamp ``origin_s`` of
    the source.

    Raises CannotCopy for a codec that an MP4 cannot hold and packets without times, ValueError for audio that
    cannot be encoded, and what :func:`open_media` and :class:`VideoWriter` raise.
    """
    # Checked before the output is opened, so that nothing is written for a bad input.
    samples = _stereo(waveform, rate)
    target = check_output(path, overwrite=overwrite)
    with open_media(source, "video") as container, replacing(target) as temporary:
        options = {"movflags": "faststart+use_metadata_tags"}
        with av.open(os.fspath(temporary), "w", format="mp4", options=options) as output:
            output.metadata.update({**plain_tags(container.metadata), **(metadata or {})})
            copies = _copied_streams(Path(source), container, output)
            try:
                _mux(container, output, copies, AudioBlocks.into(output, samples, rate), origin_s)
            except av.error.FFmpegError as error:
                raise CannotCopy(f"the packets of {source} cannot be copied ({error})") from error


def _copied_streams(source: Path, container: Any, output: Any) -> dict[int, Any]:
    """The output's stream for each stream of the source that is copied; the first video stream must be."""
    copies = {}
    for stream in container.streams:
        # A cover image is stored as a video stream of one frame.
        cover = bool(stream.disposition & Disposition.attached_pic)
        if stream.type not in ("video", "subtitle") or cover or not _fits(stream):
            if stream is container.streams.video[0]:
                raise CannotCopy(f"an MP4 cannot hold the {stream.codec_context.name} video of {source}")
            if stream.type != "audio":
                log.warning("%s: a %s stream is left out, which an MP4 cannot hold", source.name, stream.type)
            continue
        copies[stream.index] = output.add_stream_from_template(stream)
        copies[stream.index].metadata.update(plain_tags(stream.metadata))
    return copies


def _fits(stream: Any) -> bool:
    """Whether an MP4 can hold a stream; writing the header of one decides."""
    with av.open(os.devnull, "w", format="mp4") as trial:
        try:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        except (av.error.FFmpegError, ValueError):
            return False
    return True


def _stereo(waveform: Tensor, rate: int) -> Tensor:
    """A waveform as (2, S) float32. Raises ValueError for one that AAC cannot hold."""
    if rate not in AAC_RATES:
        raise ValueError(f"AAC has no sample rate of {rate} Hz; resample to one of {AAC_RATES}")
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"audio must be (1 or 2 channels, samples); got shape {tuple(waveform.shape)}")
    samples = waveform.detach().to(device="cpu", dtype=torch.float32).expand(2, -1)
    if not torch.isfinite(samples).all():
        raise ValueError("the audio holds NaN or infinite samples; nothing was saved")
    return samples


class AudioBlocks:
    """Audio that is encoded up to a time."""

    def __init__(self, output: Any, stream: Any, samples: Tensor, rate: int) -> None:
        self.output, self.stream, self.samples, self.rate = output, stream, samples, rate
        self.position = 0

    @classmethod
    def into(cls, output: Any, waveform: Tensor, rate: int) -> AudioBlocks:
        """A new track of ``output`` for a waveform (C, S), C 1 or 2; raises ValueError for another one."""
        samples = _stereo(waveform, rate)
        stream = output.add_stream("aac", rate=rate, layout="stereo")
        stream.bit_rate = AAC_BIT_RATE
        return cls(output, stream, samples, rate)

    def finish(self) -> None:
        """Encode all that is left."""
        self.until(float("inf"))
        self.output.mux(self.stream.encode(None))

    def until(self, seconds: float) -> None:
        """Encode the blocks that begin before ``seconds``."""
        while self.position < min(seconds * self.rate, self.samples.shape[1]):
            # PyAV needs contiguous samples, and a slice of stereo samples is not.
            piece = np.ascontiguousarray(self.samples[:, self.position : self.position + BLOCK].numpy())
            block = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            block.sample_rate, block.time_base = self.rate, Fraction(1, self.rate)
            block.pts = self.position
            self.output.mux(self.stream.encode(block))
            self.position += piece.shape[1]


def _mux(container: Any, output: Any, copies: Mapping[int, Any], audio: AudioBlocks, origin_s: float) -> None:
    """Copy the packets of the source, moved so that its clip begins at 0, between blocks of audio."""
    zero = Fraction(origin_s)
    streams: Iterable[Any] = [stream for stream in container.streams if stream.index in copies]
    for packet in container.demux(*streams):
        if packet.dts is None and packet.pts is None:
            continue
        # Moved in units of each stream, whose time bases differ.
        moved = round(zero / packet.time_base)
        packet.pts = None if packet.pts is None else packet.pts - moved
        packet.dts = None if packet.dts is None else packet.dts - moved
        if packet.dts is not None:
            # Audio is interleaved half a second ahead, so that players need not seek.
            audio.until(float(packet.dts * packet.time_base) + 0.5)
        packet.stream = copies[packet.stream.index]
        output.mux(packet)
    audio.finish()


def plain_tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that describe the container or the encoding of the source file."""
    # These describe the source and would be wrong for the copy.
    own = {"major_brand", "minor_version", "compatible_brands", "encoder", "duration", "creation_time"}
    return {name: text for name, text in metadata.items() if name.lower() not in own}
