"""Kinds of files that can be written: containers, codecs, and which go together. FFmpeg is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

PIXEL_FORMATS: Final[Mapping[str, str]] = {
    "yuv420p": "yuv420p",
    "yuv422p": "yuv422p",
    "yuv444p": "yuv444p",
    "yuv420p10": "yuv420p10le",
    "yuv422p10": "yuv422p10le",
    "yuv444p10": "yuv444p10le",
    "rgb24": "rgb24",
    "rgb48": "rgb48be",
}
"""Name of a pixel format that can be chosen -> FFmpeg's name, which also has the order of bytes."""

DEEP: Final = frozenset({"yuv420p10", "yuv422p10", "yuv444p10", "rgb48"})
"""Pixel formats of more than 8 bits, which are encoded from float frames."""

HDR_NAMES: Final = ("srgb-linear", "acescg", "acescct")
"""Colour spaces of HDR clips that can be chosen; ``media.hdr_space`` has what they mean."""

VIDEO_CODECS: Final = ("h264", "h265", "av1", "prores", "vp9")
"""Video codecs that can be chosen."""


@dataclass(frozen=True, kw_only=True)
class VideoCodec:
    """A video codec.

    Attributes:
        title: its name in messages.
        encoder: FFmpeg's name of the encoder.
        pixel_formats: keys of ``PIXEL_FORMATS``, the default first; empty where there is no choice.
        stored_as: FFmpeg's pixel format where there is no choice, else None.
        crf: lowest and highest constant rate factor; None where the codec has none.
        default_crf: the constant rate factor that is used if none is chosen.
        presets: names of the encoder's presets, from fast to small files, or of its profiles.
        preset_option: what FFmpeg calls the option that takes a preset.
        default_preset: the preset that is used if none is chosen; None for that of the encoder.
        options: further options of the encoder, by FFmpeg's names.
        audio: key of ``AUDIO`` of the audio codec used with it; None for that of the container.
        max_fps: the highest frame rate that it can hold.
        min_side: the smallest width and height in pixels that its encoder takes.
    """

    title: str
    encoder: str
    pixel_formats: tuple[str, ...] = ()
    stored_as: str | None = None
    crf: tuple[int, int] | None = None
    default_crf: int | None = None
    presets: tuple[str, ...] = ()
    preset_option: str = "preset"
    default_preset: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    audio: str | None = None
    max_fps: float = 1000.0
    min_side: int = 1


_YUV8: Final = ("yuv420p", "yuv422p", "yuv444p")
_YUV10: Final = ("yuv420p10", "yuv422p10", "yuv444p10")
_X264_PRESETS: Final = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow", "placebo"),
)

VIDEO: Final[Mapping[str, VideoCodec]] = {
    "h264": VideoCodec(
        title="H.264",
        encoder="libx264",
        pixel_formats=(*_YUV8, *_YUV10),
        crf=(0, 51),
        default_crf=18,
        presets=_X264_PRESETS,
    ),
    "h265": VideoCodec(
        title="H.265",
        encoder="libx265",
        # The lookahead of x265 writes past its buffers where a frame is narrower, which ends the process in
        # nearly every long run at 48x48, with one thread and without AVX-512 too (PyAV 18.1).
        min_side=64,
        pixel_formats=(*_YUV8, *_YUV10),
        crf=(0, 51),
        default_crf=20,
        presets=_X264_PRESETS,
        # x265 prints its statistics on stderr, whatever the log level of FFmpeg.
        options={"x265-params": "log-level=none"},
    ),
    "av1": VideoCodec(
        title="AV1",
        encoder="libsvtav1",
        pixel_formats=("yuv420p", "yuv420p10"),
        crf=(0, 63),
        default_crf=24,
        presets=tuple(map(str, range(14))),
        default_preset="8",
    ),
    "prores": VideoCodec(
        title="ProRes",
        encoder="prores_ks",
        pixel_formats=("yuv422p10", "yuv444p10"),
        presets=("proxy", "lt", "standard", "hq", "4444", "4444xq"),
        preset_option="profile",
        default_preset="hq",
        # Editing programs take ProRes with audio that is not compressed.
        audio="pcm",
    ),
    "vp9": VideoCodec(
        title="VP9",
        encoder="libvpx-vp9",
        pixel_formats=(*_YUV8, *_YUV10),
        crf=(0, 63),
        default_crf=24,
        presets=("best", "good", "realtime"),
        preset_option="deadline",
        # Without a bit rate of 0 the crf is only a limit; the other two only save time.
        options={"b": "0", "row-mt": "1", "cpu-used": "2"},
    ),
    # GIF states how long a frame lasts in hundredths of a second; players replace less than 2 of them by 10.
    "gif": VideoCodec(title="GIF", encoder="gif", stored_as="pal8", max_fps=50.0),
    # Not libwebp_anim, which joins equal frames into one.
    "webp": VideoCodec(title="WebP", encoder="libwebp", stored_as="bgra", options={"quality": "90"}),
    "png": VideoCodec(title="PNG", encoder="png", pixel_formats=("rgb24", "rgb48")),
    # Half floats, written without FFmpeg.
    "exr": VideoCodec(title="EXR", encoder=""),
}


@dataclass(frozen=True, kw_only=True)
class AudioCodec:
    """An audio codec: its name in messages, FFmpeg's name of its encoder, sample rates and bit rates.

    ``rates`` are the sample rates in Hz that it supports, None for any. ``bit_rate`` is (lowest, highest,
    default) in bits per second, None for a codec whose bit rate cannot be chosen.
    """

    title: str
    encoder: str
    rates: tuple[int, ...] | None = None
    bit_rate: tuple[int, int, int] | None = None

    def rate_for(self, rate: int) -> int:
        """The sample rate in Hz for audio at ``rate`` Hz: ``rate`` if the codec supports it, else 48000."""
        return rate if self.rates is None or rate in self.rates else 48000


AAC_RATES: Final = (
    *(96000, 88200, 64000, 48000, 44100, 32000, 24000),
    *(22050, 16000, 12000, 11025, 8000, 7350),
)

AUDIO: Final[Mapping[str, AudioCodec]] = {
    "aac": AudioCodec(title="AAC", encoder="aac", rates=AAC_RATES, bit_rate=(16_000, 512_000, 192_000)),
    "opus": AudioCodec(
        title="Opus",
        encoder="libopus",
        rates=(48000, 24000, 16000, 12000, 8000),
        bit_rate=(16_000, 510_000, 160_000),
    ),
    "mp3": AudioCodec(
        title="MP3",
        encoder="libmp3lame",
        rates=(48000, 44100, 32000, 24000, 22050, 16000),
        bit_rate=(32_000, 320_000, 192_000),
    ),
    "pcm": AudioCodec(title="PCM", encoder="pcm_s16le"),
    "flac": AudioCodec(title="FLAC", encoder="flac"),
}


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Attributes:
        name: its name in errors and as a value of ``--container``.
        suffixes: what names of such files end in, the usual suffix first.
        muxer: FFmpeg's name of the muxer; empty for numbered images.
        video: keys of ``VIDEO``, the codecs that such a file can hold, the default first; empty for audio.
        audio: key of ``AUDIO``, the codec of its audio; None for a kind without audio.
        tags: whether the settings of a clip can be stored in the file.
        options: options of the muxer, by FFmpeg's names.
    """

    name: str
    suffixes: tuple[str, ...]
    muxer: str
    video: tuple[str, ...] = ()
    audio: str | None = None
    tags: bool = True
    options: Mapping[str, str] = field(default_factory=dict)


# faststart moves the index to the front, for players that stream; the other flag allows any tag.
_MOV_FLAGS: Final = {"movflags": "faststart+use_metadata_tags"}
FRAGMENTED: Final = {"movflags": "frag_keyframe+delay_moov+default_base_moof+use_metadata_tags"}
"""Options of the MP4 muxer for an output without seeking, such as a pipe."""

FORMATS: Final[Mapping[str, Format]] = {
    one.name: one
    for one in (
        Format(
            name="mp4",
            suffixes=(".mp4", ".m4v"),
            muxer="mp4",
            video=("h264", "h265", "av1", "vp9"),
            audio="aac",
            options=_MOV_FLAGS,
        ),
        Format(
            name="mov",
            suffixes=(".mov",),
            muxer="mov",
            video=("h264", "h265", "prores"),
            audio="aac",
            options=_MOV_FLAGS,
        ),
        Format(
            name="mkv",
            suffixes=(".mkv",),
            muxer="matroska",
            video=("h264", "h265", "av1", "vp9", "prores"),
            audio="aac",
        ),
        Format(name="webm", suffixes=(".webm",), muxer="webm", video=("vp9", "av1"), audio="opus"),
        Format(
            name="gif", suffixes=(".gif",), muxer="gif", video=("gif",), tags=False, options={"loop": "0"}
        ),
        Format(
            name="webp",
            suffixes=(".webp",),
            muxer="webp",
            video=("webp",),
            tags=False,
            options={"loop": "0"},
        ),
        Format(name="png", suffixes=(".png",), muxer="", video=("png",)),
        Format(name="exr", suffixes=(".exr",), muxer="", video=("exr",)),
        Format(name="wav", suffixes=(".wav",), muxer="wav", audio="pcm", tags=False),
        Format(name="flac", suffixes=(".flac",), muxer="flac", audio="flac"),
        Format(name="mp3", suffixes=(".mp3",), muxer="mp3", audio="mp3"),
        Format(name="m4a", suffixes=(".m4a",), muxer="ipod", audio="aac", options=_MOV_FLAGS),
    )
}

IMAGES: Final = ("png", "exr")
"""Formats of which each file is one frame."""

MASTERS: Final = ("mp4", "mov", "mkv")
"""Formats that hold an HDR clip as an HLG master."""

STREAMED: Final = ("mp4", "mkv", "webm", "wav")
"""Formats that can be written to a pipe."""


def format_of(suffix: str) -> Format | None:
    """The format of files whose name ends in ``suffix``, such as ".mp4"; None for an unknown suffix."""
    return next((one for one in FORMATS.values() if suffix.lower() in one.suffixes), None)


def suffixes(formats: Iterable[Format]) -> str:
    """The usual suffix of each of ``formats``, as a text such as ".mp4, .mov"."""
    return ", ".join(one.suffixes[0] for one in formats)
