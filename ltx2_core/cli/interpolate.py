"""The command ``ltx2 interpolate``: doubles the frame rate of a video and copies its audio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .options import Chosen, command

if TYPE_CHECKING:
    from pathlib import Path

    from ..editing.footage import Footage
    from ..editing.interpolate import Doubled
    from ..media.images import Colour
    from ..run.pipeline import LTX2Pipeline
    from .values import Output


@command("interpolate", argument="source")
def interpolate(chosen: Chosen) -> None:
    """Double the frame rate of a video, 24 to 48: a new frame between every two. Its audio is copied."""
    from ..editing.interpolate import interpolate as planned
    from ..media.images import parse_colour
    from ..run.options import by_name
    from .own_inputs import check_apart, named_files, written
    from .values import Output, open_pipeline

    for name in ("source", "temporal_upscaler"):
        if chosen[name] is None:
            raise click.UsageError(f"Missing option '{by_name(name).flag}'.")
    chosen.check()
    output = Output.of(chosen)
    output.check()
    check_apart(written(output.destination), named_files(chosen))
    pipeline = open_pipeline(chosen)
    upscaler = pipeline.temporal_upscaler
    assert upscaler is not None
    doubled = planned(pipeline, _footage(chosen["source"], parse_colour(chosen["background"])), upscaler)
    doubled.check(output.destination, output.encoding)
    output.check_clip(doubled.plan)
    _note_left_out(doubled, output)
    if chosen["dry_run"]:
        _print(pipeline, doubled)
        return
    _run(pipeline, doubled, output)
    if output.printed is not None:
        click.echo(output.printed)


def _footage(path: Path, background: Colour) -> Footage:
    """Open the video ``path`` without its audio, whose packets are copied and never decoded.

    Transparent pixels are blended with ``background``, RGB in [0, 1].
    """
    from ..editing.footage import Footage
    from ..media import read_video
    from ..media.clip_frames import ClipFrames

    clip = read_video(path, background=background)
    clip.check_not_empty()
    return Footage(frames=ClipFrames.of(clip), fps=clip.fps, notes=clip.notes)


def _note_left_out(doubled: Doubled, output: Output) -> None:
    """Print a line that names the tracks of the source which the new file cannot hold, such as subtitles."""
    from ..media.other_tracks import left_out

    file, fmt = doubled.source.file, output.destination.format
    if file is not None and file.path.is_file() and fmt.video and fmt.audio:
        note = left_out(file.path, fmt)
        if note is not None:
            click.echo(note, err=True)


def _print(pipeline: LTX2Pipeline, doubled: Doubled) -> None:
    """Print the plan for ``--dry-run``: source, result, model files and predicted memory."""
    from ..memory import size_text

    source = doubled.source
    name = "frames" if source.file is None else source.file.path
    click.echo(
        f"source    {name}: {source.size[0]}x{source.size[1]}, {len(source.frames)} frames at "
        f"{source.fps:g} fps, {source.seconds:.3f} s"
    )
    for note in source.notes:
        click.echo(f"          {note}")
    click.echo("double    " + doubled.describe().replace("\n", "\n          "))
    for file in (*pipeline.networks.checkpoints, doubled.upscaler):
        held = ", ".join(sorted(str(component) for component in file.components))
        click.echo(f"files     {file.path}: {held}")
    memory = doubled.memory()
    for entry in memory:
        click.echo(f"memory    {entry.stage}: {size_text(entry.activations)} activations")
    peak = max(memory, key=lambda entry: entry.total)
    click.echo(
        f"peak      about {size_text(peak.total)} in {peak.stage}, {size_text(peak.weights)} of it weights"
    )


def _run(pipeline: LTX2Pipeline, doubled: Doubled, output: Output) -> None:
    """Make and save the clip, with a progress bar on stderr."""
    from ..run.job import DECODE, Part
    from .bar import job_bar
    from .summary import report

    with job_bar((Part(DECODE, 1.0),), quiet=output.quiet) as bar:
        doubled.save(
            output.destination,
            on_frames=bar.frames,
            timed=pipeline.networks.clock.timed,
            **output.encoding.chosen(),
        )
    report(output, doubled.as_clip(), pipeline.networks.clock, seed=None, embedded=False)
