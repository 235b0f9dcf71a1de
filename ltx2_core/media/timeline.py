"""Resamples a video to a constant rate: which stored frame is displayed at each frame of the clip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

USUAL_RATES = (
    *(Fraction(rate) for rate in (10, 12, 15, 20, 24, 25, 30, 48, 50, 60, 90, 100, 120, 144, 240)),
    *(Fraction(rate * 1000, 1001) for rate in (24, 30, 48, 60, 120, 240)),
)
"""Frame rates that a measured one is rounded to."""

LOWEST_FPS, HIGHEST_FPS = 10.0, 240.0
"""The range of the rate that a clip of variable rate is resampled to."""

PRIMING_S = 0.05
"""Up to this long the audio may begin before the video without delaying it.

Encoders put a few milliseconds of silence before the audio; the audio is cut there instead.
"""


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """Maps the frames of a clip of constant rate to the stored frames of a video stream.

    Frame ``k`` of the clip is displayed ``zero_s + k / fps`` seconds after the start of the file, and its
    time stamp in the stream is ``origin_s + k / fps`` seconds. ``zero_s`` is within half a frame of 0, or up
    to ``PRIMING_S``. ``times`` are the presentation times of the stored frames, ascending, in ticks of the
    stream. ``first_shown`` has for each of these the number of the clip's frame at which it first appears.
    ``by_count`` is True if decoded frames have no time stamps, so that they are identified by their order.
    The last ``repeated`` stored frames are empty and repeat the one before them. ``notes`` are sentences for
    reports that say what was changed.
    """

    fps: float
    frame_count: int
    zero_s: float
    origin_s: float
    times: NDArray[np.int64]
    first_shown: NDArray[np.int64]
    by_count: bool = False
    repeated: int = 0
    notes: tuple[str, ...] = field(default=())

    def stored(self, frame: int) -> int:
        """The number of the stored frame that is displayed at frame ``frame`` of the clip."""
        return max(int(np.searchsorted(self.first_shown, frame, side="right")) - 1, 0)

    def last_repeat(self, number: int) -> int:
        """The number of the last stored frame that repeats the stored frame ``number``.

        Frame ``number`` is the last one that was decoded. Empty frames at the end of a file repeat the frame
        before them. If none follow, ``number`` itself is returned.
        """
        end = len(self.times) - 1
        return end if number >= end - self.repeated else number

    def number_of(self, time: int) -> int:
        """The number of the stored frame whose presentation time is nearest to ``time`` (in ticks)."""
        after = int(np.searchsorted(self.times, time))
        # Containers round time stamps, so that the nearest frame is meant and not an equal one.
        if after == len(self.times) or (after and time - self.times[after - 1] <= self.times[after] - time):
            return after - 1
        return after

    def frame_at(self, seconds: float) -> int:
        """The number of the first frame that is displayed ``seconds`` after the clip's frame 0, or later.

        A frame that is displayed up to half a frame earlier counts too. Numbers begin at 0; a time after the
        end gives a number beyond the last frame.
        """
        # A start that was read off a player is rounded, and must not skip the frame that was meant.
        return max(math.ceil(seconds * self.fps - 0.5), 0)


def timeline_of(
    ticks: Sequence[int],
    tick_s: Fraction,
    *,
    start_s: float,
    last_ticks: int,
    declared: Sequence[Fraction | None],
    by_count: bool = False,
) -> Timeline:
    """Make the time line of a clip from the presentation times of its stored frames, in any order.

    ``ticks`` are these times in units of ``tick_s`` seconds. ``start_s`` is the time stamp, in seconds, of
    the start of the file. ``last_ticks`` is how many ticks the last frame is displayed (0 if unknown).
    ``declared`` are the frame rates that the file states, None where it states none. ``by_count`` says that
    decoded frames have no time stamps. If with one of the declared rates every frame is less than half a
    frame from its regular time, the rate is constant and each frame appears once. Otherwise the rate is that
    of most frames, rounded to a usual one (such as 24 or 30) if one is within 1 %, and at least 10; each
    frame of the clip is then the stored frame that is displayed at its time, within half a frame. If the
    video begins later than the file, its first frame also fills the time before it. Raises ValueError if no
    rate can be found.
    """
    # Sorted, since packets arrive in the order of decoding, not of presentation.
    times = _distinct(np.unique(np.asarray(ticks, np.int64)))
    relative = (times - times[0]).astype(np.float64) * float(tick_s)
    numbers = np.arange(len(times))
    # Declared rates come first, since a measured one is rounded by the ticks of the container.
    rate = next((r for r in (*declared, _common_rate(relative)) if r and _on_grid(relative, r)), None)
    # Half a frame of tolerance, because Matroska and FLV round times to milliseconds.
    constant = rate is not None
    if not constant and len(times) < 2:
        raise ValueError("it declares no frame rate")
    # Slide shows have a frame every few seconds, which is a rate the model was not trained on.
    fps = float(rate if rate is not None else max(_common_rate(relative) or 0, LOWEST_FPS))
    late_s = max(float(times[0] * tick_s) - start_s, 0.0)
    # Audio that begins a little earlier is the priming of its encoder and delays nothing.
    # Rounded, so that frame 0 is within half a frame of the start of the file.
    lead = 0 if late_s < PRIMING_S else math.floor(late_s * fps + 0.5)
    # For a constant rate frames are numbered, so that rounded time stamps neither drop nor repeat one.
    shown = numbers if constant else np.ceil(relative * fps - 0.5).astype(np.int64)
    length = len(times)
    if not constant:
        # A last frame of unknown length lasts for one frame of the clip.
        length = max(round((relative[-1] + last_ticks * float(tick_s)) * fps), int(shown[-1]) + 1)
    notes: tuple[str, ...] = () if constant else (_variable_note(relative, fps),)
    if lead:
        notes += (f"the video begins {late_s:.3f} s late: its first frame is shown until then",)
    return Timeline(
        fps=fps,
        frame_count=length + lead,
        zero_s=late_s - lead / fps,
        origin_s=float(times[0] * tick_s) - lead / fps,
        times=times,
        first_shown=shown + lead,
        by_count=by_count,
        notes=notes,
    )


def _distinct(times: NDArray[np.int64]) -> NDArray[np.int64]:
    """Drop the times of invisible frames: those followed by another within a twentieth of the usual gap.

    ``times`` are the presentation times of frames in ticks, ascending.
    """
    if len(times) < 3:
        return times
    # The median is not moved by a few invisible frames.
    gaps = np.diff(times)
    distinct: NDArray[np.int64] = times[np.append(gaps * 20 >= np.median(gaps), True)]
    return distinct


def _on_grid(relative: NDArray[np.float64], rate: Fraction) -> bool:
    away = np.abs(relative * float(rate) - np.arange(len(relative)))
    return bool(away.max() < 0.5)


def _common_rate(relative: NDArray[np.float64]) -> Fraction | None:
    """The frame rate of most frames, from the mean of those intervals that are near the median.

    ``relative`` are the times of the frames in seconds. The result is a usual rate, such as 24 or 30, if one
    is within 1 %; None for fewer than two frames.
    """
    if len(relative) < 2:
        return None
    gaps = np.diff(relative)
    # One of the intervals, and never the mean of two different ones.
    median = np.sort(gaps)[(len(gaps) - 1) // 2]
    # Intervals far from the median are pauses or cuts, and would falsify the mean.
    rate = min(1 / float(gaps[np.abs(gaps - median) <= median / 4].mean()), HIGHEST_FPS)
    nearest = min(USUAL_RATES, key=lambda usual: abs(float(usual) - rate))
    # One percent is more than the rounding to milliseconds gives, and 23.976 and 24 are decided by distance.
    near = abs(float(nearest) - rate) < 0.01 * rate
    return nearest if near else Fraction(rate).limit_denominator(1000)


def _variable_note(relative: NDArray[np.float64], fps: float) -> str:
    gaps = np.diff(relative)
    slowest, fastest = 1 / gaps.max(), 1 / gaps.min()
    return (
        f"the frame rate varies from {slowest:.4g} to {fastest:.4g} fps: resampled by time stamp to a "
        f"constant {fps:.6g} fps"
    )
