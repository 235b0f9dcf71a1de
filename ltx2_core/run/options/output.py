"""Options of the output file, and of what is shown."""

from __future__ import annotations

from collections.abc import Iterator

from ...formats import PIXEL_FORMATS, STREAMED, VIDEO_CODECS
from .option import Option


def output_options() -> Iterator[Option]:
    """Options of the output file, resuming, dry run and progress."""
    group = "output"
    yield Option(
        name="output",
        flags=("-o", "--output"),
        kind="text",
        group=group,
        metavar="FILE",
        help="What to write, as the name says: .mp4, .mov, .mkv, .webm; .gif, .webp, a folder for PNG frames "
        "(frames/) or numbered PNGs (f_%05d.png), all without audio; .wav, .flac, .mp3, .m4a for the audio "
        "alone; - for stdout.",
        default="ltx2.mp4",
    )
    yield from _encoding_options(group)
    yield Option(
        name="resume",
        flags=("--resume",),
        kind="flag",
        group=group,
        help="Decode the saved latents of a run that failed after sampling: that of --output, or the newest. "
        "With ltx2 long and the same options: continue after the last finished window.",
        default=False,
    )
    yield Option(
        name="dry_run",
        flags=("--dry-run",),
        kind="flag",
        group=group,
        help="Print sizes, tokens, sigmas, the recipe and predicted memory, and stop.",
        default=False,
    )
    yield Option(
        name="quiet",
        flags=("-q", "--quiet"),
        kind="flag",
        group=group,
        help="No progress bar, and at the end no line that says what to try next.",
        default=False,
    )


def _encoding_options(group: str) -> Iterator[Option]:
    """How the output file is encoded."""
    yield Option(
        name="container",
        flags=("--container",),
        kind="choice",
        group=group,
        choices=STREAMED,
        help="Kind of file for -o -, which has no name that says it; by default mp4 (fragmented), wav for audio "
        "alone.",
    )
    yield Option(
        name="video_codec",
        flags=("--video-codec",),
        kind="choice",
        group=group,
        choices=VIDEO_CODECS,
        help="Video codec; by default h264, in .webm vp9. ProRes goes into .mov and .mkv. With ltx2 sound it "
        "encodes the video again, which is copied without it.",
    )
    yield Option(
        name="crf",
        flags=("--crf",),
        kind="int",
        group=group,
        range=(0, 63),
        help="Constant rate factor: lower is better and larger. To 51 with h264 (by default 18) and h265 (20), "
        "to 63 with av1 and vp9 (24).",
    )
    yield Option(
        name="encoder_preset",
        flags=("--encoder-preset",),
        kind="text",
        group=group,
        metavar="NAME",
        help="Time for size, as the encoder calls it: ultrafast to veryslow with h264 and h265, 0 (slow) to 13 "
        "with av1, best, good or realtime with vp9; the profile of ProRes, proxy to 4444xq.",
    )
    yield Option(
        name="pixel_format",
        flags=("--pixel-format",),
        kind="choice",
        group=group,
        choices=tuple(PIXEL_FORMATS),
        help="How pixels are stored; formats that end in 10 or 48 have 10 and 16 bits, from the float frames "
        "of the decoder.",
    )
    yield Option(
        name="audio_bitrate",
        flags=("--audio-bitrate",),
        kind="text",
        group=group,
        metavar="BITS",
        help="Bits a second of compressed audio, such as 192k or 192000.",
    )
