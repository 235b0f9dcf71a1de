"""How a clip is encoded: the choices of the user, and what they mean for each kind of file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypedDict, cast

import av

from ..formats import (
    AUDIO,
    DEEP,
    FORMATS,
    HDR_NAMES,
    MASTERS,
    PIXEL_FORMATS,
    VIDEO,
    AudioCodec,
    Format,
    VideoCodec,
    suffixes,
)
from ..storage.files import JsonObject
from .exr import open_exr
from .hlg import MATRIX, PRIMARIES, TRANSFER
from .images import ITU_709
from .x264 import repeatable_options


class EncodingOptions(TypedDict, total=False):
    """The options of :class:`Encoding` (codec, crf, pixel format, ...) as keyword arguments of a function."""

    video_codec: str | None
    crf: int | None
    encoder_preset: str | None
    pixel_format: str | None
    audio_bitrate: int | str | None


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """The user's choices for encoding a clip; an option that is None has the default of the kind of file.

    Attributes:
        video_codec: "h264", "h265", "av1", "prores" or "vp9".
        crf: constant rate factor: a lower value gives better quality and a larger file. 0 to 51 for H.264 and
            H.265, 0 to 63 for AV1 and VP9.
        encoder_preset: the encoder's name for how much time it spends to make the file smaller, such as
            "slow"; for ProRes its profile, such as "hq".
        pixel_format: such as "yuv420p", or "yuv420p10" for 10 bits, which are encoded from float frames.
        audio_bitrate: bits per second, or a text such as "192k".
        hdr: a key of ``HDR_SPACES`` for an HDR clip, whose frames are codes of ACEScct; None for SDR. This
            is no choice of the user: it states what the clip is.
    """

    video_codec: str | None = None
    crf: int | None = None
    encoder_preset: str | None = None
    pixel_format: str | None = None
    audio_bitrate: int | str | None = None
    hdr: str | None = None

    @property
    def of_video(self) -> tuple[str, ...]:
        """The names of those options that are not None and concern the video, such as "crf"."""
        names = ("video_codec", "crf", "encoder_preset", "pixel_format")
        return tuple(name for name in names if getattr(self, name) is not None)

    def settings(self) -> JsonObject:
        """The options that are not None, by name, as values that JSON can hold."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def chosen(self) -> EncodingOptions:
        """The options that are not None, as keyword arguments of a function."""
        return cast(EncodingOptions, self.settings())


@dataclass(frozen=True, kw_only=True)
class VideoEncoding:
    """A video encoder with its options, and the pixel format of the frames that are passed to the encoder.

    ``tag`` is the four-letter name of the codec in the container where the muxer's default is not the one
    that players expect, else None. ``deep`` says that frames have more than 8 bits for each colour.
    """

    codec: VideoCodec
    pixel_format: str
    """FFmpeg's name of the pixel format."""
    options: Mapping[str, str]
    tag: str | None = None
    """Four letters that name the codec in the container, if not those that the muxer writes; else None."""
    deep: bool = False
    """Whether frames have more than 8 bits."""
    hlg: bool = False
    """Whether frames of an HDR clip are converted to the signal of an HLG master."""

    @property
    def colours(self) -> tuple[int, int, int]:
        """FFmpeg's numbers of the primaries, the transfer function and the matrix of the encoded frames."""
        return (PRIMARIES, TRANSFER, MATRIX) if self.hlg else (ITU_709,) * 3

    @property
    def multiples(self) -> tuple[int, int]:
        """(x, y), each 1 or 2: the width must be a multiple of x, the height of y, for subsampled chroma."""
        if self.pixel_format.startswith("yuv420"):
            return 2, 2
        return (2, 1) if self.pixel_format.startswith("yuv422") else (1, 1)

    def check_size(self, width: int, height: int, fps: float) -> None:
        """Raise ValueError if the pixel format or the codec does not support this size, or the frame rate."""
        if fps > self.codec.max_fps:
            raise ValueError(f"{self.codec.title} holds at most {self.codec.max_fps:g} fps; got {fps:g}")
        columns, rows = self.multiples
        if width < columns or height < rows or width % columns or height % rows:
            needs = {
                (2, 2): "needs an even width and height",
                (2, 1): "needs an even width",
                (1, 1): "needs at least one pixel",
            }
            raise ValueError(f"{self.codec.title} {needs[self.multiples]}; got {width}x{height}")
        if min(width, height) < self.codec.min_side:
            raise ValueError(
                f"{self.codec.title} needs at least {self.codec.min_side} pixels in width and height; got "
                f"{width}x{height}"
            )


@dataclass(frozen=True, kw_only=True)
class AudioEncoding:
    """An audio codec and its bit rate in bits per second; the bit rate is None for a lossless codec."""

    codec: AudioCodec
    bit_rate: int | None


def video_encoding(fmt: Format, chosen: Encoding) -> VideoEncoding | None:
    """Return the video encoder and options for a kind of file, ``fmt``, with the user's choices, ``chosen``.

    Returns None for audio files. Raises ValueError that names the choice if this kind of file, or the
    installed PyAV, does not support it.
    """
    if not fmt.video:
        # An option without effect is an error, since the user would find out only from the finished file.
        _refuse(chosen, (*chosen.of_video, "hdr"), f"a {fmt.suffixes[0]} file holds audio alone")
        return None
    if fmt.name == "exr":
        return _exr_encoding(chosen)
    if chosen.hdr is not None:
        chosen = _master(fmt, chosen)
    name = _codec_name(fmt, chosen)
    codec = VIDEO[name]
    preset = _preset(codec, chosen)
    pixel_format = _pixel_format(codec, chosen, preset)
    options = dict(codec.options)
    if (crf := _crf(codec, chosen)) is not None:
        options["crf"] = str(crf)
    if preset is not None:
        options[codec.preset_option] = preset
    if name == "h264":
        # Without these options equal seeds would not give equal files on some machines.
        options.update(repeatable_options())
    if chosen.hdr is not None:
        options["x265-params"] += f":{_HLG_PARAMS}"
    # Apple's players recognise H.265 in these containers by this name alone.
    tag = "hvc1" if name == "h265" and fmt.name in ("mp4", "mov") else None
    encoding = VideoEncoding(
        codec=codec,
        pixel_format=PIXEL_FORMATS[pixel_format] if pixel_format else codec.stored_as or "",
        options=options,
        tag=tag,
        deep=pixel_format in DEEP,
        hlg=chosen.hdr is not None,
    )
    _check_encoder(encoding, chosen)
    return encoding


# The numbers of the container alone are not enough: players also read those in the stream.
_HLG_PARAMS = "colorprim=bt2020:transfer=arib-std-b67:colormatrix=bt2020nc:range=limited"
MASTER_CRF = 12
"""The constant rate factor of HLG masters, whose highlights show banding early."""


def _exr_encoding(chosen: Encoding) -> VideoEncoding:
    """Return how EXR images are encoded.

    Raises ValueError for an SDR clip, and if the library OpenEXR is missing.
    """
    if chosen.hdr is None:
        raise ValueError(
            "EXR images hold linear light, and this clip is SDR: choose a colour space for the run with hdr "
            f"(--hdr), one of {', '.join(HDR_NAMES)}, or write .png"
        )
    _refuse(chosen, chosen.of_video, "EXR images are always half floats compressed by ZIP")
    open_exr()
    return VideoEncoding(codec=VIDEO["exr"], pixel_format="", options={}, deep=True)


def _master(fmt: Format, chosen: Encoding) -> Encoding:
    """Return ``chosen`` with what an HDR video file needs: H.265, 10 bits a channel, a crf if it was None.

    The file is an HLG master (HDR in the form Hybrid Log-Gamma), with EXR images next to it. Raises
    ValueError for a kind of file that holds no HDR clip, for another codec or pixel format, and without the
    library OpenEXR.
    """
    if fmt.name not in MASTERS:
        holding = suffixes(FORMATS[name] for name in MASTERS)
        raise ValueError(
            f"hdr={chosen.hdr}: a {fmt.suffixes[0]} file holds 8 bits of standard range, which would clip "
            f"highlights: use {holding} for an HLG master, or .exr images"
        )
    # For the images next to the master.
    open_exr()
    for name, only in (("video_codec", "h265"), ("pixel_format", "yuv420p10")):
        if getattr(chosen, name) not in (None, only):
            raise ValueError(
                f"{name}={getattr(chosen, name)}: an HLG master is {only}, as players expect it: leave it out"
            )
    crf = MASTER_CRF if chosen.crf is None else chosen.crf
    return replace(chosen, video_codec="h265", pixel_format="yuv420p10", crf=crf)


def audio_encoding(fmt: Format, chosen: Encoding) -> AudioEncoding | None:
    """Return the audio codec and bit rate for a kind of file, ``fmt``, with the user's choices, ``chosen``.

    Returns None for kinds without audio. Raises ValueError that names the choice if this kind of file, or the
    installed PyAV, does not support it.
    """
    if fmt.audio is None:
        _refuse(chosen, ("audio_bitrate",), f"a {fmt.suffixes[0]} file holds no audio")
        return None
    # Some video codecs come with an audio codec of their own, such as ProRes with PCM for editing programs.
    own = VIDEO[_codec_name(fmt, chosen)].audio if fmt.video else None
    codec = AUDIO[own or fmt.audio]
    if not has_encoder(codec.encoder):
        raise ValueError(f"this PyAV has no {codec.title} encoder ({codec.encoder}), which {fmt.name} needs")
    if codec.bit_rate is None:
        _refuse(
            chosen,
            ("audio_bitrate",),
            f"{codec.title} in a {fmt.suffixes[0]} file is not compressed by a bit rate",
        )
        return AudioEncoding(codec=codec, bit_rate=None)
    low, high, usual = codec.bit_rate
    rate = usual if chosen.audio_bitrate is None else _bits(chosen.audio_bitrate)
    if not low <= rate <= high:
        raise ValueError(
            f"audio_bitrate={chosen.audio_bitrate}: {codec.title} takes {low // 1000}k to {high // 1000}k "
            f"bits a second; try {usual // 1000}k"
        )
    return AudioEncoding(codec=codec, bit_rate=rate)


def has_encoder(name: str) -> bool:
    """Whether the installed PyAV has the encoder that FFmpeg calls ``name``, such as "libx264"."""
    try:
        av.Codec(name, "w")
    except (ValueError, av.error.FFmpegError):
        return False
    return True


def check_encoding(fmt: Format, chosen: Encoding, *, audio_alone: bool = False) -> None:
    """Raise ValueError, before any work, if the kind of file ``fmt`` does not support the choices ``chosen``.

    ``audio_alone`` says that no frames will be written, so that choices for the video are refused too.
    """
    if audio_alone:
        _refuse(chosen, (*chosen.of_video, "hdr"), "there are no frames")
    else:
        video_encoding(fmt, chosen)
    audio_encoding(fmt, chosen)


def _refuse(chosen: Encoding, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if (value := getattr(chosen, name)) is not None:
            raise ValueError(f"{name}={value} has no effect, as {reason}: leave it out")


def _codec_name(fmt: Format, chosen: Encoding) -> str:
    name = fmt.video[0] if chosen.video_codec is None else chosen.video_codec
    if name in fmt.video:
        return name
    holders = [one for one in FORMATS.values() if name in one.video]
    if not holders:
        known = ", ".join(name for one in FORMATS.values() for name in one.video if name == one.video[0])
        raise ValueError(f"video_codec={name} is unknown; a {fmt.suffixes[0]} file takes {known}")
    raise ValueError(
        f"video_codec={name}: a {fmt.suffixes[0]} file cannot hold it; it takes {', '.join(fmt.video)}, and "
        f"{VIDEO[name].title} goes into {suffixes(holders)}"
    )


def _crf(codec: VideoCodec, chosen: Encoding) -> int | None:
    if codec.crf is None:
        _refuse(chosen, ("crf",), f"{codec.title} has no constant rate factor")
        return None
    low, high = codec.crf
    crf = codec.default_crf if chosen.crf is None else chosen.crf
    # bool is a subclass of int, so that True would be a crf of 1.
    if isinstance(crf, bool) or not isinstance(crf, int) or not low <= crf <= high:
        raise ValueError(
            f"crf={crf} must be {low} (best) to {high} for {codec.title}; try {codec.default_crf}"
        )
    return crf


def _preset(codec: VideoCodec, chosen: Encoding) -> str | None:
    preset = chosen.encoder_preset
    if not codec.presets:
        _refuse(chosen, ("encoder_preset",), f"{codec.title} has no presets")
    elif preset is not None and str(preset) not in codec.presets:
        raise ValueError(
            f"encoder_preset={preset} is unknown to {codec.title}: choose from {', '.join(codec.presets)}"
        )
    if preset is None and codec.preset_option == "profile" and chosen.pixel_format == "yuv444p10":
        # The pixel format has full chroma, which only the profiles named 4444 hold.
        return "4444"
    return codec.default_preset if preset is None else str(preset)


def _pixel_format(codec: VideoCodec, chosen: Encoding, preset: str | None) -> str | None:
    if not codec.pixel_formats:
        _refuse(chosen, ("pixel_format",), f"{codec.title} has its own")
        return None
    full = codec.preset_option == "profile" and str(preset).startswith("4444")
    # The profiles of ProRes fix how chroma is sampled.
    allowed = codec.pixel_formats[1:] if full else codec.pixel_formats
    if codec.preset_option == "profile" and not full:
        allowed = allowed[:1]
    chosen_format = allowed[0] if chosen.pixel_format is None else chosen.pixel_format
    if chosen_format not in allowed:
        with_preset = f" with the profile {preset}" if codec.preset_option == "profile" else ""
        raise ValueError(
            f"pixel_format={chosen_format}: {codec.title}{with_preset} takes {', '.join(allowed)}"
        )
    return chosen_format


def _bits(value: int | str) -> int:
    """Convert a bit rate, a number or a text such as "192k", to bits per second."""
    text = str(value).strip().lower()
    number, factor = (text[:-1], 1000) if text.endswith("k") else (text, 1)
    # Nine digits are far beyond every codec and bound what int() has to convert.
    if not number.isdecimal() or len(number) > 9:
        raise ValueError(f"audio_bitrate={value} must be bits a second, such as 192k or 192000")
    return int(number) * factor


def _check_encoder(encoding: VideoEncoding, chosen: Encoding) -> None:
    """Raise ValueError if the installed PyAV lacks the encoder or its pixel format.

    ``chosen`` is for the message. For AV1 this also sets the environment variable ``SVT_LOG``, if it is not
    set, so that the encoder prints nothing.
    """
    codec = encoding.codec
    if not has_encoder(codec.encoder):
        raise ValueError(
            f"video_codec={chosen.video_codec}: this PyAV has no {codec.title} encoder ({codec.encoder}); "
            "choose another codec"
        )
    known = [one.name for one in av.Codec(codec.encoder, "w").video_formats or ()]
    # An encoder that lists no formats takes what it is fed, and is left to report it.
    if known and encoding.pixel_format not in known:
        raise ValueError(
            f"pixel_format={chosen.pixel_format}: the {codec.title} encoder of this PyAV has not got it; "
            "choose another pixel format or codec"
        )
    if codec.encoder == "libsvtav1":
        # The only way to stop it from printing its configuration on stderr.
        os.environ.setdefault("SVT_LOG", "1")
