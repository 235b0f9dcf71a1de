"""Writes a video in which only some GOPs are encoded again; the packets of all others are copied.

A GOP is a run of frames that begins with one stored whole (a keyframe of the file). Letters: N frames, C
channels, S samples, H W pixel rows and columns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..formats import VIDEO
from .destination import Destination
from .encoding import Encoding, audio_encoding
from .h264 import SLICE_IDR, Parameters, encoded_units, stored_units, to_stored
from .images import ITU_709, to_bytes, to_bytes_hwc
from .other_tracks import other_tracks, plain_tags
from .packets import VideoFile, open_video
from .remux import AHEAD_S, track_of
from .tracks import checked_audio
from .video_in import VideoClip
from .writer import open_output
from .x264 import repeatable_options

log = logging.getLogger(__name__)

PIXEL_FORMATS = frozenset(
    f"{kind}{sampling}{depth}"
    for sampling in ("420p", "422p", "444p")
    for kind, depth in (("yuv", ""), ("yuvj", ""), ("yuv", "10le"))
)
"""FFmpeg's names of the pixel formats that can be decoded and encoded again without a change of format."""
# x264 with three B-frames and a pyramid, its default, needs two frames of delay.
REORDER_FRAMES = 2
"""Frames that x264 holds back for B-frames."""
ITU_601 = 5


@dataclass(frozen=True, kw_only=True)
class Recut:
    """The plan of a file that copies the packets of ``clip`` except in some ranges of frames.

    ``spans`` are the ranges [first, stop) of frames to encode, each one or more whole GOPs. ``times`` are the
    times of all frames of the result in ticks of ``tick_s`` seconds, ascending from 0. The n-th packet of the
    file is decoded ``shift`` ticks before ``times[n]``, early enough for B-frames; ``shift`` is 0 without
    these. ``parameters`` are the H.264 parameter sets of the source.
    """

    clip: VideoClip
    spans: tuple[tuple[int, int], ...]
    times: NDArray[np.int64]
    tick_s: Fraction
    shift: int
    parameters: Parameters


def plan_recut(clip: VideoClip, changed: Sequence[tuple[int, int]], frame_count: int) -> Recut:
    """Plan to write ``clip`` with new frames in the ranges ``changed``.

    The result has ``frame_count`` frames. ``changed`` are ranges [first, stop) of frame numbers, which are
    extended to whole GOPs. Packets are read and nothing is decoded. Raises ValueError, with the reason, for a
    file whose packets cannot be mixed with new ones.
    """
    with open_video(clip.path) as (container, stream):
        if reason := _obstacle(clip, stream):
            raise ValueError(
                f"--exact-outside copies packets, and {clip.path} {reason}: leave the option out, or convert "
                "the file to H.264 of a constant frame rate in an MP4 first"
            )
        parameters = Parameters.read(stream.codec_context.extradata)
        tick_s = Fraction(stream.time_base)
        packets = [
            # is_keyframe is also true for recovery points, before which older frames may still be referenced.
            (packet.pts, packet.is_keyframe and _starts_anew(bytes(packet)))
            for packet in container.demux(stream)
            if packet.size
        ]
    times = clip.timeline.times
    # Edit lists and invisible frames make packets and presentation times differ.
    if len(packets) != len(times) or parameters is None:
        raise ValueError(f"--exact-outside copies packets, and {clip.path} hides some of them: leave it out")
    order = np.searchsorted(times, [pts for pts, _ in packets])
    # A GOP may be cut off only where every packet before it is also displayed before it.
    starts = [at for at, (_, anew) in enumerate(packets) if anew and order[at] == at]
    if not starts or starts[0] != 0:
        raise ValueError(f"--exact-outside copies packets, and {clip.path} does not begin with a keyframe")
    own = np.array([pts for pts, _ in packets])
    reorder = int((times - own).max())
    shift = max(reorder, math.ceil(REORDER_FRAMES / clip.fps / tick_s) + 1) if reorder else 0
    # Each time is rounded from the frame's number, so that rounding does not add up over a long extension.
    ticks = [round(frame / clip.fps / tick_s) for frame in range(1, frame_count - len(times) + 1)]
    return Recut(
        clip=clip,
        spans=_whole_gops(changed, [*starts, len(times)], frame_count),
        times=np.concatenate((times, times[-1] + np.array(ticks, np.int64))) - times[0],
        tick_s=tick_s,
        shift=shift,
        parameters=parameters,
    )


def check_recut(destination: Destination, encoding: Encoding) -> None:
    """Raise ValueError unless a file with copied packets can be written to ``destination``.

    It is an MP4 of H.264, whose new frames are encoded like the packets around them: of ``encoding`` crf and
    the audio options may be set.
    """
    if destination.format.name != "mp4":
        raise ValueError(f"--exact-outside writes an MP4; got {destination.path}: name the output .mp4")
    if encoding.video_codec not in (None, "h264"):
        raise ValueError(
            f"--exact-outside copies H.264, and video_codec={encoding.video_codec} is another: leave one out"
        )
    for name in ("encoder_preset", "pixel_format"):
        if getattr(encoding, name) is not None:
            raise ValueError(
                f"{name}={getattr(encoding, name)} has no effect with --exact-outside, whose new frames are "
                "encoded like those of the source: leave it out"
            )


def write_recut(
    recut: Recut,
    destination: Destination,
    frames: Iterator[Tensor],
    waveform: Tensor,
    rate: int,
    *,
    metadata: Mapping[str, str],
    encoding: Encoding,
) -> None:
    """Write an MP4 file: packets of the source, and in the spans of ``recut`` newly encoded frames.

    ``frames`` yields all frames of the result in chunks (N, 3, H, W), uint8 or float in [-1, 1]; those
    outside the spans are ignored. ``waveform`` (C, S) is the audio, at ``rate`` Hz; subtitles and other
    tracks of the source are copied, see :mod:`~ltx2_core.media.other_tracks`. Of ``encoding`` only crf (0
    counts as 1) and the audio options are used. Raises what :func:`check_recut` and
    :class:`~ltx2_core.media.VideoWriter` raise.
    """
    check_recut(destination, encoding)
    track = audio_encoding(destination.format, encoding)
    assert track is not None
    destination.check()
    crf = VIDEO["h264"].default_crf if encoding.crf is None else encoding.crf
    assert crf is not None
    with open_video(recut.clip.path) as (container, stream):
        tags = {**plain_tags(container.metadata), **metadata}
        with open_output(destination, tags) as output:
            video = output.add_stream_from_template(stream)
            spans = [_Span(recut, stream, first, stop, crf) for first, stop in recut.spans]
            if spans:
                # All spans have the same parameter sets, since size, format and options are equal.
                video.codec_context.extradata = recut.parameters.joined(spans[0].parameter_sets)
            audio = track_of(output, track, checked_audio(waveform), rate)
            packets = _packets(recut, container.demux(stream), spans, _Feed(frames))
            origin_s = recut.clip.timeline.origin_s
            with other_tracks(recut.clip.path, output, destination.format, origin_s) as others:
                for index, (data, pts, key) in enumerate(packets):
                    packet = av.Packet(data)
                    packet.stream, packet.time_base, packet.is_keyframe = video, recut.tick_s, key
                    # Decoding times are the sorted presentation times moved earlier, so that they rise and
                    # none is late.
                    packet.pts, packet.dts = pts, int(recut.times[index]) - recut.shift
                    # Ahead of the video, so that players need not seek.
                    until_s = float(packet.dts * recut.tick_s) + AHEAD_S
                    audio.encode(round(until_s * audio.rate))
                    others.copy(until_s)
                    output.mux(packet)
                audio.encode()
                audio.finish()
                others.copy()


def _obstacle(clip: VideoClip, stream: Any) -> str:
    """Say why the packets of a file cannot be mixed with new ones; "" if they can. ``stream`` is PyAV's."""
    context, source = stream.codec_context, clip.source
    if not isinstance(source, VideoFile) or context.name != "h264":
        return f"holds {context.name} video"
    if Parameters.read(context.extradata) is None:
        return "stores H.264 in another way than MP4 does"
    if context.pix_fmt not in PIXEL_FORMATS:
        return f"has the pixel format {context.pix_fmt}"
    if source.pixels.interlaced:
        return "is interlaced"
    if source.timeline.by_count or clip.notes:
        return clip.notes[0] if clip.notes else "has no time stamps"
    if (clip.width, clip.height) != (context.width, context.height):
        return "is rotated, or its pixels are not square"
    if context.pix_fmt.removeprefix("yuvj").removeprefix("yuv").startswith("42") and clip.width % 2:
        return f"has an odd width, {clip.width}"
    if "420" in context.pix_fmt and clip.height % 2:
        return f"has an odd height, {clip.height}"
    return ""


def _starts_anew(packet: bytes) -> bool:
    return any(unit and unit[0] & 31 == SLICE_IDR for unit in stored_units(packet))


def _whole_gops(
    changed: Sequence[tuple[int, int]], starts: Sequence[int], frame_count: int
) -> tuple[tuple[int, int], ...]:
    """Extend ranges of frames [first, stop) to the starts of GOPs around them, and join those that touch.

    ``starts`` are the numbers of the first frames of all GOPs in ascending order, followed by the number of
    frames of the source. ``frame_count`` is the number of frames of the result, at which a range beyond the
    source ends. The result has ranges [first, stop) too.
    """
    spans: list[tuple[int, int]] = []
    for first, stop in sorted(changed):
        low = max(start for start in starts if start <= first)
        high = min((start for start in starts if start >= stop), default=frame_count)
        if spans and low <= spans[-1][1]:
            before = spans.pop()
            low, high = before[0], max(before[1], high)
        spans.append((low, high))
    return tuple(spans)


class _Feed:
    """Yields ranges of frames, by their numbers, from an iterator of chunks (N, 3, H, W).

    ``take(first, stop)`` yields frames ``first`` to ``stop - 1``; each range must begin after the one before.
    """

    def __init__(self, chunks: Iterator[Tensor]) -> None:
        self._frames = (frame for chunk in chunks for frame in chunk)
        self._next = 0

    def take(self, first: int, stop: int) -> Iterator[Tensor]:
        while self._next < stop:
            frame, self._next = next(self._frames), self._next + 1
            if self._next > first:
                yield frame


class _Span:
    """Encodes the frames [first, stop) in the H.264 format of the source, with parameter sets of its own.

    ``stream`` is the source's video stream in PyAV; ``crf`` is the constant rate factor, where lower is
    better.
    """

    def __init__(self, recut: Recut, stream: Any, first: int, stop: int, crf: int) -> None:
        self.first, self.stop, self.recut = first, stop, recut
        source = stream.codec_context
        context: Any = av.CodecContext.create("libx264", "w")
        context.width, context.height, context.pix_fmt = source.width, source.height, source.pix_fmt
        # The denominator of broadcast rates, which fps holds as a rounded float.
        context.framerate = Fraction(recut.clip.fps).limit_denominator(1001)
        context.time_base = 1 / context.framerate
        for name in ("color_primaries", "color_trc", "colorspace", "color_range"):
            # Other tags in the new parameter set would change the colours at each cut.
            setattr(context, name, getattr(source, name))
        own = repeatable_options().get("x264-params", "")
        context.options = {
            # Lossless H.264 is a profile of its own, to which decoders do not change within a stream.
            "crf": str(max(crf, 1)),
            # Without reordering in the file its packets leave no time for that of new ones.
            "bf": "3" if recut.shift else "0",
            "x264-params": ":".join(filter(None, (f"sps-id={recut.parameters.free_id()}", own))),
        }
        # MP4 holds parameter sets in its header and not in the packets.
        context.flags |= av.codec.context.Flags.global_header
        context.open()
        self._context = context
        self._matrix = "ITU709" if source.colorspace == ITU_709 else "ITU601"
        self._full = source.color_range == 2 or source.pix_fmt.startswith("yuvj")

    @property
    def parameter_sets(self) -> list[bytes]:
        return encoded_units(bytes(self._context.extradata))

    def encoded(self, frames: Iterator[Tensor]) -> Iterator[tuple[bytes, int, bool]]:
        """Encode ``frames`` (3, H, W), the frames of this span in order.

        Yields (data, presentation time in ticks, whether it is a keyframe) for each packet, in the order of
        decoding.
        """
        for number, frame in enumerate(frames, start=self.first):
            av_frame = av.VideoFrame.from_ndarray(
                to_bytes_hwc(to_bytes(frame[None], first=number)[0]), format="rgb24"
            )
            shown = av_frame.reformat(
                format=self._context.pix_fmt,
                dst_colorspace=self._matrix,
                dst_color_range="JPEG" if self._full else "MPEG",
            )
            shown.pts, shown.time_base = number, self._context.time_base
            yield from map(self._stored, self._context.encode(shown))
        yield from map(self._stored, self._context.encode(None))

    def _stored(self, packet: Any) -> tuple[bytes, int, bool]:
        # The source's time stamps are used and not the encoder's, whose frames are exactly regular.
        number = round(packet.pts * packet.time_base * self._context.framerate)
        return to_stored(encoded_units(bytes(packet))), int(self.recut.times[number]), packet.is_keyframe


def _packets(
    recut: Recut, packets: Iterator[Any], spans: Sequence[_Span], feed: _Feed
) -> Iterator[tuple[bytes, int, bool]]:
    """Yield all packets of the result in the order of decoding, both copied and newly encoded ones.

    ``packets`` are those of the source; ``spans`` encode the new frames, which ``feed`` yields. Each result
    is (data, presentation time in ticks, whether the packet is a keyframe, a frame stored whole).
    """
    zero, left = int(recut.clip.timeline.times[0]), list(spans)
    number = 0
    for packet in packets:
        if not packet.size:
            continue
        if left and number == left[0].first:
            # New packets come before the first one they replace; the order of packets is that of decoding.
            yield from left[0].encoded(feed.take(left[0].first, left[0].stop))
        if not (left and left[0].first <= number < left[0].stop):
            yield bytes(packet), packet.pts - zero, packet.is_keyframe
        number += 1
        if left and number >= left[0].stop:
            left.pop(0)
    # A span that begins after the last packet only adds frames.
    for span in left:
        if span.first >= number:
            yield from span.encoded(feed.take(span.first, span.stop))
