"""Prints a summary once a file is written: what it is, how long each part took, and what to try next."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from ..clock import Clock
from ..media import Destination, Encoding
from ..media.encoding import video_encoding
from ..media.save import Clip
from .values import Output


def report(output: Output, clip: Clip, clock: Clock, *, seed: int | None, embedded: bool) -> None:
    """Print on stderr what was written and how long the run took; unless quiet, also commands to try next.

    ``clock`` has the seconds of the run; ``seed`` is None if the clip has none. ``embedded`` says that the
    tiny model of the package made the clip.
    """
    # On stderr, because stdout holds the path of the file alone.
    click.echo(made_line(output.destination, clip, output.encoding, seed), err=True)
    click.echo(time_line(clock), err=True)
    if not output.quiet:
        for line in next_lines(output.destination, clip, seed, embedded=embedded):
            click.echo(line, err=True)


def made_line(destination: Destination, clip: Clip, encoding: Encoding, seed: int | None) -> str:
    """A line with the path, the size and length of the clip, the size of the file, and the seed.

    ``seed`` None leaves the seed out.
    """
    video = video_encoding(destination.format, encoding)
    parts = []
    if clip.frames is not None and video is not None:
        parts += [f"{clip.width}x{clip.height}", f"{clip.frame_count} frames at {clip.fps:g} fps"]
    parts.append(f"{clip.frame_count / clip.fps:.2f} s")
    if (size := file_bytes(destination)) is not None:
        parts.append(size_text(size))
    if seed is not None:
        parts.append(f"seed {seed}")
    return f"{destination}: {', '.join(parts)}"


def time_line(clock: Clock) -> str:
    """A line with the seconds of the whole run and of its parts, such as "12.3 s: load 4.0, sampling 7.1"."""
    total, parts = clock.total, clock.seconds()
    rest = total - sum(parts.values())
    # Less than 0.05 s would be printed as 0.0.
    named = [f"{part} {seconds:.1f}" for part, seconds in {**parts, "other": rest}.items() if seconds >= 0.05]
    return f"{total:.1f} s" + (f": {', '.join(named)}" if named else "")


def next_lines(destination: Destination, clip: Clip, seed: int | None, *, embedded: bool) -> Iterator[str]:
    """Yield lines that suggest commands to try next with the written file, such as to extend it.

    ``seed`` is that of the clip, None if it has none. ``embedded`` says that the tiny model of the package
    made the clip.
    """
    # The middle third of the clip, in tenths of a second, so that the command works as it is printed.
    seconds = clip.frame_count / clip.fps
    start, end = int(10 * seconds / 3) / 10, int(20 * seconds / 3) / 10
    fmt = destination.format
    if fmt.video and fmt.audio and not destination.is_stdout:
        # Quoted, so that the line can be pasted into a shell.
        name = shlex.quote(str(destination))
        yield f'next: ltx2 extend --video {name} --seconds 1 --prompt "..." makes it longer'
        region = f"--video-region {start:g}-{end:g}"
        yield f'      ltx2 retake --video {name} {region} --prompt "..." regenerates seconds of it'
    if seed is not None:
        yield f"{'      ' if fmt.video and fmt.audio and not destination.is_stdout else 'next: '}" + (
            f"--seed {seed + 1} gives another take"
        )
    if embedded:
        yield "      made by the tiny model of the package; --checkpoint names released weights"


def file_bytes(destination: Destination) -> int | None:
    """The size in bytes of the file, or of all images; None for stdout."""
    if destination.is_stdout:
        return None
    if not destination.is_images:
        return destination.path.stat().st_size
    return sum(path.stat().st_size for path in destination.images())


def size_text(size: int) -> str:
    """A size in bytes as text with a unit of 1000, 10**6 or 10**9 bytes, such as "84 kB"."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{max(1, round(size / 1000))} kB"
