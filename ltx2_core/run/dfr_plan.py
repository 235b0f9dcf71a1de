"""Plans the DFR pipeline of LTX-2.5 (Diffusion Fidelity Rendering), and checks what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from os import PathLike
from typing import Final

from ..loading import Checkpoint, Lora, LoraSpec
from ..loading.lora import BY_RECIPE
from ..sampling.schedules import FIXED_SIGMAS
from ..shapes import ClipPlan, frames_of
from ..storage.files import JsonObject
from ..types import Numerics
from .dfr_layout import Tile, anchors_after, plan_canvas, plan_tiles
from .frame_rate import open_temporal_upscaler
from .lora_files import LoraFile, open_loras
from .recipes import Recipe
from .request import Request
from .stages import Stage, plan_stages

MAX_FPS: Final = 60.0
"""The highest frame rate that is passed to the model in temporal rounds.

The model was trained on no higher one: above it, motion jumps at the border of each latent frame.
"""
ETA: Final = 0.5
"""The share of fresh noise in each sampling step of a temporal round."""
DETAIL_SCALE: Final = 2
"""How many times smaller than the clip the reference of a detail LoRA is, if its file does not say it."""


@dataclass(frozen=True, kw_only=True)
class OpenedDfrFiles:
    """The files that :class:`DfrFiles` names, opened: their headers have been read."""

    detail_lora: Lora | None = None
    temporal_upscaler: Checkpoint | None = None


@dataclass(frozen=True, kw_only=True)
class DfrFiles:
    """The files that only the DFR pipeline of LTX-2.5 uses; None for those that are not used.

    ``detail_lora`` is an IC-LoRA that sharpens the second stage, ``temporal_upscaler`` the temporal latent
    upscaler of the temporal rounds.
    """

    detail_lora: LoraFile | None = None
    temporal_upscaler: str | PathLike[str] | None = None

    def opened(self) -> OpenedDfrFiles:
        """Read the headers of the files. Raises ValueError for files of another kind."""
        lora, upscaler = self.detail_lora, self.temporal_upscaler
        if isinstance(lora, LoraSpec) and lora.strength == BY_RECIPE:
            raise ValueError(f"{lora.path} is named as the detail LoRA, whose strength is a number")
        return OpenedDfrFiles(
            detail_lora=None if lora is None else open_loras((lora,))[0],
            temporal_upscaler=None if upscaler is None else open_temporal_upscaler(upscaler),
        )


NO_DFR_FILES: Final = DfrFiles()


def plan_dfr(
    request: Request,
    numerics: Numerics,
    recipe: Recipe,
    *,
    enlargement: Fraction = Fraction(2),
    detail: int | None = None,
) -> tuple[Stage, ...]:
    """Plan all stages of ``request`` by the DFR pipeline; the arguments are those of :func:`plan_stages`.

    ``detail`` is how many times smaller than the clip the reference of the detail LoRA is; None without one.
    Raises ValueError as :func:`plan_stages` and :func:`dfr_stages` do.
    """
    stages = plan_stages(request, numerics, recipe, enlargement=enlargement)
    return dfr_stages(stages, request.staging.temporal_rounds, enlargement=enlargement, detail=detail)


def dfr_stages(
    stages: Sequence[Stage], rounds: int, *, enlargement: Fraction, detail: int | None
) -> tuple[Stage, ...]:
    """Plan the DFR pipeline: two stages, then for each temporal round a stage for each of its tiles.

    ``stages`` are those of a plain run in two stages; here they sample more frames than the clip has, up to
    the end of a segment (see :class:`Canvas`). ``rounds`` is how often the frame rate is doubled.
    ``enlargement`` is the factor of the spatial upscaler, ``detail`` how many times smaller than the clip the
    reference of the detail LoRA is; None without one. Raises ValueError for a clip of fewer than 9 frames,
    for a first stage of a single latent cell, and for a detail LoRA that does not fit the upscaler.
    """
    first, second = stages
    clip = second.clip
    canvas = plan_canvas(clip.frames)
    finished = replace(clip, frames=canvas.frames_after(rounds), fps=clip.fps * 2**rounds)
    first, second = (
        replace(
            stage,
            clip=replace(stage.clip, frames=canvas.padded),
            finished=finished,
            keyframes=canvas.keyframes,
        )
        for stage in (first, second)
    )
    if first.clip.latent_width * first.clip.latent_height == 1:
        # The upscaler takes a single keyframe alone, and normalises over its cells.
        raise ValueError(
            f"{clip.width}x{clip.height} is too small for the DFR pipeline: use a width or height of at "
            f"least {2 * max(clip.width, clip.height)}"
        )
    if detail is not None:
        if detail != enlargement:
            other = f", or an upscaler x{detail}" if detail > 1 else ""
            raise ValueError(
                f"the detail LoRA takes a reference {detail} times smaller, and the upscaler enlarges by "
                f"{float(enlargement):g}: use a detail LoRA for {float(enlargement):g}{other}"
            )
        second = replace(second, reference_tokens=first.clip.video_tokens)
    tiles = (
        _tile_stage(second, tile, number=number, index=index)
        for number, round_tiles in enumerate(_rounds(canvas.keyframes, rounds), start=1)
        for index, tile in enumerate(round_tiles)
    )
    return (first, second, *tiles)


def _rounds(keyframes: tuple[int, ...], rounds: int) -> Iterator[tuple[Tile, ...]]:
    """Plan the tiles of each temporal round of a clip whose first two stages have ``keyframes``."""
    slots: set[int] = set()
    for number in range(1, rounds + 1):
        keyframes = anchors_after(keyframes, sorted(slots))
        tiles = plan_tiles(keyframes, number)
        slots = {frame for tile in tiles for frame in tile.slots}
        yield tiles


def _tile_stage(second: Stage, tile: Tile, *, number: int, index: int) -> Stage:
    """The stage that samples ``tile``, which is number ``index`` from 0 of temporal round ``number`` from 1.

    ``second`` is the second stage of the run; the tile has its width and height.
    """
    latent_frames = tile.latent_end - tile.latent_start
    fps = min(MAX_FPS, second.clip.fps * 2**number)
    return replace(
        second,
        clip=replace(second.clip, frames=frames_of(latent_frames), fps=fps, changes=()),
        sigmas=FIXED_SIGMAS["temporal_round"],
        sampler="euler_ancestral",
        eta=ETA,
        keyframes=tuple(frame - tile.start for frame in tile.slots),
        tile=tile,
        round=number,
        # Tiles have the same positions, so that one seed would give all of them the same noise.
        step_seed=1000 * number + index,
        reference_tokens=0,
    )


def describe_dfr(stages: Sequence[Stage]) -> Iterator[str]:
    """Yield lines on the ``stages`` of a DFR run: the finished clip, then each stage with its tile."""
    asked, clip = asked_clip(stages), stages[-1].finished
    yield f"{clip.width} x {clip.height}, {clip.frames} frames at {clip.fps:g} fps = {clip.seconds:.3f} s"
    yield (
        f"{asked.frames} frames at {asked.fps:g} fps, sampled as {stages[0].clip.frames}; frame rate doubled "
        f"{stages[-1].round} times"
    )
    for index, stage in enumerate(stages, start=1):
        steps = len(stage.sigmas) - 1
        yield f"stage {index}: {stage.clip.width} x {stage.clip.height}, {steps} steps, {stage.sampler}"
        yield from (f"  {note}" for note in stage_notes(stage))


def stage_notes(stage: Stage) -> Iterator[str]:
    """Yield lines on the tile that a stage samples, the keyframes that it generates, and its reference."""
    if stage.tile is not None:
        tile = stage.tile
        anchors = ", ".join(map(str, tile.anchors))
        yield f"temporal round {stage.round}: frames {tile.start} to {tile.end}, keyframes {anchors} guide it"
    if stage.keyframes:
        start = 0 if stage.tile is None else stage.tile.start
        yield "generates keyframes " + ", ".join(str(start + frame) for frame in stage.keyframes)
    if stage.split > 1:
        yield f"in tiles, {stage.split} along time, height and width each"
    if stage.reference_tokens:
        yield f"with the clip of stage 1 as reference, {stage.reference_tokens} tokens"


def check_pipeline(request: Request, upscaler: Checkpoint | None, lora: Lora | None) -> None:
    """Raise ValueError for temporal rounds without an upscaler, or a detail LoRA without the DFR pipeline.

    ``upscaler`` is the temporal upscaler of the run, ``lora`` its detail LoRA; None if they are not named.
    """
    rounds = request.staging.temporal_rounds
    if request.staging.pipeline is None:
        if lora is not None:
            raise ValueError(
                f"{lora.path} has no effect without pipeline_kind='dfr', whose detail LoRA it is"
            )
        return
    if rounds and upscaler is None:
        raise ValueError(
            f"temporal_rounds={rounds} needs a temporal upscaler: name it with --temporal-upscaler"
        )


def dfr_files(request: Request, upscaler: Checkpoint | None, lora: Lora | None) -> JsonObject:
    """JSON values that name the files that a DFR run of ``request`` uses; {} for another pipeline.

    ``upscaler`` is the temporal upscaler, ``lora`` the detail LoRA; None if they are not named.
    """
    if request.staging.pipeline is None:
        return {}
    files: JsonObject = {} if lora is None else {"detail_lora": lora.settings}
    return (
        files
        if upscaler is None or not request.staging.temporal_rounds
        else {**files, "temporal_upscaler": upscaler.path.name}
    )


def asked_clip(stages: Sequence[Stage]) -> ClipPlan:
    """The requested size and length: those of the finished clip before its frame rate is doubled."""
    doubled, clip = 2 ** stages[-1].round, stages[-1].finished
    return replace(clip, frames=(clip.frames - 1) // doubled + 1, fps=clip.fps / doubled)


def detail_scale(lora: Lora | None) -> int | None:
    """How many times smaller than the clip the reference of a detail LoRA is; None without a LoRA."""
    if lora is None:
        return None
    stated = "reference_downscale_factor" in lora.metadata
    return lora.reference_downscale_factor if stated else DETAIL_SCALE


def at_frames(request: Request, clip: ClipPlan) -> Request:
    """A copy of ``request`` in which images at negative frames have the frame counted from the start.

    ``clip`` is the requested size and length. The DFR pipeline samples a longer clip, in which frame -1 would
    be another one.
    """
    images = [
        replace(image, frame=image.frame + clip.frames) if image.frame < 0 else image
        for image in request.inputs.images
    ]
    return request.changed(images=images) if images else request
