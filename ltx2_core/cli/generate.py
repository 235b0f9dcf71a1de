"""``ltx2 generate``: a prompt, an image, audio in; an MP4 out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import Chosen, command

if TYPE_CHECKING:
    from ..run.pipeline import LTX2Pipeline
    from ..run.request import Request

Settings = dict[str, Any]


@command("generate")
def generate(chosen: Chosen) -> None:
    """Generate a video with audio. Without --checkpoint it uses the tiny set of the package."""
    path = _resumed(chosen) if chosen["resume"] else _generated(chosen)
    if path is not None:
        click.echo(path)


def _resumed(chosen: Chosen) -> str:
    """Decode what an earlier run had sampled; returns the path of the file."""
    from .saving import resume_run
    from .values import Output

    chosen.check()
    return str(resume_run(chosen, Output.of(chosen)).resolve())


def _generated(chosen: Chosen) -> str | None:
    """Sample and save; returns the path of the file, None where this process writes none."""
    from ..media import check_output
    from ..run.distributed import join_processes, leave_processes
    from .plan import print_plan
    from .saving import run
    from .values import Output, execution_of

    recorded = _recorded(chosen)
    chosen.check({} if recorded is None else _named(recorded["request"]))
    processes, device = join_processes(chosen["device"], passes=chosen["guidance_parallel"])
    # Called when the command ends, also by an error.
    click.get_current_context().call_on_close(leave_processes)
    dtype = None if recorded is None else recorded.get("dtype")
    execution = execution_of(chosen, processes, device=device, dtype=chosen["dtype"] or dtype)
    pipeline = _pipeline(chosen, execution, recorded)
    request = _request(chosen, pipeline, recorded)
    stages = pipeline.check(request)
    if pipeline.networks.fp8_problem is not None:
        click.echo(f"--fp8-blocks is left out: {pipeline.networks.fp8_problem}", err=True)
    for report in pipeline.lora_reports():
        click.echo(report, err=True)
    if chosen["dry_run"]:
        print_plan(pipeline, request, stages)
        return None
    for change in stages[-1].clip.changes:
        click.echo(change, err=True)
    output = Output.of(chosen)
    check_output(output.path)
    # All processes take part in sampling; the first one alone decodes and writes the file.
    if processes.rank > 0:
        pipeline(request)
    else:
        run(pipeline, request, output)
    return str(output.path.resolve())


def _recorded(chosen: Chosen) -> Settings | None:
    """The settings of --from-file, if there is one."""
    from .repeat import settings_of

    return None if chosen["from_file"] is None else settings_of(chosen["from_file"])


def _named(request: Settings) -> Settings:
    """The recorded fields that have a value."""
    return {name: value for name, value in request.items() if value is not None}


def _pipeline(chosen: Chosen, execution: Any, recorded: Settings | None) -> LTX2Pipeline:
    """The pipeline, with the numerics of the settings where none were written."""
    from ..types import Numerics
    from .values import open_pipeline

    own = recorded is None or "numerics" in chosen.explicit
    numerics = None if own or recorded is None else Numerics(recorded["numerics"])
    return open_pipeline(chosen, execution, numerics=numerics)


def _request(chosen: Chosen, pipeline: LTX2Pipeline, recorded: Settings | None) -> Request:
    """The request: options of the command line override the settings of --from-file, or the recipe.

    Raises ValueError without a prompt, and for settings whose LoRAs are not named again.
    """
    from ..run.request import Request
    from .repeat import check_files, repeated_request
    from .values import request_fields

    fields = request_fields(chosen, pipeline)
    if recorded is None:
        if "prompt" not in fields:
            raise ValueError("--prompt is missing: describe the clip, or give --from-file")
        return Request(**{"stages": pipeline.recipe.stages, **fields})
    named = bool(chosen["loras"] or chosen["stage2_loras"])
    request = repeated_request(recorded, fields)
    differs = check_files(recorded, pipeline, named_loras=named)
    if differs is not None:
        click.echo(differs, err=True)
    return request
