"""The command ``ltx2 generate``: makes a clip from a prompt, images and audio."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ..run.options import by_name, check_stage2, options_of
from .image_size import size_by_image
from .options import Chosen, command
from .shot_list import edit_source, edits_source, shot_files, with_loras, with_shots

if TYPE_CHECKING:
    from ..loading import Checkpoint
    from ..media.images import ImageSource
    from ..run.pipeline import LTX2Pipeline
    from ..run.request import Request
    from ..storage.files import ParsedJson


@command("generate")
def generate(chosen: Chosen) -> None:
    """Generate a video with audio. Without --checkpoint it uses the tiny set of the package."""
    other = _other_command(chosen)
    if other is not None:
        other()
        return
    if edits_source(chosen):
        path = edit_source(chosen)
    else:
        path = _resumed(chosen) if chosen["resume"] else _generated(chosen)
    if path is not None:
        click.echo(path)


def _other_command(chosen: Chosen) -> Callable[[], None] | None:
    """If another ltx2 command made the file of ``--from-file``, return a function that repeats its run.

    Returns None if ``ltx2 generate`` made the file, and without ``--from-file``. Raises ValueError for
    options on the command line that the other command does not have.
    """
    if chosen["from_file"] is None or chosen["resume"]:
        return None
    from .edit import edit
    from .long import run_long
    from .repeat import command_of, settings_of

    made = command_of(settings_of(chosen["from_file"]))
    if made == "generate":
        return None
    names = {option.name for option in options_of(made)}
    for name in chosen.explicit:
        if name not in names:
            raise ValueError(
                f"{chosen['from_file']} was made by ltx2 {made}, which has no {by_name(name).flag}: leave it "
                "out"
            )
    own = Chosen(made, chosen.explicit, chosen.found)
    return (lambda: run_long(own)) if made == "long" else (lambda: edit(made, own))  # type: ignore[arg-type]


def _resumed(chosen: Chosen) -> str | None:
    """Decode the saved latents of an earlier run and write the clip.

    Returns the path of the written file; None if the clip is written to stdout.
    """
    from .resuming import resume_run
    from .values import Output

    chosen.check()
    return resume_run(chosen, Output.of(chosen)).printed


def _generated(chosen: Chosen) -> str | None:
    """Sample and save a clip, or several; returns the paths of the written files, one on each line.

    Returns None for a dry run, if the clip is written to stdout, and in every process of several but the
    first, which alone writes files.
    """
    from ..run.distributed import join_processes, leave_processes
    from ..run.frame_rate import at_double_rate
    from .own_inputs import check_apart, named_files, recorded_files, written
    from .plan import print_plan
    from .repeat import open_recorded
    from .saving import run
    from .several import files_of_jobs, run_several, several_jobs
    from .values import Output, execution_of, naming

    chosen = with_loras(chosen)
    recorded = _recorded(chosen)
    chosen.check({} if recorded is None else _named(recorded["request"]))
    output = Output.of(chosen)
    if recorded is not None and "hdr" not in chosen.explicit:
        output = output.of_space(recorded["request"].get("hdr"))
    output.check()
    with naming("--guidance-parallel"):
        processes, device = join_processes(chosen["device"], passes=chosen["guidance_parallel"])
    # Called when the command ends, also by an error.
    click.get_current_context().call_on_close(leave_processes)
    # A clip repeats exactly only in the number format, and with the decoder's noise, by which it was made.
    execution = execution_of(chosen, processes, device=device, recorded=recorded or {})
    pipeline = open_recorded(chosen, recorded, execution)
    request = _request(chosen, pipeline, recorded)
    if request.staging.pipeline is None:
        check_stage2(chosen.explicit.keys(), request.stages)
    doubler = _doubler(chosen, pipeline, recorded, request)
    # Before a dry run prints anything, so that what it prints can also be run.
    stages = pipeline.check(request)
    _report(chosen, pipeline, request)
    files = files_of_jobs(several_jobs(chosen, request), output, sheet=chosen["contact_sheet"])
    inputs = (*named_files(chosen), *shot_files(chosen), *recorded_files(recorded, chosen))
    check_apart(files or written(output.destination), inputs)
    request = _enhanced(chosen, pipeline, request)
    jobs = several_jobs(chosen, request)
    if chosen["dry_run"]:
        print_plan(pipeline, request, stages)
        if doubler is not None:
            clip = at_double_rate(stages[-1].finished)
            click.echo(f"rate      doubled by {doubler.path}: {clip.frames} frames at {clip.fps:g} fps")
        for job in jobs:
            click.echo(f"file      {job.path}: {job.what}")
        return None
    # On stderr, because stdout holds the path of the file alone, or the file itself.
    for change in stages[-1].finished.changes:
        click.echo(change, err=True)
    if jobs:
        run_several(pipeline, jobs, output, sheet=chosen["contact_sheet"], writes=processes.rank == 0)
        return "\n".join(str(job.path.resolve()) for job in jobs) if processes.rank == 0 else None
    # All processes take part in sampling; the first one alone decodes and writes the file.
    if processes.rank > 0:
        pipeline(request)
    else:
        run(pipeline, request, output, doubler)
    return output.printed


def _enhanced(chosen: Chosen, pipeline: LTX2Pipeline, request: Request) -> Request:
    """With ``--enhance-prompt`` return a copy of ``request`` whose prompt a language model has rewritten.

    The new prompt is printed on stderr. With ``--dry-run`` a line says that the prompt would be rewritten,
    and ``request`` is returned unchanged, as it is without ``--enhance-prompt``. Raises ValueError if there
    is no language model.
    """
    if not chosen["enhance_prompt"]:
        return request
    from ..run.enhancer import check_enhancer, vision_of

    generation = check_enhancer(pipeline.networks, pipeline.enhancer)
    image = _first_image(request)
    sees = image is not None and vision_of(pipeline.networks, pipeline.enhancer, generation) is not None
    if chosen["dry_run"]:
        how = "" if image is None else f", which {'sees' if sees else 'does not see'} the image"
        click.echo(f"prompt    rewritten by a language model in the run{how}")
        return request
    prompt = pipeline.enhance_prompt(
        request.text.prompt, image=image if sees else None, from_image=image is not None
    )
    click.echo(f"prompt    {prompt}", err=True)
    return request.changed(prompt=prompt)


def _first_image(request: Request) -> ImageSource | None:
    """The image that the clip of ``request`` begins with; None if it begins with none."""
    inputs = request.inputs
    if inputs.image.source is not None:
        return inputs.image.source
    return next((image.source for image in inputs.images if image.frame == 0), None)


def _report(chosen: Chosen, pipeline: LTX2Pipeline, request: Request) -> None:
    """Print on stderr what each LoRA changes, why fp8 blocks are not used, and a seed that was drawn."""
    if pipeline.networks.fp8_problem is not None:
        click.echo(f"--fp8-blocks is left out: {pipeline.networks.fp8_problem}", err=True)
    for report in pipeline.lora_reports():
        click.echo(report, err=True)
    if chosen["seed"] == -1:
        click.echo(f"seed {request.seed}", err=True)


def _doubler(
    chosen: Chosen, pipeline: LTX2Pipeline, recorded: ParsedJson | None, request: Request
) -> Checkpoint | None:
    """The temporal upscaler that doubles the frame rate of the sampled clip; None if none is used for this.

    The DFR pipeline uses the temporal upscaler itself, so the result is None for it. Raises ValueError if an
    upscaler is named for a clip without video, or for the DFR pipeline without temporal rounds, and if the
    clip of ``--from-file`` was made with such an upscaler or a detail LoRA, which the options do not name.
    """
    for name in ("temporal_upscaler", "detail_lora"):
        before = (recorded or {}).get(name)
        if before is not None and chosen[name] is None:
            named = ":".join(map(str, before)) if isinstance(before, list) else before
            raise ValueError(
                f"the file was made with {by_name(name).flag} {named}, whose folder is not known: "
                "give it again"
            )
    if pipeline.temporal_upscaler is None:
        return None
    if request.staging.pipeline is not None:
        if not request.staging.temporal_rounds:
            raise ValueError(
                "--temporal-upscaler has no effect on --pipeline dfr without --temporal-rounds: use 1 for "
                "twice the frame rate, 2 for four times"
            )
        # The temporal rounds of the DFR pipeline double the rate themselves.
        return None
    if not request.size.video:
        raise ValueError("--temporal-upscaler needs a clip with video")
    return pipeline.temporal_upscaler


def _recorded(chosen: Chosen) -> ParsedJson | None:
    """Read the settings of a run from the tags of the file named by ``--from-file``.

    Returns None without that option.
    """
    from .repeat import settings_of

    return None if chosen["from_file"] is None else settings_of(chosen["from_file"])


def _named(request: ParsedJson) -> ParsedJson:
    """Return the fields of recorded settings whose value is not None."""
    return {name: value for name, value in request.items() if value is not None}


def _request(chosen: Chosen, pipeline: LTX2Pipeline, recorded: ParsedJson | None) -> Request:
    """Make the request: options of the command line replace the ``recorded`` settings of ``--from-file``.

    Without such a file (``recorded`` None) the recipe of the checkpoint fills in the rest. Raises ValueError
    if there is no prompt.
    """
    from ..run.request import Request
    from .repeat import repeated_request
    from .several import read_prompts
    from .values import request_fields

    fields = with_shots(chosen, pipeline, request_fields(chosen, pipeline))
    if chosen["prompts_file"] is not None:
        # The first prompt stands for all in what does not depend on it.
        fields["prompt"] = read_prompts(chosen["prompts_file"])[0]
    if recorded is None:
        if "prompt" not in fields:
            raise ValueError("--prompt is missing: describe the clip, or give --shots or --from-file")
        if "pipeline_kind" not in fields:
            stages = fields.setdefault("stages", pipeline.recipe.stages)
            check_stage2(chosen.explicit.keys(), stages)
        size_by_image(chosen, fields, pipeline.recipe)
        return Request(**fields)
    return repeated_request(recorded, fields)
