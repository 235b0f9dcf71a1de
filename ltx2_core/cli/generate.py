"""``ltx2 generate``: a prompt, a picture, a sound in; an MP4 out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import torch

from ..loading import LoraSpec
from ..media import check_output
from ..memory import parse_budget
from ..run.distributed import join_processes, leave_processes
from ..run.pipeline import LTX2Pipeline
from ..run.request import NEGATIVE_PROMPT, Request, plan_stages
from ..sampling.schedules import parse_sigmas
from ..shapes import Snap
from ..types import Numerics
from .guidance import check_files, read_sampling, repeated_request, sampling_options, settings_of
from .plan import print_plan
from .saving import RESUME_HELP, resume_run, run

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EMBEDDED_DEFAULTS: dict[str, Any] = {
    "width": 128,
    "height": 128,
    "num_frames": 49,
    "fps": 25.0,
    "steps": 20,
    "stages": 1,
}
"""A clip of the size and rate that the embedded set knows, made in seconds on any machine."""


MAX_MEMORY_HELP = (
    "Memory of the device that the run may use, such as 12GB, or auto for what is free: tokens are computed "
    "in chunks and blocks copied when they are needed, with the same result; a frame whose decoder does not "
    "fit is made in tiles, exact where there is room for their borders. See ltx2 plan."
)

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_lora(text: str) -> LoraSpec:
    """``FILE[:STRENGTH[:AUDIO_STRENGTH]]``; a colon that no number follows belongs to the name."""
    path, strengths = text, list[float]()
    while len(strengths) < 2:
        rest, _, last = path.rpartition(":")
        try:
            strength = float(last)
        except ValueError:
            break
        if not rest:
            break
        path = rest
        strengths.insert(0, strength)
    if len(strengths) == 2:
        return LoraSpec(path=path, strength=strengths[0], audio_strength=strengths[1])
    return LoraSpec(path=path, strength=strengths[0] if strengths else 1.0)


def budget_of(text: str | None, device: str | None) -> int | None:
    """Bytes of a --max-memory on the device of a run."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return None if text is None else parse_budget(text, torch.device(device or default))


def _loras(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> Any:
    return tuple(parse_lora(value) for value in values)


def _lora_option(*names: str, what: str) -> Callable[[Command], Command]:
    return click.option(
        *names, multiple=True, callback=_loras, metavar="FILE[:STRENGTH[:AUDIO_STRENGTH]]", help=what
    )


def _path(**options: Any) -> click.Path:
    return click.Path(path_type=Path, **options)


@click.command()
@click.option("--prompt", help="What to show and to hear.")
@click.option(
    "--from-file",
    type=_path(),
    help="Repeat what made this MP4; options given besides change it. LoRAs and model files are given again.",
)
@click.option(
    "--negative", "negative_prompt", default=NEGATIVE_PROMPT, help="What to avoid; used with --cfg above 1."
)
@click.option("--trigger", help="Word of a LoRA, for [trigger] in both prompts.")
@click.option("--image", type=_path(), help="Picture that the video starts with.")
@click.option(
    "--image-strength", type=float, default=1.0, show_default=True, help="1 keeps the picture, 0 ignores it."
)
@click.option(
    "--image-crf", type=int, default=33, show_default=True, help="H.264 round trip of the picture; 0 is off."
)
@click.option("--audio", type=_path(), help="Sound (or video with sound) to make the video for.")
@click.option("--audio-noise-db", type=float, help="A soft noise that only the model hears, such as -60.")
@click.option("--reference-audio", type=_path(), help="Voice or sound that the new one shall be like.")
@click.option("--identity", type=float, default=3.0, show_default=True, help="How much so; 0 is off.")
@click.option(
    "--audio-start", "audio_start_s", type=float, default=0.0, help="Where in the sound to begin, in seconds."
)
@click.option("--width", type=int, help="Width of the clip.  [default: 768; embedded set 128]")
@click.option("--height", type=int, help="Height of the clip.  [default: 512; embedded set 128]")
@click.option(
    "--frames", "num_frames", type=int, help="Length, 8k + 1 frames.  [default: 121; embedded set 49]"
)
@click.option("--seconds", type=float, help="Length in seconds, in place of --frames.")
@click.option("--fps", type=float, help="Frames per second.  [default: 24; embedded set 25]")
@click.option(
    "--snap",
    type=click.Choice([s.value for s in Snap]),
    default=Snap.NEAREST.value,
    show_default=True,
    help="What to do with a size or length off the grid.",
)
@click.option("--steps", type=int, help="Steps of the first stage.  [default: 30; embedded set 20]")
@click.option("--distilled", is_flag=True, help="Distilled weights or LoRA: 8 fixed steps, no guidance.")
@click.option("--sigmas", help="Schedule of the first stage, such as '1, 0.725, 0.42, 0'.")
@sampling_options
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--stages",
    type=click.IntRange(1, 2),
    help="2: half size, then upscaled.  [default: 2; embedded set 1]",
)
@_lora_option("--lora", "loras", what="LoRA for all stages; may be repeated.")
@_lora_option("--stage2-lora", "stage2_loras", what="LoRA for the second stage only.")
@click.option(
    "--checkpoint", "checkpoints", type=_path(), multiple=True, help="Model file; repeat for split files."
)
@click.option("--text-encoder", type=_path(), help="Folder of the Gemma 3 text encoder.")
@click.option("--upscaler", type=_path(), help="Latent upscaler, for two stages.")
@click.option("--device", help="cuda, cuda:1, cpu, ...  [default: cuda if there is one]")
@click.option(
    "--dtype",
    type=click.Choice(list(DTYPES)),
    help="Of the weights.  [default: bfloat16 on cuda, else float32]",
)
@click.option(
    "--numerics",
    type=click.Choice([n.value for n in Numerics]),
    default=Numerics.OFFICIAL.value,
    show_default=True,
    help="Whose result to give where the public implementations differ.",
)
@click.option(
    "--passes-per-call", type=int, default=1, show_default=True, help="Passes of guidance evaluated at once."
)
@click.option(
    "--guidance-parallel",
    type=int,
    default=1,
    show_default=True,
    help="Under torchrun: groups of processes that share the passes of guidance; each shares the tokens.",
)
@click.option("--max-memory", help=MAX_MEMORY_HELP)
@click.option("--fused", is_flag=True, help="Several elementwise operations in one kernel; faster on a GPU.")
@click.option(
    "--keep-text-keys",
    is_flag=True,
    help="Compute keys and values of the text once, not in every step (LTX-2.0): 1.2 GB more a prompt.",
)
@click.option("--cuda-graphs", is_flag=True, help="Replay the blocks of short clips in one launch.")
@click.option(
    "--fp8-blocks",
    is_flag=True,
    help="Hold all blocks but the first and the last in fp8 and multiply them so: half the memory, rounded.",
)
@click.option("--fp8-matmul", is_flag=True, help="Multiply fp8 layers in fp8: faster, rounds their input.")
@click.option("--nvfp4-matmul", is_flag=True, help="The same for NVFP4 layers, on Blackwell.")
@click.option(
    "-o", "--output", type=_path(), default=Path("ltx2.mp4"), show_default=True, help="The MP4 to write."
)
@click.option("--resume", "resumes", is_flag=True, help=RESUME_HELP)
@click.option("--dry-run", is_flag=True, help="Print sizes, tokens, sigmas and predicted memory, and stop.")
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@click.pass_context
def generate(
    context: click.Context,
    /,
    from_file: Path | None,
    checkpoints: tuple[Path, ...],
    text_encoder: Path | None,
    upscaler: Path | None,
    loras: tuple[LoraSpec, ...],
    stage2_loras: tuple[LoraSpec, ...],
    device: str | None,
    dtype: str | None,
    numerics: str,
    fp8_matmul: bool,
    nvfp4_matmul: bool,
    passes_per_call: int,
    guidance_parallel: int,
    max_memory: str | None,
    fused: bool,
    keep_text_keys: bool,
    cuda_graphs: bool,
    fp8_blocks: bool,
    output: Path,
    resumes: bool,
    dry_run: bool,
    quiet: bool,
    sigmas: str | None,
    snap: str,
    trigger: str | None,
    **options: Any,
) -> None:
    """Make a video with sound. Without --checkpoint it runs on the tiny set that ships with the package."""
    if resumes:
        try:
            how = {
                "dtype": None if dtype is None else DTYPES[dtype],
                "max_memory": budget_of(max_memory, device),
            }
            wanted = output if _is_given(context, "output") else None
            output = resume_run(wanted, checkpoints, quiet=quiet, device=device, **how)
        except (ValueError, OSError) as error:
            raise click.ClickException(str(error)) from error
        click.echo(str(output.resolve()))
        return
    if checkpoints:
        defaults: dict[str, Any] = {"steps": 30, "width": 768, "height": 512, "stages": 2}
    else:
        defaults = dict(EMBEDDED_DEFAULTS)
    if options["seconds"] is not None:
        defaults.pop("num_frames", None)
    for name in ("prompt", "negative_prompt"):
        if trigger is not None and options[name] is not None:
            options[name] = options[name].replace("[trigger]", trigger)
    try:
        processes, device = join_processes(device, passes=guidance_parallel)
        context.call_on_close(leave_processes)
        recorded = None if from_file is None else settings_of(from_file)
        if recorded is not None and not _is_given(context, "numerics"):
            numerics = recorded["numerics"]
        if recorded is not None and dtype is None and recorded["dtype"] in DTYPES:
            dtype = recorded["dtype"]
        settings: dict[str, Any] = {
            "loras": loras,
            "stage2_loras": stage2_loras,
            "device": device,
            "dtype": None if dtype is None else DTYPES[dtype],
            "numerics": Numerics(numerics),
            "fp8_matmul": fp8_matmul,
            "nvfp4_matmul": nvfp4_matmul,
            "passes_per_call": passes_per_call,
            "max_memory": budget_of(max_memory, device),
            "fused": fused,
            "keep_text_keys": keep_text_keys,
            "cuda_graphs": cuda_graphs,
            "fp8_blocks": fp8_blocks,
            "processes": processes,
        }
        if checkpoints:
            pipeline = LTX2Pipeline(*checkpoints, text_encoder=text_encoder, upscaler=upscaler, **settings)
        else:
            pipeline = LTX2Pipeline.embedded(**settings)
        options |= {"snap": Snap(snap), "sigmas": None if sigmas is None else parse_sigmas(sigmas).tolist()}
        if recorded is None:
            if options["prompt"] is None:
                raise ValueError("--prompt is missing: say what to show and to hear, or give --from-file")
            given = {name: value for name, value in options.items() if value is not None}
            fields = read_sampling(given, pipeline)
            request = Request(**{**defaults, **fields, **given})
        else:
            given = {name: value for name, value in options.items() if _is_given(context, name)}
            request = repeated_request(recorded, {**read_sampling(given, pipeline), **given})
            differs = check_files(recorded, pipeline, given_loras=bool(loras or stage2_loras))
            if differs is not None:
                click.echo(differs, err=True)
        stages = plan_stages(request, pipeline.numerics)
        if pipeline.networks.fp8_problem is not None:
            click.echo(f"--fp8-blocks is left out: {pipeline.networks.fp8_problem}", err=True)
        for report in pipeline.lora_reports():
            click.echo(report, err=True)
        if dry_run:
            print_plan(pipeline, stages)
            return
        for change in stages[-1].clip.changes:
            click.echo(change, err=True)
        check_output(output)
        if processes.rank > 0:
            pipeline(request)
            return
        run(pipeline, request, output, quiet=quiet)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(output.resolve()))


def _is_given(context: click.Context, name: str) -> bool:
    """Whether an option was written on the command line."""
    return context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
