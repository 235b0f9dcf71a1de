"""The DFR pipeline of LTX-2.5 (Diffusion Fidelity Rendering): two stages, then rounds that double the rate.

Letters: C latent channels, K keyframes, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ..conditioning.guide_frames import GuideFrames
from ..conditioning.items import Conditioning, ImageInPlace
from ..conditioning.slots import KeyframeSlots, generated_keyframes
from ..conditioning.state import drop_guides
from ..loading import Checkpoint, Component, Lora
from ..sampling.caching import Evaluations
from ..sampling.schedules import FIXED_SIGMAS
from ..storage.files import JsonObject
from ..shapes import TEMPORAL_SCALE, ClipPlan, frames_of
from ..types import AVLatent
from .components import Components
from .dfr_layout import Tile, anchors_after, plan_canvas, plan_tiles
from .prompt_embeds import Contexts
from .request import Request
from .stage_sampler import StageSampler
from .stages import Stage

MAX_FPS: Final = 60.0
"""The highest frame rate that the model is told.

It was trained on no higher one: above it motion jumps at the border of each latent frame.
"""
ANCHOR_STRENGTH: Final = 0.95
"""How much of a keyframe is preserved that guides a temporal round; the rest lets a tile settle its ends."""
ETA: Final = 0.5
Keyframes: TypeAlias = "dict[int, Tensor]"
"""The latents (1, C, 1, H, W) of generated keyframes by the pixel frame of the clip at which they are."""
DETAIL_SCALE: Final = 2
"""How much smaller than the clip the reference of a detail LoRA is, if its file does not say it."""


class Sampled(NamedTuple):
    """What was sampled: the latents of the clip, the forward passes of each stage, and generated keyframes.

    ``keyframes`` (1, C, K, H, W) are those of the first stage, None without any.
    """

    latents: AVLatent
    evaluations: tuple[Evaluations, ...]
    keyframes: Tensor | None


class DfrModels(Protocol):
    """What the DFR pipeline needs of a pipeline: its networks, its LoRAs and both upscalers."""

    networks: Components
    detail_lora: Lora | None

    def stage_loras(self, index: int) -> tuple[Lora, ...]: ...

    def upsample(self, latents: AVLatent) -> AVLatent: ...

    def double_frames(self, video: Tensor) -> Tensor: ...


def dfr_stages(
    stages: Sequence[Stage], rounds: int, *, enlargement: Fraction, detail: int | None
) -> tuple[Stage, ...]:
    """Plan the DFR pipeline: the two ``stages`` of a clip, padded, then one stage for each tile of each round.

    ``stages`` are those of a plain run in two stages, ``rounds`` how often the frame rate is doubled.
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
            f"{clip.width}x{clip.height} is too small for the DFR pipeline: use a width or height of at least "
            f"{2 * max(clip.width, clip.height)}"
        )
    if detail is not None:
        if detail != enlargement:
            raise ValueError(
                f"the detail LoRA takes a reference {detail} times smaller, and the upscaler enlarges by "
                f"{float(enlargement):g}: use an upscaler x{detail}"
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
    """The stage that samples ``tile``, number ``index`` of temporal round ``number``.

    ``second`` is the second stage of the run, whose clip has the size of the tile.
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


def check_pipeline(request: Request, upscaler: Checkpoint | None, lora: Lora | None) -> None:
    """Raise ValueError if the files of the DFR pipeline are missing, or named for a run of another pipeline.

    ``upscaler`` is the temporal upscaler of the run, ``lora`` its detail LoRA; None if they are not named.
    """
    rounds = request.staging.temporal_rounds
    if request.staging.pipeline is None:
        if lora is not None:
            raise ValueError(f"{lora.path} has no effect without pipeline='dfr', whose detail LoRA it is")
        return
    if rounds and upscaler is None:
        raise ValueError(
            f"temporal_rounds={rounds} need a temporal upscaler: name it with --temporal-upscaler"
        )


def dfr_files(request: Request, upscaler: Checkpoint | None, lora: Lora | None) -> JsonObject:
    """JSON values that name the files of the DFR pipeline that a run of ``request`` has used; {} for others.

    ``upscaler`` is the temporal upscaler, ``lora`` the detail LoRA; None if they are not named.
    """
    if request.staging.pipeline is None:
        return {}
    files: JsonObject = {} if lora is None else {"detail_lora": lora.settings}
    return files if upscaler is None or not request.staging.temporal_rounds else {**files, "temporal_upscaler": upscaler.path.name}


def asked_clip(stages: Sequence[Stage]) -> ClipPlan:
    """The size and length that were asked for: those of the finished clip before any doubling of its rate."""
    doubled, clip = 2 ** stages[-1].round, stages[-1].finished
    return replace(clip, frames=(clip.frames - 1) // doubled + 1, fps=clip.fps / doubled)


def detail_scale(lora: Lora | None) -> int | None:
    """How many times smaller than the clip the reference of a detail LoRA is; None without a LoRA."""
    if lora is None:
        return None
    stated = "reference_downscale_factor" in lora.metadata
    return lora.reference_downscale_factor if stated else DETAIL_SCALE


def at_frames(request: Request, clip: ClipPlan) -> Request:
    """``request`` with its images at frames counted from the start of ``clip``, the clip that it asks for.

    The clip that is sampled is longer, so that frame -1 would be another one there.
    """
    images = [
        replace(image, frame=image.frame + clip.frames) if image.frame < 0 else image
        for image in request.inputs.images
    ]
    return request.changed(images=images) if images else request


class DfrRun:
    """One run of the DFR pipeline, whose ``stages`` are those of :func:`dfr_stages`.

    ``items`` are the conditioning of the first two stages, ``contexts`` the encoded prompts of all stages.
    """

    def __init__(
        self,
        models: DfrModels,
        sampler: StageSampler,
        stages: Sequence[Stage],
        items: Sequence[Sequence[Conditioning]],
        contexts: Sequence[Contexts],
    ) -> None:
        self.models = models
        self.sampler = sampler
        self.stages = stages
        self.items = items
        self.contexts = contexts
        self._calls: list[Evaluations] = []

    def sample(self) -> Sampled:
        """Sample all stages; the latents have the length of the finished clip, with the first stage's audio."""
        half, keyframes = self._stage(
            0, None, [*self.items[0], KeyframeSlots(frames=self.stages[0].keyframes)]
        )
        video, carried = self._full_size(half, keyframes)
        for number in range(1, self.stages[-1].round + 1):
            video, carried = self._round(number, video, carried)
        # The canvas is padded to whole segments, and its audio is as long.
        clip, audio = self.stages[-1].finished, half.audio
        cut = None if audio is None else audio[:, :, : clip.audio_latents]
        return Sampled(AVLatent(video[:, :, : clip.latent_frames], cut), tuple(self._calls), keyframes)

    def _full_size(self, half: AVLatent, keyframes: Tensor) -> tuple[Tensor, Keyframes]:
        """Upscale the result of the first stage and sample the second: returns its video and keyframes."""
        stage, run, scale = self.stages[1], self.sampler.run, detail_scale(self.models.detail_lora)
        run.report(f"upscale to {stage.clip.width}x{stage.clip.height}", 0, 1)
        initial = self.models.upsample(AVLatent(keyframes, None)).video
        items = [*self.items[1], KeyframeSlots(frames=stage.keyframes, initial=initial)]
        if scale is not None:
            assert half.video is not None
            items.append(GuideFrames(latent=half.video, frame=0, scale=scale, single_frame=False))
        full, own = self._stage(1, self.models.upsample(half), items)
        assert full.video is not None
        return full.video, _by_frame(stage.keyframes, own)

    def _round(self, number: int, video: Tensor, carried: Keyframes) -> tuple[Tensor, Keyframes]:
        """Double the frame rate of ``video`` (1, C, F, H, W) and sample it again in tiles.

        ``carried`` are the keyframes so far. Returns the video and the keyframes of temporal round
        ``number``.
        """
        tiles = [(index, stage) for index, stage in enumerate(self.stages) if stage.round == number]
        self.sampler.run.report(f"double to {self.stages[0].clip.fps * 2**number:g} fps", 0, 1)
        video = self.models.double_frames(video)
        carried = {2 * frame: keyframe for frame, keyframe in carried.items()}
        parts: list[Tensor] = []
        made: Keyframes = {}
        # One load serves all tiles.
        with self.models.networks.holding(Component.TRANSFORMER):
            for index, stage in tiles:
                tile = stage.tile
                assert tile is not None
                start = video[:, :, tile.latent_start : tile.latent_end]
                items = tile_items(self.items[1], start, stage, carried)
                latents, own = self._stage(index, AVLatent(start, None), items)
                assert latents.video is not None
                parts.append(latents.video[:, :, tile.dropped :])
                # A tile begins with the last segment of the one before it, whose keyframe counts.
                made = {**_by_frame(tile.slots, own), **made}
        return torch.cat(parts, dim=2), {**carried, **made}

    def _stage(
        self, index: int, start: AVLatent | None, items: Sequence[Conditioning]
    ) -> tuple[AVLatent, Tensor]:
        """Sample stage ``index`` from ``start`` with ``items``: the latents without guides, and keyframes.

        The keyframes (1, C, K, H, W) are those that the stage generates. ``start`` None is an empty clip.
        """
        state = self.sampler.state(self.stages[index], start)
        for item in items:
            state = item.apply(state)
        loras, contexts = self.models.stage_loras(index), self.contexts[index]
        latents, used = self.sampler.sample(index, self.stages[index], state, contexts, loras)
        self._calls.append(used)
        keyframes = generated_keyframes(latents, state)
        assert keyframes is not None
        return drop_guides(latents, state), keyframes


def _by_frame(frames: Sequence[int], keyframes: Tensor) -> Keyframes:
    return dict(zip(frames, keyframes.split(1, dim=2), strict=True))


def tile_items(
    items: Sequence[Conditioning], video: Tensor, stage: Stage, carried: Keyframes
) -> list[Conditioning]:
    """The conditioning of a tile: images that lie in it, keyframes as guides, keyframes to generate.

    ``items`` are the images at the size of the tile, at frames before any doubling. ``video`` (1, C, F, H, W)
    is the upscaled latent of the tile. ``carried`` are the keyframes of the clip so far.
    """
    tile = stage.tile
    assert tile is not None
    given: list[Conditioning] = []
    for item in items:
        if isinstance(item, ImageInPlace) and tile.start == 0:
            # A second latent frame would stand for other frames at the doubled rate.
            given.append(replace(item, latent=item.latent[:, :, :1]))
        elif isinstance(item, GuideFrames):
            frame = item.frame * 2**stage.round
            if tile.start <= frame <= tile.end:
                given.append(replace(item, frame=frame - tile.start))
    given += [
        GuideFrames(
            latent=carried[frame], frame=frame - tile.start, strength=ANCHOR_STRENGTH, single_frame=True
        )
        for frame in tile.anchors
    ]
    # The nearest latent frame, as the official pipeline finds it.
    nearest = [min(round(frame / TEMPORAL_SCALE), video.shape[2] - 1) for frame in stage.keyframes]
    return [*given, KeyframeSlots(frames=stage.keyframes, initial=video[:, :, nearest])]
