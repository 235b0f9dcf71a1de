"""Generates several clips in one call: one for each prompt of a file and each seed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
from tqdm import tqdm

from ..loading import Component
from ..media import Destination, check_output
from ..media.save import check_destination
from ..media.sheet import some_frames, write_sheet
from ..run.generation import Generation
from ..run.image_checks import ImageChecks
from ..run.options import by_name
from ..run.pipeline import LTX2Pipeline, Progress
from ..run.request import Request
from ..run.saved_latents import save_latents
from .options import Chosen
from .prompt_files import read_text
from .saving import files_of, report_checks, save_checked, show
from .values import Output, naming

# A typo such as 1-80000 would otherwise sample for days.
MOST: Final = 1000
"""The largest number of clips of one call."""
MOST_LETTERS: Final = 200
"""How many characters of its prompt name a clip."""
DECODERS: Final = (Component.VIDEO_DECODER, Component.AUDIO_DECODER, Component.VOCODER)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One of several clips: its request and the path of its file.

    ``what`` is the text that names the clip in a plan and on the contact sheet: its seed and prompt.
    """

    request: Request
    path: Path
    what: str


def several_jobs(chosen: Chosen, request: Request) -> tuple[Job, ...]:
    """Make one job for each prompt of --prompts-file and each seed of --seeds; () without these options.

    ``request`` has everything that the clips share. All seeds of a prompt follow each other. Raises
    ValueError for text that cannot be parsed, and for more than ``MOST`` clips.
    """
    if chosen["prompts_file"] is None and chosen["seeds"] is None:
        return ()
    prompts = (None,) if chosen["prompts_file"] is None else read_prompts(chosen["prompts_file"])
    seeds = (None,) if chosen["seeds"] is None else parse_seeds(chosen["seeds"])
    if len(prompts) * len(seeds) > MOST:
        raise ValueError(f"{len(prompts)} prompts with {len(seeds)} seeds are more than {MOST} clips")
    trigger = chosen["trigger"]
    jobs = []
    for number, prompt in enumerate(prompts, start=1):
        for seed in seeds:
            own = request if seed is None else request.changed(seed=seed)
            if prompt is not None:
                # The trigger word is set again, because it replaces a mark in the prompt.
                own = own.changed(prompt=prompt, **({} if trigger is None else {"trigger": trigger}))
            # Padded with zeros, so that file managers list the clips in the order of the prompts.
            suffix = "" if prompt is None else f"_{number:0{max(2, len(str(len(prompts))))}d}"
            suffix += "" if seed is None else f"_seed{seed}"
            output = Path(chosen["output"])
            path = output.with_name(f"{output.stem}{suffix}{output.suffix}")
            # A line of a plan names the prompt; a whole page of text would hide the other lines.
            words = [f"seed {own.seed}", *(() if prompt is None else (_start_of(prompt),))]
            jobs.append(Job(request=own, path=path, what=", ".join(words)))
    return tuple(jobs)


def _start_of(prompt: str) -> str:
    """``prompt``, cut to ``MOST_LETTERS`` characters and "..." if it is longer."""
    return prompt if len(prompt) <= MOST_LETTERS else f"{prompt[:MOST_LETTERS]}..."


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse seeds and ranges of seeds: ``1,5,9-12`` -> (1, 5, 9, 10, 11, 12).

    Raises ValueError for other text, and for a seed that occurs twice.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", part.strip())
        if match is None:
            raise ValueError(
                f"--seeds {text}: {part.strip()!r} is no seed and no range of seeds; write 1-8 or 1,5,9"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        with naming(f"--seeds {text}"):
            by_name("seed").read(last, "")
        if last < first or last - first >= MOST:
            raise ValueError(f"--seeds {text}: {part.strip()} must rise, and holds at most {MOST} seeds")
        seeds.extend(range(first, last + 1))
    twice = next((seed for index, seed in enumerate(seeds) if seed in seeds[:index]), None)
    if twice is not None:
        raise ValueError(f"--seeds {text}: seed {twice} is there twice, and its clips would have one name")
    return tuple(seeds)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read the prompts of a file, one on each line, without empty lines and lines that begin with #.

    Raises ValueError for a file without prompts.
    """
    lines = read_text(path, "--prompts-file").splitlines()
    prompts = tuple(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    if not prompts:
        raise ValueError(f"--prompts-file {path} holds no prompt: write one on each line")
    return prompts


def run_several(
    pipeline: LTX2Pipeline, jobs: Sequence[Job], output: Output, *, sheet: bool, writes: bool
) -> None:
    """Sample all clips, then decode and save each.

    The latents of a clip are stored on disk until its file is written. With ``sheet`` a contact sheet is
    written too, an image with frames of all clips. ``writes`` is False in every process of several but the
    first: such a process takes part in sampling and writes no file.
    """
    requests = [job.request for job in jobs]
    if not writes:
        for _ in pipeline.clips(requests):
            pass
        return
    place = _sheet_of(output)
    _check_files(jobs, output, place if sheet else None)
    with _whole(len(jobs), quiet=output.quiet) as (whole, bar), _decodable_later() as saved:
        clips: list[Generation] = []
        checks: list[ImageChecks | None] = []
        on_step = None if bar is None else lambda progress: show(bar, progress)
        # All are sampled before the first is decoded, so that neither network is loaded twice.
        for job, clip in zip(jobs, pipeline.clips(requests, on_step=on_step), strict=True):
            saved[job.path] = save_latents(
                clip, job.path, files=files_of(pipeline), encoding=output.encoding.settings()
            )
            clips.append(clip)
            whole.update()
        with pipeline.networks.holding(*DECODERS):
            for number, (job, clip) in enumerate(zip(jobs, clips, strict=True), start=1):
                name = f"clip {number} of {len(jobs)}: decode"
                on_frames = None if bar is None else _on_frames(bar, name)
                checks.append(ImageChecks.of(clip))
                save_checked(clip, job.path, output, on_frames, checks[-1])
                saved.pop(job.path).unlink(missing_ok=True)
                whole.update()
    # After the bars, which would be drawn over the lines.
    for job, checked in zip(jobs, checks, strict=True):
        if checked is not None:
            click.echo(f"{job.path.name}: {job.what}", err=True)
            report_checks(checked)
    if sheet:
        write_sheet([(job.what, some_frames(job.path)) for job in jobs], place)
        click.echo(str(place.resolve()))


def files_of_jobs(jobs: Sequence[Job], output: Output, *, sheet: bool) -> list[Path]:
    """The paths that :func:`run_several` writes to; none without jobs. ``sheet`` adds the contact sheet."""
    return [job.path for job in jobs] + ([_sheet_of(output)] if sheet and jobs else [])


def _sheet_of(output: Output) -> Path:
    return output.path.with_name(f"{output.path.stem}_sheet.png")


def _check_files(jobs: Sequence[Job], output: Output, sheet: Path | None) -> None:
    """Check that the files of all clips can be written, and the contact sheet at ``sheet`` (None for none).

    Raises ValueError if the output is stdout or a folder, and for a contact sheet of files without video.
    """
    if output.destination.is_stdout or output.own_folder:
        raise ValueError(
            f"--output {output.text}: several clips are several files: give a name such as clip.mp4"
        )
    if sheet is not None:
        if output.destination.is_images or not output.destination.format.video:
            raise ValueError(f"--contact-sheet shows frames of video files, and {output.text} is none")
        check_output(sheet)
    for job in jobs:
        check_destination(Destination.of(job.path), output.encoding)


def _on_frames(bar: Any, name: str) -> Any:
    return lambda done, total: show(bar, Progress(stage=name, step=done, steps=total))


@contextmanager
def _whole(count: int, *, quiet: bool) -> Iterator[tuple[Any, Any]]:
    """A context that yields two tqdm bars: one for all clips, and one for the current part of a clip.

    The bar for all clips counts each of the ``count`` clips twice: when it is sampled and when it is written.
    With ``quiet`` nothing is drawn, and the other bar is None.
    """
    with (
        tqdm(total=2 * count, desc="all clips", unit="half", file=sys.stderr, disable=quiet) as whole,
        nullcontext() if quiet else tqdm(file=sys.stderr, unit="step", position=1, leave=False) as bar,
    ):
        yield whole, bar


@contextmanager
def _decodable_later() -> Iterator[dict[Path, Path]]:
    """A context that yields a dict, to which the caller adds: path of a clip -> path of its stored latents.

    If the block fails, the commands that decode these latents are printed on stderr.
    """
    saved: dict[Path, Path] = {}
    try:
        yield saved
    # Latents are worth decoding after Ctrl+C, too, which is no Exception.
    except BaseException:
        if saved:
            click.echo("the sampled latents are saved; these commands decode them:", err=True)
        for path in saved:
            click.echo(f"  ltx2 generate --resume -o {path}", err=True)
        raise
