"""The folder in which finished windows (parts) of a long run are saved until the run's file is written.

If the run fails, a line names the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ..run.saved_latents import saved_windows
from ..storage.private import locked, private_folder, prune_saved
from .values import Output


@contextmanager
def windows_until_written(
    output: Output, *, again: str, fresh: bool = False, saved: Sequence[Path] = ()
) -> Iterator[Path]:
    """A context that yields the folder for finished windows (parts) of the clip written to ``output``.

    ``fresh`` first deletes what an earlier run left there. The folder, and that of :func:`spare_windows`, is
    deleted if the block succeeds. If the block fails and windows are saved, a line on stderr names the folder
    and says that ``again``, words such as "the same command", continues the run; the line is left out if
    ``saved``, the files with latents of the whole run, is not empty by then. Raises ValueError if another run
    writes to the same folder.
    """
    own, spare = saved_windows(output.text), spare_windows(output)
    prune_saved(private_folder(own.parent))
    with locked(own):
        if fresh:
            shutil.rmtree(own, ignore_errors=True)
        try:
            yield own
        # Ctrl+C, which is no Exception, leaves finished windows as well.
        except BaseException:
            both = filter(None, (own, spare))
            folders = [str(folder) for folder in both if any(folder.rglob("window_*"))]
            if folders and not saved:
                click.echo(
                    f"the finished windows are saved in {' and '.join(folders)}; {again} continues", err=True
                )
            raise
        # Only after the clip is saved: until then the windows are what a further call resumes from.
        shutil.rmtree(own, ignore_errors=True)
        if spare is not None:
            shutil.rmtree(spare, ignore_errors=True)


def spare_windows(output: Output) -> Path | None:
    """The folder next to the output for finished windows (parts of a long run), if their usual disk is full.

    None if the output is stdout.
    """
    path = output.destination.path
    return None if output.destination.is_stdout else path.with_name(f".{path.stem}.windows")
