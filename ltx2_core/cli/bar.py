"""A progress bar for a whole job, with an estimate of the time that remains."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from tqdm import tqdm

from ..run.job import DECODE, Job, Part
from ..run.progress import Progress

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


class JobBar:
    """Draws on stderr how much is done of a job, such as one clip from loading to the finished file.

    ``bar`` is a tqdm bar from 0 to 1, and ``job`` computes which fraction is done. The methods are callbacks:
    pass ``show`` to a run as ``on_step``, ``frames`` to the saving of a file as ``on_frames``, and ``window``
    to a long clip as ``on_window``. With ``quiet``, ``window`` prints nothing.
    """

    def __init__(self, bar: Any, job: Job, *, quiet: bool) -> None:
        self._bar, self._job, self._quiet = bar, job, quiet

    def show(self, progress: Progress) -> None:
        """Redraw the bar for the report ``progress``; the text of the bar is such as "stage 1 3/8"."""
        self._draw(self._job.advance(progress), f"{progress.stage} {progress.step}/{progress.steps}")

    def frames(self, done: int, total: int) -> None:
        """Redraw the bar when ``done`` of ``total`` frames of the clip are decoded and encoded."""
        self.show(Progress(stage=DECODE, step=done, steps=total))

    def window(self, done: int, windows: int) -> None:
        """Print a line when ``done`` of ``windows`` windows of a long clip are finished; redraw the bar."""
        if self._quiet:
            return
        text = f"window {done} of {windows}"
        # A line printed over a drawn bar would be mixed with it.
        self._bar.clear()
        click.echo(text, err=True)
        # Part 0 of the job is the text, and each window is a part after it.
        self._draw(self._job.reach(1 + done), text)

    def _draw(self, share: float, text: str) -> None:
        # Set and not added to, since a share is absolute.
        self._bar.n = share
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()


@contextmanager
def job_bar(parts: Sequence[Part], *, quiet: bool) -> Iterator[JobBar]:
    """A context that yields the progress bar of a job that consists of ``parts``.

    With ``quiet`` the bar draws nothing.
    """
    with tqdm(total=1.0, bar_format=_FORMAT, desc="load", file=sys.stderr, disable=quiet) as bar:
        yield JobBar(bar, Job(parts), quiet=quiet)
