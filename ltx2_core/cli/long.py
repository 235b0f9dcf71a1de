"""``ltx2 long``: a clip of any length, window by window, that survives being stopped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Chosen, command

if TYPE_CHECKING:
    from ..editing import LongVideo


@command("long")
def long(chosen: Chosen) -> None:
    """Generate a clip of any length, window by window, with memory that does not grow with it."""
    from ..out_of_memory import is_out_of_memory

    try:
        path = _generated(chosen)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise click.ClickException(f"memory ran out: {error}") from error
    click.echo(str(path.resolve()))


def _generated(chosen: Chosen) -> Path:
    """Sample the windows that are missing, and save; returns the path of the file."""
    from ..editing import long_video
    from ..media import check_output
    from .values import open_pipeline, request_fields

    chosen.check()
    output: Path = chosen["output"]
    check_output(output)
    with _folder_of_windows(chosen) as folder:
        pipeline = open_pipeline(chosen)
        fields = request_fields(chosen, pipeline)
        # A request with it needs latents, which only windows have: LongVideo takes it to them.
        fields.pop("denoise", None)
        result = long_video(
            pipeline,
            _prompts(chosen),
            how=_how(chosen),
            folder=folder,
            spare=_spare(output),
            on_window=lambda done, windows: click.echo(f"window {done} of {windows}", err=True),
            **fields,
        )
        result.save(output)
    shutil.rmtree(_spare(output), ignore_errors=True)
    return output


def _spare(output: Path) -> Path:
    """Where windows go if the disk of their folder is full: next to the output."""
    return output.with_name(f".{output.stem}.windows")


def _prompts(chosen: Chosen) -> str:
    """The prompts, read from a file after an @, with the trigger word in place."""
    text: str = chosen["prompts"]
    if text.startswith("@"):
        text = Path(text[1:]).read_text(encoding="utf-8")
    return text if chosen["trigger"] is None else text.replace("[trigger]", chosen["trigger"])


def _how(chosen: Chosen) -> LongVideo:
    """How the clip is cut into windows, and the source that it follows."""
    from ..editing import FramesInFile, LongVideo

    return LongVideo(
        window_frames=chosen["window_frames"],
        overlap_frames=chosen["overlap_frames"],
        overlap_strength=chosen["overlap_strength"],
        adain_factor=chosen["adain"],
        source=None if chosen["source"] is None else FramesInFile.open(chosen["source"]),
        source_strength=chosen["source_strength"],
        denoise=chosen["denoise"],
    )


@contextmanager
def _folder_of_windows(chosen: Chosen) -> Iterator[Path]:
    """The folder of --state, or one of this clip that is removed when its file is written.

    Raises ValueError for --resume without finished windows.
    """
    from ..run.saved_latents import saved_windows
    from ..storage.private import locked, private_folder, prune_saved

    if chosen["state"] is not None:
        yield chosen["state"]
        return
    own = saved_windows(chosen["output"])
    prune_saved(private_folder(own.parent))
    with locked(own):
        if not chosen["resume"]:
            shutil.rmtree(own, ignore_errors=True)
        elif not own.is_dir():
            raise ValueError(f"no windows of {chosen['output']} are saved: run the command without --resume")
        try:
            yield own
        # Ctrl+C, which is no Exception, leaves finished windows as well.
        except BaseException:
            folders = [str(f) for f in (own, _spare(chosen["output"])) if any(f.glob("window_*"))]
            if folders:
                click.echo(
                    f"the finished windows are saved in {' and '.join(folders)}; "
                    "the same command with --resume continues",
                    err=True,
                )
            raise
        shutil.rmtree(own)
