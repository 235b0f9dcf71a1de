"""``ltx2 extend``, ``retake``, ``sound`` and ``long``: a video in or a plan of one, an MP4 out."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..conditioning.regions import Rounding, parse_regions
from ..editing import EditTask, FramesInFile, LongVideo, long_video
from ..editing.audio import CEILING_DB
from ..editing.extend import KEEP_FRAMES
from ..editing.task import EditKind
from ..loading import LoraSpec
from ..media import check_output
from ..run.pipeline import LTX2Pipeline
from ..run.request import NEGATIVE_PROMPT
from ..run.saved_latents import saved_windows
from ..transformer.tiles import Tiles
from .generate import DTYPES, MAX_MEMORY_HELP, budget_of, parse_lora
from .saving import RESUME_HELP, resume_run, run_edit

Command = Callable[..., Any]


def _path(**options: Any) -> click.Path:
    return click.Path(path_type=Path, **options)


def _common(command: Command) -> Command:
    """Files of the model and the fields of a run that every editing command takes."""
    options = (
        click.option("--negative", "negative_prompt", default=NEGATIVE_PROMPT, help="What to avoid."),
        click.option("--steps", type=int, default=20, show_default=True, help="Steps of the first stage."),
        click.option("--cfg", type=float, default=3.0, show_default=True, help="Guidance; 1 is none."),
        click.option("--distilled", is_flag=True, help="Distilled weights or LoRA: 8 steps, no guidance."),
        click.option("--seed", type=int, default=0, show_default=True),
        click.option("--lora", "loras", multiple=True, metavar="FILE[:STRENGTH]", help="May be repeated."),
        click.option("--checkpoint", "checkpoints", type=_path(), multiple=True, help="Model file or files."),
        click.option("--text-encoder", type=_path(), help="Folder or file of the Gemma text encoder."),
        click.option("--upscaler", type=_path(), help="Latent upscaler, for two stages."),
        click.option("--device", help="cuda, cuda:1, cpu, ...  [default: cuda if there is one]"),
        click.option("--dtype", type=click.Choice(list(DTYPES)), help="Of the weights."),
        click.option("--max-memory", help=MAX_MEMORY_HELP),
        click.option("-o", "--output", type=_path(), default=Path("ltx2.mp4"), show_default=True),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _stages(command: Command) -> Command:
    return click.option("--stages", type=click.IntRange(1, 2), default=1, show_default=True)(command)


def _video(command: Command) -> Command:
    return click.option("--video", "source", type=_path(), help="The video to work on.")(command)


def _prompt(command: Command) -> Command:
    return click.option("--prompt", help="What to show and to hear.")(command)


def _resumable(command: Command) -> Command:
    return click.option("--resume", "resumes", is_flag=True, help=RESUME_HELP)(command)


def _pipeline(given: dict[str, Any]) -> LTX2Pipeline:
    """The pipeline of the options in ``given``, which are taken out of it."""
    checkpoints, dtype = given.pop("checkpoints"), given.pop("dtype")
    text_encoder, upscaler = given.pop("text_encoder"), given.pop("upscaler")
    device = given.pop("device")
    loras: tuple[LoraSpec, ...] = tuple(parse_lora(lora) for lora in given.pop("loras"))
    settings: dict[str, Any] = {
        "loras": loras,
        "device": device,
        "dtype": None if dtype is None else DTYPES[dtype],
        "max_memory": budget_of(given.pop("max_memory"), device),
    }
    if checkpoints:
        return LTX2Pipeline(*checkpoints, text_encoder=text_encoder, upscaler=upscaler, **settings)
    return LTX2Pipeline.embedded(**settings)


def _tiles(text: str) -> Tiles | None:
    """``"2x1"`` -> two columns in one row; None for one tile."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"--tiles {text} must be columns x rows, such as 2x1")
    tiles = Tiles(columns=int(match[1]), rows=int(match[2]))
    return None if tiles.columns == tiles.rows == 1 else tiles


def _edit(
    kind: EditKind,
    output: Path,
    prompt: str | None,
    source: Path | None,
    given: dict[str, Any],
    **own: Any,
) -> None:
    """Make an edit, or finish the one that was sampled, with what a user can fix as a message."""
    try:
        if given.pop("resumes"):
            output = _resume(output, given)
        else:
            needed = {"--prompt": prompt} if kind == "audio" else {"--video": source, "--prompt": prompt}
            for name, value in needed.items():
                if value is None:
                    raise click.UsageError(f"Missing option '{name}'.")
            assert prompt is not None
            check_output(output)
            pipeline = _pipeline(given)
            run_edit(pipeline, EditTask(kind=kind, prompt=prompt, source=source, options=given | own), output)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(output.resolve()))


def _resume(output: Path, given: dict[str, Any]) -> Path:
    written = click.get_current_context().get_parameter_source("output")
    dtype, device = given["dtype"], given["device"]
    return resume_run(
        output if written is click.core.ParameterSource.COMMANDLINE else None,
        given["checkpoints"],
        quiet=True,
        device=device,
        dtype=None if dtype is None else DTYPES[dtype],
        max_memory=budget_of(given["max_memory"], device),
    )


@click.command("extend")
@_video
@_prompt
@click.option("--seconds", type=float, help="How much to add, in seconds.")
@click.option("--frames", type=int, help="How much to add, in frames.")
@click.option("--keep-frames", type=int, default=KEEP_FRAMES, show_default=True, help="8k + 1 to go on from.")
@_stages
@_resumable
@_common
def extend_(source: Path | None, prompt: str | None, output: Path, **given: Any) -> None:
    """Go on with a video: its last frames and their sound are kept, and both continue."""
    _edit("extend", output, prompt, source, given)


@click.command("retake")
@_video
@_prompt
@click.option("--video-region", default="", help="Seconds to make anew, such as '2-4, 5.5-6'.")
@click.option("--audio-region", default="", help="Seconds of sound to make anew.")
@click.option(
    "--rounding",
    type=click.Choice([r.value for r in Rounding]),
    default=Rounding.COVER.value,
    show_default=True,
    help="Which latent frames a region takes.",
)
@click.option("--paste/--no-paste", default=True, help="Put the source's own frames back outside.")
@_stages
@_resumable
@_common
def retake_(
    source: Path | None,
    prompt: str | None,
    video_region: str,
    audio_region: str,
    output: Path,
    **given: Any,
) -> None:
    """Make parts of a video anew and keep the rest; a region past the end extends it."""
    try:
        regions = {"video": parse_regions(video_region), "audio": parse_regions(audio_region)}
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    _edit("retake", output, prompt, source, given, **regions)


@click.command("sound")
@_prompt
@click.option("--video", "source", type=_path(), help="Make sound for this video; its frames stay.")
@click.option("--seconds", type=float, help="Without a video: the length of the sound, saved as WAV.")
@click.option("--ceiling-db", type=float, default=CEILING_DB, show_default=True, help="Loudest sample.")
@_resumable
@_common
def sound(source: Path | None, seconds: float | None, prompt: str | None, output: Path, **given: Any) -> None:
    """Make sound for a video, or sound alone."""
    if not given["resumes"] and (source is None) == (seconds is None):
        raise click.UsageError("give --video, or --seconds for sound alone")
    if seconds is None:
        _edit("sound", output, prompt, source, given)
    else:
        _edit("audio", output.with_suffix(".wav"), prompt, None, given, seconds=seconds)


@click.command("long")
@click.option(
    "--prompts", required=True, help="One prompt; lines 'seconds: prompt'; JSON; or @FILE of these."
)
@click.option("--width", type=int, default=128, show_default=True)
@click.option("--height", type=int, default=128, show_default=True)
@click.option("--fps", type=float, default=25.0, show_default=True)
@click.option("--seconds", type=float, required=True, help="Length of the clip.")
@click.option("--window-frames", type=int, default=121, show_default=True, help="Length of a run, 8k + 1.")
@click.option("--overlap-frames", type=int, default=24, show_default=True, help="Shared by runs, 8k.")
@click.option("--overlap-strength", type=float, default=1.0, show_default=True, help="1 keeps the overlap.")
@click.option("--adain", type=float, default=0.0, show_default=True, help="Against drift of colours, 0 to 1.")
@click.option("--audio", type=_path(), help="A sound to make the clip for, kept as it is.")
@click.option("--video", "source", type=_path(), help="A clip to follow: control or reference of an IC-LoRA.")
@click.option("--reference", "source_strength", type=float, default=1.0, show_default=True, help="0 is off.")
@click.option("--denoise", type=float, default=1.0, show_default=True, help="Below 1 starts from --video.")
@click.option("--tiles", default="1x1", show_default=True, help="Columns x rows in which to see the frame.")
@click.option(
    "--state", type=_path(), help="Folder that keeps finished runs; run again to go on with a stopped clip."
)
@click.option(
    "--resume",
    "resumes",
    is_flag=True,
    help="Without --state: go on with what failed, with the same options.",
)
@_common
def long(
    prompts: str,
    window_frames: int,
    overlap_frames: int,
    overlap_strength: float,
    adain: float,
    source: Path | None,
    source_strength: float,
    denoise: float,
    tiles: str,
    state: Path | None,
    output: Path,
    **given: Any,
) -> None:
    """Make a clip of any length, window by window, with memory that does not grow with it."""
    own = saved_windows(output) if state is None else None
    try:
        check_output(output)
        if own is not None and not given["resumes"]:
            shutil.rmtree(own, ignore_errors=True)
        elif own is not None and not own.is_dir():
            raise ValueError(f"no runs of {output} are kept: make it without --resume")
        given.pop("resumes")
        text = Path(prompts[1:]).read_text(encoding="utf-8") if prompts.startswith("@") else prompts
        how = LongVideo(
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            overlap_strength=overlap_strength,
            adain_factor=adain,
            source=None if source is None else FramesInFile.open(source),
            source_strength=source_strength,
            denoise=denoise,
        )
        made = long_video(
            _pipeline(given),
            text,
            how=how,
            folder=own or state,
            tiles=_tiles(tiles),
            on_window=lambda done, windows: click.echo(f"window {done} of {windows}", err=True),
            **given,
        )
        made.save(output)
    except BaseException as error:
        if own is not None and any(own.glob("window_*")):
            click.echo("the finished runs are kept; the same command with --resume goes on", err=True)
        if isinstance(error, ValueError | OSError):
            raise click.ClickException(str(error)) from error
        raise
    if own is not None:
        shutil.rmtree(own)
    click.echo(str(output.resolve()))
