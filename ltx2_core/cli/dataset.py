"""The command ``ltx2 dataset``: checks own clips and captions, and encodes them for training."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import click

from .options import PathType

if TYPE_CHECKING:
    from ..trainer.dataset import OnItem
    from ..trainer.texts import TextStage


@click.command()
@click.argument("source", type=PathType(path_type=Path))
@click.option("--out", type=PathType(path_type=Path, file_okay=False), help="Folder of the encoded dataset.")
@click.option("--check", is_flag=True, help="Print the report and encode nothing.")
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
    "--scenes",
    is_flag=True,
    help="Cut videos where their content changes, so that no clip has a cut; needs PySceneDetect.",
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
    checkpoints: tuple[Path, ...],
    text_encoder: Path | None,
    buckets: str,
    max_pixels: int | None,
    fps: float | None,
    chunks: bool,
    scenes: bool,
    trigger: str | None,
    clean_captions: bool,
    caption_ext: str,
    caption_column: str | None,
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
    options = DatasetOptions(
        buckets=parse_buckets(buckets),
        max_pixels=max_pixels,
        fps=fps,
        chunks=chunks,
        scenes=scenes,
        trigger=trigger,
        clean=clean_captions,
        audio=cast("Literal['on', 'off', 'required']", audio),
        missing_audio=cast("Literal['video_only', 'skip']", missing_audio),
        downscale=reference_downscale,
        temporal=reference_temporal,
        official=official_masks,
        text=cast("TextStage", text),
    )
    with _listed():
        rows = read_rows(source, caption_ext=caption_ext, caption_column=caption_column)
        with _progress() as show:
            plan = plan_dataset(rows, options, show)
    for line in report(plan, options):
        click.echo(line)
    if check or out is None:
        return
    from ..run.codecs import Codecs
    from ..trainer.cache import stale_files
    from ..trainer.dataset import encode_dataset
    from ..trainer.models import open_networks

    networks = open_networks(checkpoints, text_encoder, device=device)
    with _progress() as show:
        index, made = encode_dataset(Codecs(networks), plan, options, out, show)
    stale = stale_files(out, index)
    click.echo(f"encoded {made} files; {out} has {len(index.entries)} clips")
    if stale and prune:
        for path in stale:
            path.unlink()
        click.echo(f"deleted {len(stale)} files that the dataset no longer uses")
    elif stale:
        click.echo(
            f"{len(stale)} files are of earlier clips, options or models, and unused: --prune deletes them"
        )


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
