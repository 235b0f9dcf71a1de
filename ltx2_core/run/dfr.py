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
"""How much of a keyframe that guides a temporal round is preserved; the rest may change with its tile."""

Keyframes: TypeAlias = "dict[int, Tensor]"
"""The latents (1, C, 1, H, W) of generated keyframes by the pixel frame of the clip at which they are."""


class StageResult(NamedTuple):
    """The sampled latents of a stage, without guides, and the generated keyframes (1, C, K, H, W)."""

    latents: AVLatent
    keyframes: Tensor


class DfrNetworks(Protocol):
    """The object by which :class:`DfrRun` runs networks: one for the library, one for nodes in ComfyUI."""

    def sample(
        self, index: int, stage: Stage, start: AVLatent | None, items: Sequence[Conditioning]
    ) -> StageResult:
        """Sample ``stage``, number ``index`` from 0, from the latents ``start`` (None: zeros) with noise.

        ``items`` are its conditioning. Returns the latents and the keyframes that the stage generates.
        """
        ...

    def enlarge(self, video: Tensor) -> Tensor:
        """Upscale a video latent (1, C, F, H, W) in space, usually to twice its rows and columns."""
        ...

    def double_frames(self, video: Tensor) -> Tensor:
        """Upscale a video latent in time: (1, C, F, H, W) -> (1, C, 2F - 1, H, W)."""
        ...

    def report(self, what: str) -> None:
        """Tell the user what comes next, such as "double to 48 fps"."""
        ...


class DfrRun:
    """One run of the DFR pipeline, whose ``stages`` are those of :func:`.dfr_plan.dfr_stages`.

    ``items`` are two lists, the conditioning of the first and of the second stage. With ``detail`` the second
    stage has the result of the first as its reference, ``detail`` times smaller than its own clip; None is
    without reference.
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
        """Sample all stages; returns the latents of the finished clip and the keyframes of the first stage.

        The latents are cut to the length of the finished clip. Their audio is that of the first stage.
        """
        first = self.stages[0]
        items = [*self.items[0], KeyframeSlots(frames=first.keyframes)]
        half, keyframes = self.networks.sample(0, first, None, items)
        video, carried = self._full_size(half, keyframes)
        for number in range(1, self.stages[-1].round + 1):
            video, carried = self._round(number, video, carried)
        # The stages sample more frames than the clip has, whole segments, and as much audio.
        clip, audio = first.finished, half.audio
        cut = None if audio is None else audio[:, :, : clip.audio_latents]
        return StageResult(AVLatent(video[:, :, : clip.latent_frames], cut), keyframes)

    def _full_size(self, half: AVLatent, keyframes: Tensor) -> tuple[Tensor, Keyframes]:
        """Upscale the latents of the first stage and sample the second stage from them.

        ``half`` and ``keyframes`` (1, C, K, H, W) are the result of the first stage. Returns the video
        (1, C, F, H, W) at full size and its keyframes.
        """
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

        ``carried`` are its keyframes, ``number`` is that of the temporal round, from 1. Returns the new video
        (1, C, 2F - 1, H, W) and all its keyframes: those of ``carried`` and those that this round generated,
        by the frames of the new video.
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
            # A tile begins with the last segment of the tile before it, whose keyframe there is used.
            made = {**_by_frame(tile.slots, own), **made}
        return torch.cat(parts, dim=2), {**carried, **made}


def _by_frame(frames: Sequence[int], keyframes: Tensor) -> Keyframes:
    return dict(zip(frames, keyframes.split(1, dim=2), strict=True))


def tile_items(
    items: Sequence[Conditioning], video: Tensor, stage: Stage, carried: Keyframes
) -> list[Conditioning]:
    """The conditioning of the tile that ``stage`` samples: images, guiding keyframes, keyframes to generate.

    ``items`` are the images of the clip at the size of the tile, at the frames that they have before any
    doubling; those outside the tile are left out. ``video`` (1, C, F, H, W) is the latent that the tile is
    sampled from. ``carried`` are the keyframes of the clip, by its frames after this doubling.
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
