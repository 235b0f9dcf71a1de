"""Guides: images and clips whose tokens are appended to those of the video.

Letters: B batch, C channels, K latent frames, H W latent rows and columns, N tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from einops import repeat
from torch import Tensor

from ..shapes import SPATIAL_SCALE
from ..types import AS_LTX2, Guide, LatentState, TimeRule
from .patchify import guide_positions
from .streams import check_grid, fit_batch, video_and_mask, with_video


@dataclass(frozen=True, kw_only=True)
class GuideFrames:
    """An encoded image or clip as a guide: its tokens are appended to the video's, at pixel frame ``frame``.

    The video attends to these tokens; :func:`.state.drop_guides` removes them after sampling. ``latent`` (B
    or 1, 128, K, H, W), with K latent frames, is normalised. ``strength`` 1 leaves it without noise, less
    regenerates it partly, more is the same as 1. ``attention`` weights the attention between video and guide,
    as one number or per latent cell (K, H, W): 1 is plain attention, 0 none, above 1 more. (In ComfyUI a
    guide's strength sets both of these at once.)

    IC-LoRAs may take a reference that is smaller than the clip: ``scale`` is the width of the clip divided by
    that of the reference, ``time_scale`` how many frames of the clip one frame of the reference stands for.
    ``single_frame`` says that the guide was encoded from one image; None means that this is so if K is 1.
    """

    latent: Tensor
    frame: int
    strength: float = 1.0
    attention: float | Tensor = 1.0
    scale: int = 1
    single_frame: bool | None = None
    time_scale: int = 1

    def positions(
        self, frames: int, height: int, width: int, fps: float, times: TimeRule = AS_LTX2
    ) -> Tensor:
        """Positions (1, 3, tokens, 2) of the tokens of a guide latent.

        Each token has start and end (exclusive) of its time in seconds, its pixel rows and its pixel columns
        in the clip. ``frames``, ``height`` and ``width`` are the latent frames, rows and columns of the
        guide, ``fps`` is the clip's frame rate, ``times`` are those of the model. Raises ValueError if
        ``time_scale`` is below 1, or above 1 for a guide that does not start at frame 0.
        """
        if self.time_scale < 1 or (self.time_scale > 1 and self.frame):
            raise ValueError(
                f"a reference of every {self.time_scale}. frame begins with the clip, at frame 0; got "
                f"frame {self.frame}"
            )
        positions = guide_positions(
            frames, height, width, fps, frame=self.frame, single_frame=self.single_frame, times=times
        )
        # Each cell of a small reference stands for scale x scale cells of the clip, so its interval grows.
        positions[:, 1:, :, 1] += (self.scale - 1) * SPATIAL_SCALE
        if self.time_scale > 1:
            # The first frame of the reference stands for the first frame of the clip alone, so that all later
            # ones are earlier by the frames that it does not cover. The bound leaves that first one at 0.
            seconds = positions[:, :1] * self.time_scale - (self.time_scale - 1) / fps
            positions = torch.cat((seconds.clamp(min=0), positions[:, 1:]), dim=1)
        return positions

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the guide's latent frames, mask and positions appended.

        The mask of the guide becomes ``1 - strength``, or 0 for a strength above 1. Raises ValueError if
        ``scale`` times the guide's latent rows and columns are not those of the clip, for a state without
        video, for a strength or attention that is negative or not finite, and as :meth:`positions` does.
        """
        for name, value in (("strength", self.strength), ("attention", self.attention)):
            # Not limited to 1, as in ComfyUI; a strength above 1 acts like 1.
            values = torch.as_tensor(value)
            if not bool((values.isfinite() & (values >= 0)).all()):
                raise ValueError(f"{name}={value} must be 0 or more")
        video, mask = video_and_mask(state)
        cells, valid = dilate(fit_batch("guide latent", self.latent, video), self.scale)
        check_grid("guide latent", cells, video)
        frames, height, width = cells.shape[2:]
        guide = Guide(
            frames=frames,
            positions=self.positions(frames, height, width, state.fps, state.times),
            attention=self._attention(frames, height, width),
            valid=None if valid is None else valid.flatten(),
        )
        # The rest of the strength is the noise level of the guide's tokens. Above 1 there is no less noise
        # than none.
        guide_mask = mask.new_full((len(video), 1, frames, height, width), max(0.0, 1 - self.strength))
        if valid is not None:
            # Cells without a token are of mask 0, so that they come back as they are.
            guide_mask = guide_mask * valid.to(guide_mask)
        state = with_video(state, torch.cat((video, cells), dim=2), torch.cat((mask, guide_mask), dim=2))
        # Frames, mask and positions are appended in the same order, by which the model finds the tokens of
        # each guide.
        return replace(state, guides=(*state.guides, guide))

    def _attention(self, *grid: int) -> float | Tensor:
        """The weight of attention to the guide: one number for all its tokens, or one for each, (tokens,).

        ``grid`` are the guide's latent frames, rows and columns, after a guide that is smaller than the clip
        has been spread over the grid of the clip. Raises ValueError for weights that do not fit this grid.
        """
        if not isinstance(self.attention, Tensor):
            return self.attention
        # Repeated over the finer grid, of which only the cells with a token are read later.
        cells = repeat(self.attention, "k h w -> k (h y) (w x)", y=self.scale, x=self.scale)
        if cells.shape != grid:
            raise ValueError(
                f"attention of shape {tuple(self.attention.shape)} must be (K, H, W) of the guide latent "
                f"{tuple(self.latent.shape)}"
            )
        return cells.flatten()


def dilate(latent: Tensor, scale: int) -> tuple[Tensor, Tensor | None]:
    """Spread a latent (B, C, K, H, W) over a grid ``scale`` times finer in rows and columns.

    New cells are zeros. ComfyUI appends a small reference to a latent in this way; cells in between have no
    token in the model. Returns (B, C, K, scale H, scale W) and a bool mask (K, scale H, scale W) that is True
    at the original cells, or for a scale of 1 the latent itself and None. Raises ValueError for a scale below
    1.
    """
    if scale < 1:
        raise ValueError(f"scale={scale} must be 1 or more")
    if scale == 1:
        return latent, None
    _, _, frames, height, width = latent.shape
    spread = latent.new_zeros(*latent.shape[:3], height * scale, width * scale)
    # The original cells lie at the first of each group, as in ComfyUI.
    spread[..., ::scale, ::scale] = latent
    valid = torch.zeros(frames, height * scale, width * scale, dtype=torch.bool, device=latent.device)
    valid[:, ::scale, ::scale] = True
    return spread, valid
