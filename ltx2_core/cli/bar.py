"""One progress bar for a whole job, with the time that is left."""

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
    """The bar of a job on stderr; ``show`` is the callback of a run, ``frames`` that of a file."""

    def __init__(self, bar: Any, job: Job, *, quiet: bool) -> None:
        self._bar, self._job, self._quiet = bar, job, quiet

    def show(self, progress: Progress) -> None:
        """Show a step of a part."""
        self._draw(self._job.advance(progress), f"{progress.stage} {progress.step}/{progress.steps}")

    def frames(self, done: int, total: int) -> None:
        """Show frames that are decoded and encoded."""
        self.show(Progress(stage=DECODE, step=done, steps=total))

    def window(self, done: int, windows: int) -> None:
        """Show the windows of a long clip that are finished, with a line for each."""
        if self._quiet:
            return
        text = f"window {done} of {windows}"
        self._bar.clear()
        click.echo(text, err=True)
        # Before the windows comes the text.
        self._draw(self._job.reach(1 + done), text)

    def _draw(self, share: float, text: str) -> None:
        self._bar.n = share
        self._bar.set_description_str(text, refresh=False)
        self._bar.refresh()


@contextmanager
def job_bar(parts: Sequence[Part], *, quiet: bool) -> Iterator[JobBar]:
    """The bar of a job of these parts; with ``quiet`` nothing is shown."""
    with tqdm(total=1.0, bar_format=_FORMAT, desc="load", file=sys.stderr, disable=quiet) as bar:
        yield JobBar(bar, Job(parts), quiet=quiet)
