"""The DFR pipeline of LTX-2.5 (Diffusion Fidelity Rendering): two stages, then rounds that double the rate.

Letters: C latent channels, K keyframes, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from ..conditioning.guide_frames import GuideFrames
from ..conditioning.items import Conditioning, ImageInPlace
from ..conditioning.slots import KeyframeSlots
from ..shapes import TEMPORAL_SCALE
from ..types import AVLatent
from .stages import Stage

ANCHOR_STRENGTH: Final = 0.95
"""How much of a keyframe is preserved that guides a temporal round; the rest lets a tile settle its ends."""

Keyframes: TypeAlias = "dict[int, Tensor]"
"""The latents (1, C, 1, H, W) of generated keyframes by the pixel frame of the clip at which they are."""


class StageResult(NamedTuple):
    """The latents of a stage without guides, and the keyframes (1, C, K, H, W) generated next to them."""

    latents: AVLatent
    keyframes: Tensor


class DfrNetworks(Protocol):
    """What runs the networks for the DFR pipeline: the library, or the nodes in ComfyUI."""

    def sample(
        self, index: int, stage: Stage, start: AVLatent | None, items: Sequence[Conditioning]
    ) -> StageResult:
        """Sample ``stage``, number ``index``, with ``items``; ``start`` None is an empty clip."""
        ...

    def enlarge(self, video: Tensor) -> Tensor:
        """Upscale a video latent in space, usually to twice its rows and columns."""
        ...

    def double_frames(self, video: Tensor) -> Tensor:
        """Upscale a video latent in time: (1, C, F, H, W) -> (1, C, 2F - 1, H, W)."""
        ...

    def report(self, what: str) -> None:
        """Tell the user what comes next, such as "double to 48 fps"."""
        ...


class DfrRun:
    """One run of the DFR pipeline, whose ``stages`` are those of :func:`.dfr_plan.dfr_stages`.

    ``items`` are the conditioning of the first two stages; ``detail`` is how many times smaller than the clip
    the reference of the second stage is, None without one.
    """

    def __init__(
        self,
        networks: DfrNetworks,
        stages: Sequence[Stage],
        items: Sequence[Sequence[Conditioning]],
        detail: int | None,
    ) -> None:
        self.networks = networks
        self.stages = stages
        self.items = items
        self.detail = detail

    def sample(self) -> StageResult:
        """Sample all stages: latents of the length of the finished clip, and the first stage's keyframes.

        The audio is that of the first stage.
        """
        first = self.stages[0]
        items = [*self.items[0], KeyframeSlots(frames=first.keyframes)]
        half, keyframes = self.networks.sample(0, first, None, items)
        video, carried = self._full_size(half, keyframes)
        for number in range(1, self.stages[-1].round + 1):
            video, carried = self._round(number, video, carried)
        # The canvas is padded to whole segments, and its audio is as long.
        clip, audio = first.finished, half.audio
        cut = None if audio is None else audio[:, :, : clip.audio_latents]
        return StageResult(AVLatent(video[:, :, : clip.latent_frames], cut), keyframes)

    def _full_size(self, half: AVLatent, keyframes: Tensor) -> tuple[Tensor, Keyframes]:
        """Upscale the result of the first stage and sample the second: returns its video and keyframes."""
        stage = self.stages[1]
        assert half.video is not None
        self.networks.report(f"upscale to {stage.clip.width}x{stage.clip.height}")
        initial = self.networks.enlarge(keyframes)
        items = [*self.items[1], KeyframeSlots(frames=stage.keyframes, initial=initial)]
        if self.detail is not None:
            items.append(GuideFrames(latent=half.video, frame=0, scale=self.detail, single_frame=False))
        start = replace(half, video=self.networks.enlarge(half.video))
        full, own = self.networks.sample(1, stage, start, items)
        assert full.video is not None
        return full.video, _by_frame(stage.keyframes, own)

    def _round(self, number: int, video: Tensor, carried: Keyframes) -> tuple[Tensor, Keyframes]:
        """Double the frame rate of ``video`` (1, C, F, H, W) and sample it again in tiles.

        ``carried`` are the keyframes so far. Returns the video and the keyframes of temporal round
        ``number``.
        """
        self.networks.report(f"double to {self.stages[0].clip.fps * 2**number:g} fps")
        video = self.networks.double_frames(video)
        carried = {2 * frame: keyframe for frame, keyframe in carried.items()}
        parts: list[Tensor] = []
        made: Keyframes = {}
        for index, stage in enumerate(self.stages):
            tile = stage.tile
            if tile is None or stage.round != number:
                continue
            start = video[:, :, tile.latent_start : tile.latent_end]
            items = tile_items(self.items[1], start, stage, carried)
            latents, own = self.networks.sample(index, stage, AVLatent(start, None), items)
            assert latents.video is not None
            parts.append(latents.video[:, :, tile.dropped :])
            # A tile begins with the last segment of the one before it, whose keyframe counts.
            made = {**_by_frame(tile.slots, own), **made}
        return torch.cat(parts, dim=2), {**carried, **made}


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
    conditions: list[Conditioning] = []
    for item in items:
        if isinstance(item, ImageInPlace) and tile.start == 0:
            # A second latent frame would stand for other frames at the doubled rate.
            conditions.append(replace(item, latent=item.latent[:, :, :1]))
        elif isinstance(item, GuideFrames):
            frame = item.frame * 2**stage.round
            if tile.start <= frame <= tile.end:
                conditions.append(replace(item, frame=frame - tile.start))
    conditions += [
        GuideFrames(
            latent=carried[frame], frame=frame - tile.start, strength=ANCHOR_STRENGTH, single_frame=True
        )
        for frame in tile.anchors
    ]
    # The nearest latent frame, as the official pipeline finds it.
    nearest = [min(round(frame / TEMPORAL_SCALE), video.shape[2] - 1) for frame in stage.keyframes]
    return [*conditions, KeyframeSlots(frames=stage.keyframes, initial=video[:, :, nearest])]
