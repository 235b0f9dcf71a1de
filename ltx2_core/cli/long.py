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


MAX_PROMPTS_BYTES = 2**20
"""The largest file of prompts: a day of a prompt each second."""


@command("long")
def long(chosen: Chosen) -> None:
    """Generate a clip of any length, window by window, with memory that does not grow with it."""
    click.echo(str(_generated(chosen).resolve()))


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
            on_window=lambda done, windows: click.echo(f"window {done} of {windows}", err=True),
            **fields,
        )
        result.save(output)
    return output


def _prompts(chosen: Chosen) -> str:
    """The prompts, read from a file after an @, with the trigger word in place."""
    text: str = chosen["prompts"]
    if text.startswith("@"):
        text = _text_of(Path(text[1:]))
    return text if chosen["trigger"] is None else text.replace("[trigger]", chosen["trigger"])


def _text_of(file: Path) -> str:
    """The prompts in a file. Raises ValueError for a file that is too large, empty or no text."""
    # A pipe would block for ever.
    if not file.is_file():
        raise FileNotFoundError(f"no file of prompts at {file}")
    with file.open("rb") as stream:
        content = stream.read(MAX_PROMPTS_BYTES + 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts @{file} is not text in UTF-8: {error}") from None
    if len(content) > MAX_PROMPTS_BYTES or not text.strip():
        what = "holds no prompt" if not text.strip() else f"is larger than {MAX_PROMPTS_BYTES} bytes"
        raise ValueError(f"--prompts @{file} {what}")
    return text


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
            if any(own.glob("window_*")):
                click.echo(
                    "the finished windows are saved; the same command with --resume continues", err=True
                )
            raise
        shutil.rmtree(own)
