"""Encodes the video track and the audio track of a file.

Letters: N frames, H W pixel rows and columns, C channels, S samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from fractions import Fraction
from typing import Any, Protocol

import av
import numpy as np
import torch
from torch import Tensor

from .encoding import AudioEncoding, VideoEncoding
from .hlg import hlg_frame
from .images import ITU_709, to_bytes, to_bytes_hwc, to_words_hwc
from .priority import kept_priority

# FFmpeg's number; players treat untagged and studio range alike, and full range often wrongly.
STUDIO_RANGE = 1

# The threads of FFmpeg 8's conversion sometimes leave rows of 4:2:2 frames in other colours (73 of 3000
# frames of 80x64 with PyAV 18.1; none with one thread). Older PyAV has one thread and no such keyword.
_ONE_THREAD = {"threads": 1} if "threads=" in (av.VideoFrame.reformat.__doc__ or "") else {}


class VideoTrack:
    """Writes the video track of a file: each frame is encoded as soon as it is passed in.

    ``container`` is PyAV's, opened for writing.
    """

    def __init__(
        self, container: Any, encoding: VideoEncoding, *, width: int, height: int, fps: Fraction
    ) -> None:
        self.frame_count = 0
        self._container, self._encoding, self._fps = container, encoding, fps
        codec = encoding.codec
        self._stream = container.add_stream(codec.encoder, rate=fps, options=dict(encoding.options))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = encoding.pixel_format
        context = self._stream.codec_context
        if encoding.tag is not None:
            # The tag has to be set before the encoder opens, which the first frame does.
            context.codec_tag = encoding.tag
        if encoding.pixel_format.startswith("yuv"):
            # Players guess the colour matrix of untagged video from its size, which shifts some colours.
            context.color_primaries, context.color_trc, context.colorspace = encoding.colours
            context.color_range = STUDIO_RANGE
        self._stored: StoredAs = _converter(encoding, width, height, fps)

    def encode(self, frame: Tensor) -> None:
        """Encode a frame (3, H, W), uint8 or float in [-1, 1].

        For an HDR video (HLG) it must be float: ACEScct codes, scaled from [0, 1] to [-1, 1]. Raises
        ValueError for NaN and infinite values.
        """
        # Time stamps count frames in units of one frame, so that 24000/1001 fps does not drift.
        if self._encoding.hlg:
            av_frame = hlg_frame(frame, self.frame_count)
        else:
            av_frame = _rgb_frame(frame, self.frame_count, deep=self._encoding.deep)
        av_frame.pts, av_frame.time_base = self.frame_count, 1 / self._fps
        # The first frame opens the encoder.
        with nullcontext() if self.frame_count else kept_priority():
            for stored in self._stored.convert(av_frame):
                self._container.mux(self._stream.encode(stored))
        self.frame_count += 1

    def finish(self) -> None:
        """Write the frames that the encoder has not returned yet."""
        for stored in self._stored.flush():
            self._container.mux(self._stream.encode(stored))
        self._container.mux(self._stream.encode(None))


def _rgb_frame(frame: Tensor, number: int, *, deep: bool) -> Any:
    if deep:
        return av.VideoFrame.from_ndarray(to_words_hwc(frame, number), format="rgb48le")
    return av.VideoFrame.from_ndarray(to_bytes_hwc(to_bytes(frame[None], first=number)[0]), format="rgb24")


class StoredAs(Protocol):
    """Converts RGB frames of PyAV to frames in the pixel format of the encoder."""

    def convert(self, av_frame: Any) -> Iterator[Any]: ...

    def flush(self) -> Iterator[Any]: ...


class _Reformatted:
    """Converts RGB frames to the pixel format of a codec, such as "yuv420p".

    YUV gets the colours of BT.709.
    """

    def __init__(self, pixel_format: str) -> None:
        self._format = pixel_format

    def convert(self, av_frame: Any) -> Iterator[Any]:
        if not self._format.startswith("yuv"):
            yield av_frame.reformat(format=self._format, **_ONE_THREAD)
            return
        # swscale's default matrix is that of BT.601, whatever the tags of the stream say.
        stored = av_frame.reformat(format=self._format, dst_colorspace="ITU709", **_ONE_THREAD)
        for name in ("color_primaries", "color_trc"):
            # Some encoders take these from the frame; older PyAV cannot set them there.
            if hasattr(stored, name):
                setattr(stored, name, ITU_709)
        yield stored

    def flush(self) -> Iterator[Any]:
        return iter(())


class _Palette:
    """Converts RGB frames for GIF: each gets a palette of 256 colours, chosen for that frame."""

    def __init__(self, width: int, height: int, fps: Fraction) -> None:
        graph: Any = av.filter.Graph()
        source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=1 / fps)
        # The palette is computed from the same frame that it is then applied to.
        both = graph.add("split")
        colours = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
        # Bayer dithering is fixed in place, so that still areas do not flicker.
        used = graph.add("paletteuse", "new=1:dither=bayer:bayer_scale=4")
        sink = graph.add("buffersink")
        source.link_to(both)
        both.link_to(colours, 0, 0)
        both.link_to(used, 1, 0)
        colours.link_to(used, 0, 1)
        used.link_to(sink)
        graph.configure()
        self._graph = graph

    def convert(self, av_frame: Any) -> Iterator[Any]:
        self._graph.push(av_frame)
        yield from self._ready()

    def flush(self) -> Iterator[Any]:
        self._graph.push(None)
        yield from self._ready()

    def _ready(self) -> Iterator[Any]:
        while True:
            try:
                yield self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return


class _AsIs:
    """Passes on frames that are in the pixel format of the codec already."""

    def convert(self, av_frame: Any) -> Iterator[Any]:
        yield av_frame

    def flush(self) -> Iterator[Any]:
        return iter(())


def _converter(encoding: VideoEncoding, width: int, height: int, fps: Fraction) -> StoredAs:
    if encoding.hlg:
        return _AsIs()
    if encoding.pixel_format == "pal8":
        return _Palette(width, height, fps)
    return _Reformatted(encoding.pixel_format)


class AudioTrack:
    """Writes the audio track of a file: ``add`` buffers samples, ``encode`` writes them up to a given number.

    The track is stereo, or mono if ``channels`` is 1; ``rate`` is in Hz. ``sample_count`` is the number of
    samples encoded so far.
    """

    def __init__(self, container: Any, encoding: AudioEncoding, rate: int, *, channels: int = 2) -> None:
        self.sample_count = 0
        self.rate = rate
        self._container = container
        self._pending: deque[Tensor] = deque()
        self._channels, self._layout = channels, "mono" if channels == 1 else "stereo"
        self._codec = encoding.codec
        self._stream = container.add_stream(encoding.codec.encoder, rate=rate, layout=self._layout)
        if encoding.bit_rate is not None:
            self._stream.bit_rate = encoding.bit_rate

    def add(self, waveform: Tensor) -> None:
        """Buffer samples (C, S), full scale at -1 and 1.

        Mono samples are written to both channels of a stereo track. Raises ValueError for more than two
        channels, and for NaN or infinite samples.
        """
        # An expanded tensor shares its memory, so that stereo from mono takes none.
        self._pending.append(checked_audio(waveform).expand(self._channels, -1))

    def encode(self, until: int | None = None) -> None:
        """Encode the buffered samples before sample number ``until`` of the track.

        None encodes all of them.
        """
        while self._pending and (until is None or self.sample_count < until):
            piece = self._pending.popleft()
            room = piece.shape[1] if until is None else until - self.sample_count
            if piece.shape[1] > room:
                self._pending.appendleft(piece[:, room:])
                piece = piece[:, :room]
            if piece.shape[1]:
                self._encode(piece)

    def finish(self) -> None:
        """Drop the samples that are still buffered, and write the packets that the encoder still holds."""
        # Audio that is longer than the video would make players hold the last frame.
        self._pending.clear()
        self._container.mux(self._stream.encode(None))

    def _encode(self, piece: Tensor) -> None:
        block = self._block(piece)
        block.sample_rate, block.time_base = self.rate, Fraction(1, self.rate)
        block.pts = self.sample_count
        self._container.mux(self._stream.encode(block))
        self.sample_count += piece.shape[1]

    def _block(self, piece: Tensor) -> Any:
        if self._codec.bit_rate is not None:
            # PyAV needs contiguous samples, and a slice of stereo samples is not.
            samples = np.ascontiguousarray(piece.numpy())
            return av.AudioFrame.from_ndarray(samples, format="fltp", layout=self._layout)
        # Rounded here, since FFmpeg would cut; and clipped, since the conversion would wrap louder samples.
        words = (piece.clamp(-1.0, 1.0) * 32767.0).round().to(torch.int16)
        packed = np.ascontiguousarray(words.T.reshape(1, -1).numpy())
        return av.AudioFrame.from_ndarray(packed, format="s16", layout=self._layout)


def checked_audio(waveform: Tensor) -> Tensor:
    """Convert a waveform (C, S) to float32 on the CPU.

    Raises ValueError for more than two channels, and for NaN or infinite samples.
    """
    if waveform.ndim != 2 or waveform.shape[0] not in (1, 2):
        raise ValueError(f"audio must be (1 or 2 channels, samples); got shape {tuple(waveform.shape)}")
    # Vocoders may return bfloat16, which numpy does not have.
    samples = waveform.detach().to(device="cpu", dtype=torch.float32)
    if not torch.isfinite(samples).all():
        raise ValueError("the audio holds NaN or infinite samples; nothing was saved")
    return samples
