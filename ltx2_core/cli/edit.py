"""``ltx2 extend``, ``retake``, ``sound`` and ``long``: a video in or a plan of one, an MP4 out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..conditioning.regions import Rounding, parse_regions
from ..editing import FileReel, Footage, LongVideo, add_sound, extend, long_video, retake, text_to_audio
from ..editing.extend import KEEP_FRAMES
from ..editing.sound import CEILING_DB
from ..loading import LoraSpec
from ..media import check_output, write_wav
from ..pipeline import LTX2Pipeline
from ..request import NEGATIVE_PROMPT
from ..transformer.tiles import Tiles
from .generate import DTYPES, MAX_MEMORY_HELP, budget_of, parse_lora

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
    return click.option("--video", "source", type=_path(), required=True, help="The video to work on.")(
        command
    )


def _prompt(command: Command) -> Command:
    return click.option("--prompt", required=True, help="What to show and to hear.")(command)


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


def _run(output: Path, make: Callable[[], Any]) -> None:
    """Make and save, with what a user can fix as a message."""
    try:
        check_output(output)
        make().save(output)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(output.resolve()))


@click.command("extend")
@_video
@_prompt
@click.option("--seconds", type=float, help="How much to add, in seconds.")
@click.option("--frames", type=int, help="How much to add, in frames.")
@click.option("--keep-frames", type=int, default=KEEP_FRAMES, show_default=True, help="8k + 1 to go on from.")
@_stages
@_common
def extend_(source: Path, prompt: str, output: Path, **given: Any) -> None:
    """Go on with a video: its last frames and their sound are kept, and both continue."""
    _run(output, lambda: extend(_pipeline(given), prompt, Footage.read(source), **given))


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
@_common
def retake_(
    source: Path, prompt: str, video_region: str, audio_region: str, rounding: str, output: Path, **given: Any
) -> None:
    """Make parts of a video anew and keep the rest; a region past the end extends it."""
    _run(
        output,
        lambda: retake(
            _pipeline(given),
            prompt,
            Footage.read(source),
            video=parse_regions(video_region),
            audio=parse_regions(audio_region),
            rounding=Rounding(rounding),
            **given,
        ),
    )


@click.command("sound")
@_prompt
@click.option("--video", "source", type=_path(), help="Make sound for this video; its frames stay.")
@click.option("--seconds", type=float, help="Without a video: the length of the sound, saved as WAV.")
@click.option("--ceiling-db", type=float, default=CEILING_DB, show_default=True, help="Loudest sample.")
@_common
def sound(source: Path | None, seconds: float | None, prompt: str, output: Path, **given: Any) -> None:
    """Make sound for a video, or sound alone."""
    if (source is None) == (seconds is None):
        raise click.UsageError("give --video, or --seconds for sound alone")
    if source is not None:
        _run(output, lambda: add_sound(_pipeline(given), prompt, Footage.read(source), **given))
        return
    assert seconds is not None
    output = output.with_suffix(".wav")
    try:
        write_wav(output, *text_to_audio(_pipeline(given), prompt, seconds=seconds, **given))
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(output.resolve()))


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
    "--state", type=_path(), help="Folder of finished runs; run again to go on with a stopped clip."
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

    def make() -> Any:
        text = Path(prompts[1:]).read_text(encoding="utf-8") if prompts.startswith("@") else prompts
        how = LongVideo(
            window_frames=window_frames,
            overlap_frames=overlap_frames,
            overlap_strength=overlap_strength,
            adain_factor=adain,
            source=None if source is None else FileReel.open(source),
            source_strength=source_strength,
            denoise=denoise,
        )
        pipeline = _pipeline(given)
        return long_video(
            pipeline,
            text,
            how=how,
            folder=state,
            tiles=_tiles(tiles),
            on_window=lambda done, windows: click.echo(f"window {done} of {windows}", err=True),
            **given,
        )

    _run(output, make)
