"""Runs a request, an edit or a long clip and saves the result, with a progress bar on stderr.

The sampled latents are stored on disk before they are decoded, and deleted once the file is written, so that
a failed decode can be resumed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import click
from torch import Tensor

from ..editing import Edit, EditTask, LongVideo, PromptSchedule, long_video
from ..editing.long_video import first_window, planned_long
from ..editing.task import FIXED, EditArguments, EditKind
from ..loading import Checkpoint
from ..media import Destination, Encoding
from ..media.save import Clip, audio_clip, save_clip
from ..out_of_memory import OutOfMemory, is_out_of_memory
from ..run.flat_options import RequestFields, RequestOptions
from ..run.frame_rate import at_double_rate, double_rate
from ..run.generation import METADATA_KEY, Generation
from ..run.image_checks import ImageChecks
from ..run.job import job_parts
from ..run.pipeline import LTX2Pipeline, Progress
from ..run.request import Request
from ..run.saved_latents import (
    remove_saved,
    save_latents,
)
from ..storage.files import JsonObject
from ..tiny import embedded_set
from .bar import JobBar, job_bar
from .summary import report
from .values import Output
from .windows import spare_windows, windows_until_written

LongArguments: TypeAlias = "tuple[str | PromptSchedule, LongVideo, RequestFields]"
"""What a long clip is made from: its prompts, its division into windows, and the fields of a request."""


def run(pipeline: LTX2Pipeline, request: Request, output: Output, doubler: Checkpoint | None = None) -> None:
    """Sample and save a clip, with a progress bar on stderr.

    ``doubler`` is a temporal upscaler that doubles the frame rate of the sampled clip. The sampled latents
    are saved until the file is written, so that a failed decode can be resumed.
    """
    stages = pipeline.stages(request)
    if request.size.video:
        # An encoder may refuse a size, which would otherwise appear after minutes of sampling.
        clip = stages[-1].finished
        output.check_clip(clip if doubler is None else at_double_rate(clip))
    with (
        job_bar(job_parts(stages), quiet=output.quiet) as bar,
        saved_until_written("generate", output) as saved,
    ):
        generation = pipeline(request, on_step=bar.show)
        if doubler is not None:
            generation = double_rate(generation, doubler)
        # Saved before decoding, which may run out of memory after minutes of sampling.
        _save_latents(saved, pipeline, generation, output)
        checks = ImageChecks.of(generation)
        save_generation(generation, output, bar, checks)
    made = generation.as_clip()
    report(
        output, made, pipeline.networks.clock, seed=generation.request.seed, embedded=is_embedded(pipeline)
    )
    report_checks(checks)


def report_checks(checks: ImageChecks | None) -> None:
    """Print on stderr what the checks of a clip made from an image found; nothing without such checks."""
    if checks is not None and checks.psnr_db is not None:
        for number, line in enumerate(checks.lines()):
            click.echo(f"{'' if number else 'image':<10}{line}", err=True)


@dataclass(frozen=True, kw_only=True)
class EditRun:
    """One edit from the command line.

    ``kind`` is one of :data:`EditKind`; "audio" is audio alone, for which ``source``, the video to edit, is
    None. ``own`` are the arguments that only this kind of edit has, such as regions; ``fields`` are the
    keywords of its request, without the prompt.
    """

    kind: EditKind
    prompt: str
    source: Path | None
    own: EditArguments
    fields: RequestOptions

    def task(self, fields: Mapping[str, Any] | None = None) -> EditTask:
        """Return the edit as a task that can be run, or stored as JSON.

        ``fields`` are used in place of all its request fields; None uses those of this object.
        """
        options = {**(self.fields if fields is None else fields), **self.own}
        return EditTask(kind=self.kind, prompt=self.prompt, source=self.source, options=options)

    def settings(self) -> JsonObject:
        """The edit as JSON values, which ``resuming`` converts back to a task."""
        plain = Request(prompt=self.prompt, **self.fields).settings()
        task = self.task({name: plain[name] for name in self.fields})
        return {**task.settings(), "fields": sorted(self.fields)}


def run_edit(pipeline: LTX2Pipeline, edit: EditRun, output: Output) -> None:
    """Sample an edit, join it with its source and save it, with a progress bar on stderr.

    The sampled latents are stored on disk until the file is written, so that a failed decode can be resumed.
    """
    settings = edit.settings()
    generations: list[Generation] = []
    # Only the shares of its stages matter, which do not depend on the size that the source decides.
    fields: RequestOptions = {**edit.fields, **FIXED.get(edit.kind, {})}
    plain = Request(prompt=edit.prompt, **fields)
    with (
        job_bar(job_parts(pipeline.stages(plain)), quiet=output.quiet) as bar,
        saved_until_written(command_of(edit.kind), output) as saved,
        _window_folders(edit, output, saved) as folders,
    ):

        def save(generation: Generation) -> None:
            generations.append(generation)
            _save_latents(saved, pipeline, generation, output, edit=settings)

        task = edit.task({**edit.fields, **folders, "on_step": bar.show})
        made = task.make(pipeline, on_sampled=save)
        clip = save_edit(made, generations[0], output, bar, pipeline)
    report(
        output,
        clip,
        pipeline.networks.clock,
        seed=generations[0].request.seed,
        embedded=is_embedded(pipeline),
    )


def command_of(kind: EditKind) -> str:
    """The name of the command that makes edits of a kind, such as ``extend``."""
    return "sound" if kind == "audio" else kind


@contextmanager
def _window_folders(edit: EditRun, output: Output, saved: list[Path]) -> Iterator[EditArguments]:
    """A context that yields the arguments ``folder`` and ``spare`` for an edit that is sampled in windows.

    Windows are the parts in which the audio of a long video is sampled; finished ones are saved in these
    folders. For other edits than "sound", {} is yielded. ``output`` is where the result is written. If the
    block fails, a line says how to continue from the windows, unless ``saved``, the list of files with
    latents of the whole run, has an entry by then.
    """
    if edit.kind != "sound":
        yield {}
        return
    with windows_until_written(output, again="the same command", saved=saved) as folder:
        yield {"folder": folder, "spare": spare_windows(output)}


def run_long(pipeline: LTX2Pipeline, arguments: LongArguments, folder: Path, output: Output) -> None:
    """Sample the windows (parts) of a long clip that are not stored in ``folder`` yet, and save the clip.

    ``arguments`` are the prompts, the division into windows and the fields of a request. A progress bar is
    drawn on stderr.
    """
    prompts, how, fields = arguments
    plan, request, _ = planned_long(pipeline, prompts, how, **fields)
    output.check_clip(plan.clip)
    parts = job_parts(pipeline.stages(first_window(request, plan)), windows=len(plan.windows))
    spare = spare_windows(output)
    with job_bar(parts, quiet=output.quiet) as bar:
        made = long_video(
            pipeline,
            prompts,
            how=how,
            folder=folder,
            spare=spare,
            on_window=bar.window,
            on_step=bar.show,
            **fields,
        )
        made.save(
            output.destination,
            on_frames=bar.frames,
            timed=pipeline.networks.clock.timed,
            **output.encoding.chosen(),
        )
    if spare is not None:
        # Only after the clip is saved: until then the windows are what a further call resumes from.
        shutil.rmtree(spare, ignore_errors=True)
    report(output, made.as_clip(), pipeline.networks.clock, seed=request.seed, embedded=is_embedded(pipeline))


@contextmanager
def saved_until_written(command: str, output: Output) -> Iterator[list[Path]]:
    """A context that yields a list, to which the caller adds the paths of the latents that it has stored.

    If the block succeeds, these files are deleted. If it fails, a line on stderr says how to decode them with
    ``--resume`` of the command called ``command``. Errors for lack of memory are raised again as click
    exceptions, which end the command with one line.
    """
    saved: list[Path] = []
    try:
        yield saved
    # Latents are worth decoding after Ctrl+C, too, which is no Exception.
    except BaseException as error:
        if saved:
            click.echo(
                f"the sampled latents are saved in {saved[0].parent}; "
                f"ltx2 {command} --resume -o {output.text} decodes them",
                err=True,
            )
            # The message replaces a traceback, which says nothing about what to do.
            if is_out_of_memory(error):
                raise click.ClickException(_memory_ran_out(error)) from error
        elif is_out_of_memory(error):
            raise click.ClickException(str(error)) from error
        raise
    for path in saved:
        remove_saved(path)


def _memory_ran_out(error: BaseException) -> str:
    """The line that a command ends with if memory ran out, raised as ``error``, after sampling."""
    return str(error) if isinstance(error, OutOfMemory) else f"memory ran out while decoding: {error}"


def files_of(pipeline: LTX2Pipeline) -> JsonObject:
    """JSON values with the absolute paths of the checkpoints, which resuming needs."""
    return {"checkpoints": [str(file.path.resolve()) for file in pipeline.networks.checkpoints]}


def _save_latents(
    saved: list[Path],
    pipeline: LTX2Pipeline,
    generation: Generation,
    output: Output,
    edit: Mapping[str, Any] | None = None,
) -> None:
    """Store latents on disk before they are decoded, and add the path of the file to ``saved``.

    ``edit`` is the edit as JSON values, None for a generated clip. If the disk has no room, a line on stderr
    says so, and nothing is raised.
    """
    try:
        path = save_latents(
            generation,
            output.text,
            files=files_of(pipeline),
            edit=edit,
            encoding=output.encoding.settings(),
        )
    except OSError as error:
        # Decoding needs no disk but for the result, which may be on another one by now.
        click.echo(f"the sampled latents could not be saved before decoding: {error}", err=True)
    else:
        saved.append(path)


def save_generation(
    generation: Generation, output: Output, bar: JobBar, checks: ImageChecks | None = None
) -> None:
    """Decode the sampled clip and write it to ``output``; ``checks``, if not None, measure its frames."""
    save_checked(generation, output.destination, output, bar.frames, checks)


def save_checked(
    generation: Generation,
    where: Path | Destination,
    output: Output,
    on_frames: Callable[[int, int], None] | None,
    checks: ImageChecks | None,
) -> None:
    """Decode a sampled clip and write it to the file ``where``, encoded as ``output`` says.

    ``checks``, if not None, measure its frames on the way. ``on_frames`` is called with (frames written, all
    frames).
    """
    clip = generation.as_clip()
    if checks is not None and clip.frames is not None:
        clip = replace(clip, frames=checks.watching(clip.frames))
    timed = generation.codecs.networks.clock.timed
    save_clip(where, clip, Encoding(**output.encoding.chosen()), on_frames=on_frames, timed=timed)


def save_edit(
    made: Edit | tuple[Tensor, int],
    generation: Generation,
    output: Output,
    bar: JobBar,
    pipeline: LTX2Pipeline,
) -> Clip:
    """Write an edit to ``output``, or if it is audio alone (waveform (channels, samples), rate in Hz).

    ``generation`` is the sampled clip of the edit, whose settings are stored with audio alone. Returns the
    clip that was written.
    """
    timed = pipeline.networks.clock.timed
    if isinstance(made, Edit):
        made.save(output.destination, on_frames=bar.frames, timed=timed, **output.encoding.chosen())
        return made.as_clip()
    clip = audio_clip(made, {METADATA_KEY: json.dumps(generation.settings())})
    save_clip(output.destination, clip, output.encoding, on_frames=bar.frames, timed=timed)
    return clip


def is_embedded(pipeline: LTX2Pipeline) -> bool:
    """Whether the pipeline runs the tiny model that comes with the package."""
    return any(file.path == embedded_set().checkpoint for file in pipeline.networks.checkpoints)


def show(bar: Any, progress: Progress) -> None:
    """Draw the report ``progress`` on a tqdm bar of steps, which starts again from 0 for each stage."""
    # One bar serves all stages; the second test notices a stage of the same name that starts again.
    if bar.desc != f"{progress.stage}: " or progress.step < bar.n:
        bar.set_description(progress.stage, refresh=False)
        bar.reset(total=progress.steps)
    bar.n = progress.step
    bar.refresh()
