"""The command ``ltx2 long``: samples a clip of any length window by window, and can resume it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from .image_size import size_by_image
from .options import Chosen, command
from .prompt_files import read_text
from .shot_list import long_shots, shot_files, with_loras

if TYPE_CHECKING:
    from ..editing.conditioning import Keyframe
    from ..editing.long_options import WindowArguments
    from ..media.images import Colour
    from ..run.flat_options import RequestFields
    from ..run.pipeline import LTX2Pipeline
    from ..storage.files import ParsedJson
    from ..text.schedule import PromptSchedule
    from .saving import LongArguments
    from .values import Output


_WINDOWS: Final[Mapping[str, str]] = {
    "window_frames": "window_frames",
    "overlap_frames": "overlap_frames",
    "overlap_strength": "overlap_strength",
    "adain": "adain_factor",
    "source_strength": "source_strength",
    "denoise": "denoise",
}
"""Options that divide a long clip into windows -> the names of the arguments of ``LongVideo``."""


@command("long")
def long(chosen: Chosen) -> None:
    """Generate a clip of any length, window by window; memory does not grow with the length."""
    run_long(chosen)


def run_long(chosen: Chosen) -> None:
    """Generate a long clip, or repeat that of ``--from-file``; with ``--dry-run`` only print its plan."""
    from ..out_of_memory import is_out_of_memory

    try:
        path = _generated(chosen)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise click.ClickException(f"memory ran out: {error}") from error
    if path is not None:
        click.echo(path)


def _generated(chosen: Chosen) -> str | None:
    """Sample the windows (parts of the clip) that are not finished yet, save the clip, and return its path.

    Returns None with ``--dry-run``, which prints the plan instead, and if the clip is written to stdout.
    """
    from .own_inputs import check_apart, named_files, recorded_files, written
    from .repeat import check_command, open_recorded, settings_of
    from .saving import run_long as run
    from .values import Output

    chosen = with_loras(chosen)
    recorded = None if chosen["from_file"] is None else settings_of(chosen["from_file"])
    if recorded is not None:
        check_command(recorded, "long", chosen["from_file"])
    # Checked here and not by click, because --from-file holds the prompts too; the words are those of click.
    elif chosen["prompts"] is None and chosen["shots"] is None:
        raise click.UsageError("Missing option '--prompts'.")
    chosen.check()
    state: Path | None = chosen["state"]
    if state is not None and state.exists() and not state.is_dir():
        raise ValueError(f"--state {state} is not a folder: name a new or an existing folder for the windows")
    output = Output.of(chosen)
    output.check()
    inputs = (*named_files(chosen), *shot_files(chosen), *recorded_files(recorded, chosen))
    check_apart(written(output.destination), inputs)
    if chosen["dry_run"]:
        _print_long(chosen, open_recorded(chosen, recorded), recorded)
        return None
    with _folder_of_windows(chosen, output) as folder:
        pipeline = open_recorded(chosen, recorded)
        run(pipeline, _arguments(chosen, pipeline, recorded), folder, output)
    return output.printed


def _arguments(chosen: Chosen, pipeline: LTX2Pipeline, recorded: ParsedJson | None) -> LongArguments:
    """Return the prompts, the division of the clip into windows, and the fields of a request by name.

    Values come from the command line if they are written there, else from ``recorded``, the settings of the
    file of ``--from-file`` (None without that option), else from the defaults.
    """
    from ..media.images import parse_colour
    from .repeat import long_video_of, repeated_long
    from .values import request_fields

    fields = request_fields(chosen, pipeline)
    # A request with ``denoise`` needs latents, which only the windows have: LongVideo passes it to them.
    fields.pop("denoise", None)
    source: Path | None = chosen["source"]
    shots: PromptSchedule | None = None
    if chosen["shots"] is not None:
        shots, fields = long_shots(chosen, pipeline, fields)
    if recorded is None:
        if source is None:
            size_by_image(chosen, fields, pipeline.recipe)
        background = parse_colour(chosen["background"])
        windows = _windows(chosen, _WINDOWS, fields, background)
        prompts = shots if shots is not None and chosen["prompts"] is None else _prompts(chosen)
        return prompts, long_video_of(windows, source, background=background), fields
    before = repeated_long(recorded, fields, source=source)
    fields = {**before.fields, **fields}
    background = parse_colour(fields.get("background", chosen["background"]))
    written = _windows(chosen, _WINDOWS.keys() & chosen.explicit.keys(), fields, background)
    prompts = before.prompts if chosen["prompts"] is None else _prompts(chosen)
    how = long_video_of({**before.windows, **written}, before.source, background=background)
    return prompts, how, fields


def _windows(
    chosen: Chosen, options: Iterable[str], fields: RequestFields, background: Colour
) -> WindowArguments:
    """Return keyword arguments of ``LongVideo``: the values of ``options``, and the keyframes of the clip.

    ``options`` are names of options; ``chosen`` has their values. Keyframes are the images in ``fields``,
    those of a request, that have a frame number; they are removed from ``fields``. Their transparent pixels
    are blended with ``background``, RGB in [0, 1].
    """
    windows = {_WINDOWS[option]: chosen[option] for option in options}
    return cast("WindowArguments", {**windows, "keyframes": _keyframes(fields, background)})


def _keyframes(fields: RequestFields, background: Colour) -> tuple[Keyframe, ...]:
    """Remove the images that have a frame number from ``fields``, those of a request, and load them.

    Each becomes a keyframe at its frame of the long clip. Transparent pixels are blended with ``background``,
    RGB in [0, 1].
    """
    from ..editing.conditioning import Keyframe
    from ..media import load_image

    return tuple(
        Keyframe(
            frames=load_image(image.source, background=background),
            frame=image.frame,
            strength=image.strength,
            path=image.source if isinstance(image.source, str | PathLike) else None,
        )
        for image in fields.pop("images", ())
    )


def _print_long(chosen: Chosen, pipeline: LTX2Pipeline, recorded: ParsedJson | None) -> None:
    from ..editing.long_video import planned_long
    from .plan import print_long

    prompts, how, fields = _arguments(chosen, pipeline, recorded)
    plan, request, by_recipe = planned_long(pipeline, prompts, how, **fields)
    print_long(pipeline, plan, request, by_recipe)


def _prompts(chosen: Chosen) -> str:
    """The text of ``--prompts``; if it begins with @, the content of the file that it names."""
    text: str = chosen["prompts"]
    if not text.startswith("@"):
        return text
    if not text[1:].strip():
        raise ValueError("--prompts @ names no file: write its path after the @")
    return read_text(Path(text[1:]), "--prompts")


@contextmanager
def _folder_of_windows(chosen: Chosen, output: Output) -> Iterator[Path]:
    """A context that yields the folder in which finished windows are saved.

    It is the folder of ``--state``, which stays, or else a private folder that belongs to the output's name
    and is deleted if the block succeeds. Raises ValueError for ``--resume`` without ``--state`` if no windows
    are saved.
    """
    from ..run.saved_latents import saved_windows
    from .windows import windows_until_written

    # A folder that the user named stays; only the temporary one belongs to the command.
    if chosen["state"] is not None:
        yield chosen["state"]
        return
    if chosen["resume"] and not saved_windows(output.text).is_dir():
        raise ValueError(f"no windows of {chosen['output']} are saved: run the command without --resume")
    again = "the same command with --resume"
    with windows_until_written(output, again=again, fresh=not chosen["resume"]) as folder:
        yield folder
