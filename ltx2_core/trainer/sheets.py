"""Contact sheets of a dataset: what is left of each clip after it is scaled and cut."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from ..media.sheet import write_sheet
from .dataset import OnItem, Plan
from .media_clips import PlannedClip, read_frames
from .report import place_of

ROWS = 30
"""Clips of one sheet."""


def write_sheets(plan: Plan, folder: Path, on_item: OnItem | None = None) -> list[Path]:
    """Write the first, middle and last frame of each clip, as they are trained, to PNG files in ``folder``.

    There is at least one for each size of clips; clips of audio alone are in none. Raises ValueError for
    files that cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clips = [clip for clip in plan.clips if clip.bucket is not None]
    written = []
    done = 0
    for name in sorted({clip.name for clip in clips}):
        own = [clip for clip in clips if clip.name == name]
        for number, first in enumerate(range(0, len(own), ROWS), start=1):
            rows: list[tuple[str, Tensor]] = []
            for clip in own[first : first + ROWS]:
                if on_item is not None:
                    on_item("sheets", done, len(clips))
                done += 1
                rows.append(_row(clip))
            written.append(folder / f"{name}_{number}.png")
            write_sheet(rows, written[-1])
    return written


def _row(clip: PlannedClip) -> tuple[str, Tensor]:
    assert clip.bucket is not None
    last = clip.bucket.frames - 1
    frames = read_frames(clip, sorted({0, last // 2, last}))
    # Its caption says whether it belongs to the frames.
    return f"{place_of(clip)}: {clip.row.captions[0]}", (frames * 255).round().byte()
