"""Declares the options for the output file and for what a command prints."""

from __future__ import annotations

from collections.abc import Iterator

from ...formats import HDR_NAMES, PIXEL_FORMATS, STREAMED, VIDEO_CODECS
from .option import Option


def output_options() -> Iterator[Option]:
    """Yield the options for the output file, resuming, the dry run and the progress bar."""
    group = "output"
    yield Option(
        name="output",
        flags=("-o", "--output"),
        kind="text",
        group=group,
        metavar="FILE",
        help="File to write; its suffix decides the kind. Video with audio: .mp4, .mov, .mkv, .webm. Frames "
        "without audio: .gif, .webp, a folder for PNG frames (frames/), or numbered PNGs (f_%05d.png). Audio "
        "alone: .wav, .flac, .mp3, .m4a. - is stdout.",
        default="ltx2.mp4",
    )
    yield Option(
        name="hdr",
        flags=("--hdr",),
        kind="choice",
        group=group,
        choices=HDR_NAMES,
        help="Make an HDR clip, in this colour space: srgb-linear (linear light of BT.709), acescg (linear "
        "light of ACEScg) or acescct (its log codes). It is also the colour space of EXR images in --image, "
        "--keyframe, --control (there a folder) and the --video of ltx2 retake (a folder). -o clip.mp4, .mov "
        "or .mkv writes a 10-bit HLG master, and next to it the folder clip_exr/ of half-float EXR images; "
        "-o frames/ or f_%05d.exr writes the images alone. Frames are decoded in float32.",
        request=True,
    )
    yield from _encoding_options(group)
    yield Option(
        name="resume",
        flags=("--resume",),
        kind="flag",
        group=group,
        help="Finish a run that failed after sampling: decode its saved latents without sampling again. "
        "--output names the file of that run; without --output the newest such run is finished. ltx2 long "
        "continues after the last finished window instead; repeat all options of the stopped run.",
        default=False,
    )
    yield Option(
        name="dry_run",
        flags=("--dry-run",),
        kind="flag",
        group=group,
        help="Print what would run and stop without loading weights: sizes, number of tokens, noise levels, "
        "the default settings chosen for this checkpoint (its recipe), and the predicted memory.",
        default=False,
    )
    yield Option(
        name="quiet",
        flags=("-q", "--quiet"),
        kind="flag",
        group=group,
        help="Print no progress bar and no suggestions of what to try next.",
        default=False,
    )


def _encoding_options(group: str) -> Iterator[Option]:
    """Yield the options that choose how the output file is encoded.

    ``group`` is the key in ``GROUPS`` of their heading in ``--help``.
    """
    yield Option(
        name="container",
        flags=("--container",),
        kind="choice",
        group=group,
        choices=STREAMED,
        help="Kind of file to write to stdout (-o -), such as mkv. By default mp4 (fragmented), or wav for "
        "audio alone.",
    )
    yield Option(
        name="video_codec",
        flags=("--video-codec",),
        kind="choice",
        group=group,
        choices=VIDEO_CODECS,
        help="Video codec. By default h264, and vp9 in .webm; prores needs .mov or .mkv. ltx2 sound copies "
        "the video of its source unless a codec is named, which encodes it again.",
    )
    yield Option(
        name="crf",
        flags=("--crf",),
        kind="int",
        group=group,
        range=(0, 63),
        help="Quality of the video (constant rate factor): lower is better and makes a larger file. The "
        "range is 0 to 51 for h264 (by default 18) and h265 (20), 0 to 63 for av1 and vp9 (24).",
    )
    yield Option(
        name="encoder_preset",
        flags=("--encoder-preset",),
        kind="text",
        group=group,
        metavar="NAME",
        help="How much time the encoder spends to make the file smaller: ultrafast to veryslow for h264 and "
        "h265; 0 (slowest) to 13 for av1; best, good or realtime for vp9. For ProRes it is the profile, "
        "proxy to 4444xq.",
    )
    yield Option(
        name="pixel_format",
        flags=("--pixel-format",),
        kind="choice",
        group=group,
        choices=tuple(PIXEL_FORMATS),
        help="Pixel format of the encoded video, such as yuv420p. Names that end in 10 or 48 store 10 or 16 "
        "bits a channel in place of 8, taken from the decoder's float frames.",
    )
    yield Option(
        name="audio_bitrate",
        flags=("--audio-bitrate",),
        kind="text",
        group=group,
        metavar="BITS",
        help="Bit rate of compressed audio in bits per second, such as 192k or 192000.",
    )
