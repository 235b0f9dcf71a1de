"""The command ``ltx2 dataset``: checks own clips and captions, and encodes them for training."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click
from click.core import ParameterSource

from .options import PathType

if TYPE_CHECKING:
    from ..trainer.dataset import OnItem
    from ..trainer.texts import TextStage


@click.command()
@click.argument("source", type=PathType(path_type=Path))
@click.option("--out", type=PathType(path_type=Path, file_okay=False), help="Folder of the encoded dataset.")
@click.option("--check", is_flag=True, help="Print the report and encode nothing.")
@click.option(
    "--from-cache",
    is_flag=True,
    help="SOURCE is what the official trainer or DiffSynth encoded: folders latents, conditions and others "
    "with .pt files, or .pth files. It is taken as encoded by the model files that are named here.",
)
@click.option(
    "--sheets",
    type=PathType(path_type=Path, file_okay=False),
    help="Write contact sheets into this folder: first, middle and last frame of each clip as it is trained.",
)
@click.option(
    "--workers",
    type=click.IntRange(0, 64),
    default=2,
    show_default=True,
    help="How many clips are read and cut ahead while one is encoded; the result does not depend on it.",
)
@click.option(
    "--checkpoint",
    "checkpoints",
    multiple=True,
    type=PathType(path_type=Path, exists=True),
    help="Model file that will be trained; may be repeated for split files. Without it: the embedded set.",
)
@click.option("--text-encoder", type=PathType(path_type=Path, exists=True), help="Folder or file of Gemma.")
@click.option(
    "--buckets",
    default="768x512x49",
    show_default=True,
    help="Sizes and lengths WIDTHxHEIGHTxFRAMES, separated by semicolons; a clip takes the nearest in "
    "proportions that is not longer, then the longest, then the largest.",
)
@click.option(
    "--max-pixels",
    type=click.IntRange(32 * 32, 2**26),
    help="Give each clip its own size, shrunk to at most so many pixels and cut to multiples of 32; of "
    "--buckets only the lengths are used.",
)
@click.option(
    "--fps",
    type=click.FloatRange(1, 240),
    help="Resample videos to this frame rate by nearest time [default: that of each file].",
)
@click.option("--chunks", is_flag=True, help="Cut long videos into several clips, not only their beginning.")
@click.option(
    "--slide",
    type=click.IntRange(1, 1_000_000),
    help="Begin a clip every so many frames of a long video; clips may overlap.",
)
@click.option(
    "--uniform",
    type=click.IntRange(1, 100_000),
    help="Take so many clips of a video, at even distances from its beginning to its end.",
)
@click.option(
    "--scenes",
    is_flag=True,
    help="Cut videos where their content changes, so that no clip has a cut; needs PySceneDetect.",
)
@click.option(
    "--crop",
    type=click.Choice(["center", "random"]),
    default="center",
    show_default=True,
    help="Where frames that are larger than their bucket are cut.",
)
@click.option(
    "--crop-seed", type=click.IntRange(0), default=0, show_default=True, help="Chooses the random places."
)
@click.option(
    "--repeats",
    type=click.IntRange(1, 999_999),
    default=1,
    show_default=True,
    help="How often an epoch has every clip; folders 5_NAME and a column repeats say it for some.",
)
@click.option(
    "--audio-lengths",
    default="2;4;8",
    show_default=True,
    help="Seconds of clips of audio alone, which take the longest that they fill.",
)
@click.option("--trigger", help="Word that is put in front of captions which do not have it.")
@click.option(
    "--clean-captions", is_flag=True, help='Remove openings such as "The video shows" from captions.'
)
@click.option(
    "--caption-ext", default=".txt", show_default=True, help="In a folder: end of the names of captions."
)
@click.option("--caption-column", help="In a file: name of the column of captions.")
@click.option(
    "--data-file-keys",
    default="",
    help="In a file: the columns that hold media, separated by commas [default: all known columns].",
)
@click.option(
    "--audio",
    type=click.Choice(["on", "off", "required"]),
    default="on",
    show_default=True,
    help="on: encode audio where there is any. required: refuse clips without audio.",
)
@click.option(
    "--missing-audio",
    type=click.Choice(["video_only", "skip"]),
    default="video_only",
    show_default=True,
    help="What to do with clips without audio: train the video alone, or leave them out.",
)
@click.option(
    "--reference-downscale",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="How much smaller reference videos are on each side.",
)
@click.option(
    "--reference-temporal",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="Take every N-th frame of reference videos.",
)
@click.option(
    "--text",
    type=click.Choice(["context", "features", "states"]),
    default="context",
    show_default=True,
    help="How far captions are encoded: context, as the transformer reads them; features, to train a LoRA of "
    "the text connectors; states, to train one of the text projection (large files).",
)
@click.option("--device", default=None, help="Device of the encoders [default: cuda if there is one].")
@click.option("--official-masks", is_flag=True, help="Group frames of masks as the official trainer does.")
@click.option("--prune", is_flag=True, help="Delete encoded files that the dataset no longer uses.")
def dataset(  # noqa: PLR0913 click passes one argument for each option
    source: Path,
    out: Path | None,
    check: bool,
    from_cache: bool,
    sheets: Path | None,
    workers: int,
    checkpoints: tuple[Path, ...],
    text_encoder: Path | None,
    buckets: str,
    max_pixels: int | None,
    fps: float | None,
    chunks: bool,
    slide: int | None,
    uniform: int | None,
    scenes: bool,
    crop: str,
    crop_seed: int,
    repeats: int,
    audio_lengths: str,
    trigger: str | None,
    clean_captions: bool,
    caption_ext: str,
    caption_column: str | None,
    data_file_keys: str,
    audio: str,
    missing_audio: str,
    reference_downscale: int,
    reference_temporal: int,
    text: str,
    device: str | None,
    official_masks: bool,
    prune: bool,
) -> None:
    """Check the clips and captions in SOURCE and encode them into the folder --out.

    SOURCE is a folder of videos, images or audio files with a caption file each (clip.mp4, clip.txt), or a
    csv, json or jsonl file with the columns video, caption, and optionally audio, reference_video,
    reference_audio, video_mask, audio_mask, and repeats, how often an epoch has the clip. A report comes
    first. What is encoded already is not encoded again, so the same command continues an interrupted call;
    after a change of clips, captions, options or models only what changed is encoded.
    """
    from ..trainer.buckets import parse_buckets
    from ..trainer.dataset import DatasetOptions, plan_dataset
    from ..trainer.report import report
    from ..trainer.rows import read_rows

    if out is None and not check:
        raise click.UsageError("name the folder of the encoded dataset with --out, or use --check")
    if from_cache:
        _check_import()
        _import(source, out, checkpoints, text_encoder, device)
        return
    _check_effect(source, crop)
    options = DatasetOptions(
        buckets=parse_buckets(buckets),
        max_pixels=max_pixels,
        fps=fps,
        chunks=chunks,
        slide=slide,
        uniform=uniform,
        scenes=scenes,
        trigger=trigger,
        clean=clean_captions,
        audio=cast("Literal['on', 'off', 'required']", audio),
        missing_audio=cast("Literal['video_only', 'skip']", missing_audio),
        downscale=reference_downscale,
        temporal=reference_temporal,
        official=official_masks,
        text=cast("TextStage", text),
        crop=cast("Literal['center', 'random']", crop),
        crop_seed=crop_seed,
        repeats=repeats,
        audio_lengths=_seconds(audio_lengths),
    )
    with _listed():
        rows = read_rows(
            source,
            caption_ext=caption_ext,
            caption_column=caption_column,
            file_columns=[name.strip() for name in data_file_keys.split(",") if name.strip()],
        )
        with _progress() as show:
            plan = plan_dataset(rows, options, show)
    for line in report(plan, options):
        click.echo(line)
    if sheets is not None:
        from ..trainer.sheets import write_sheets

        with _progress() as show:
            for path in write_sheets(plan, sheets, show):
                click.echo(f"contact sheet: {path}")
    if check or out is None:
        return
    from ..run.codecs import Codecs
    from ..trainer.cache import stale_files
    from ..trainer.dataset import encode_dataset
    from ..trainer.models import open_networks

    networks = open_networks(checkpoints, text_encoder, device=device)
    with _progress() as show:
        index, made = encode_dataset(Codecs(networks), plan, options, out, show, workers=workers)
    click.echo(f"encoded {made} files; {out} has {len(index.entries)} clips")
    stale = stale_files(out, index)
    if stale and prune:
        for path in stale:
            path.unlink()
        click.echo(f"deleted {len(stale)} files that the dataset no longer uses")
    elif stale:
        click.echo(
            f"{len(stale)} files are of earlier clips, options or models, and unused: --prune deletes them"
        )


def _import(
    source: Path,
    out: Path | None,
    checkpoints: tuple[Path, ...],
    text_encoder: Path | None,
    device: str | None,
) -> None:
    """Make an encoded dataset of the cache of another trainer, or with ``out`` None only count its clips."""
    from ..run.codecs import Codecs
    from ..trainer.cache_import import import_cache
    from ..trainer.foreign_caches import foreign_clips
    from ..trainer.models import open_networks

    count, _ = foreign_clips(source)
    click.echo(f"{count} clips that another trainer encoded")
    if out is None:
        return
    networks = open_networks(checkpoints, text_encoder, device=device)
    with _progress() as show:
        index, made = import_cache(Codecs(networks), source, out, show)
    click.echo(
        f"wrote {made} files; {out} has {len(index.entries)} clips, taken as encoded by these model files"
    )


def _check_import() -> None:
    """Raise UsageError for options that change nothing where media are not read."""
    used = {"source", "out", "check", "from_cache", "checkpoints", "text_encoder", "device"}
    for name, option in _written():
        if name not in used:
            raise click.UsageError(f"{option} has no effect with --from-cache: leave it out")


def _check_effect(source: Path, crop: str) -> None:
    """Raise UsageError for options that change nothing in a dataset of this form, or without another."""
    written = [option for _, option in _written() if option in ("--chunks", "--slide", "--uniform")]
    if len(written) > 1:
        raise click.UsageError(f"{' and '.join(written)} say which clips of a video are taken: choose one")
    folder = source.is_dir()
    without = {
        "crop_seed": "without --crop random" if crop != "random" else "",
        "caption_ext": "" if folder else f"on {source.name}, which is no folder",
        "caption_column": f"on the folder {source}" if folder else "",
        "data_file_keys": f"on the folder {source}" if folder else "",
    }
    for name, option in _written():
        if without.get(name):
            raise click.UsageError(f"{option} has no effect {without[name]}: leave it out")


def _written() -> Iterator[tuple[str, str]]:
    """Name and flag of each option that was typed."""
    context = click.get_current_context()
    for parameter in context.command.params:
        name = parameter.name or ""
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            yield name, parameter.opts[0]


def _seconds(text: str) -> tuple[float, ...]:
    """Read lengths in seconds, separated by semicolons."""
    try:
        lengths = tuple(float(part) for part in text.split(";"))
    except ValueError:
        lengths = ()
    if not lengths or not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"--audio-lengths {text!r} must be seconds above 0, such as 2;4;8")
    return lengths


@contextmanager
def _listed() -> Iterator[None]:
    """A context that prints an error of several problems line by line, and ends with their number."""
    try:
        yield
    except ValueError as error:
        lines = str(error).splitlines()
        if len(lines) == 1:
            raise
        for line in lines:
            click.echo(line, err=True)
        raise ValueError("the dataset has the problems that are listed above") from error


@contextmanager
def _progress() -> Iterator[OnItem]:
    """A context with a function that prints progress to a terminal, over one line, which ends with it.

    To a file it prints nothing.
    """
    terminal, begun = sys.stderr.isatty(), False

    def show(what: str, done: int, total: int) -> None:
        nonlocal begun
        if terminal:
            begun = True
            click.echo(f"\r{what} {done + 1}/{total} ", nl=False, err=True)

    try:
        yield show
    finally:
        # What is printed next, be it an error, begins on a line of its own.
        if begun:
            click.echo(err=True)
