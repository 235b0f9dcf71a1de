"""A clip that conditions LTX-Video somewhere inside of the video, as its official code places it.

Letters: B batch, K F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..shapes import TEMPORAL_SCALE
from ..types import Guide, LatentState
from .patchify import guide_positions
from .streams import check_grid, check_strength, fit_batch, video_and_mask, with_video

_PREFIX = 2
"""Latent frames that become extra tokens: they were encoded as the start of a clip, which is not here."""


@dataclass(frozen=True, kw_only=True)
class ClipInside:
    """An encoded clip of at least 9 frames that the video contains from pixel frame ``frame`` on.

    ``latent`` (B or 1, 128, K, H, W) is normalised, ``frame`` is a multiple of 8 above 0. Its first two
    latent frames become extra tokens, the others replace those of the video. The mask of both is ``1 -
    strength``.
    """

    latent: Tensor
    frame: int
    strength: float = 1.0

    def apply(self, state: LatentState) -> LatentState:
        """Return a copy of ``state`` with the clip. Raises ValueError for a clip that does not fit there."""
        check_strength(self.strength)
        if self.frame % TEMPORAL_SCALE or self.frame <= 0:
            near = max(1, round(self.frame / TEMPORAL_SCALE)) * TEMPORAL_SCALE
            raise ValueError(
                f"a clip inside of the video begins at a multiple of {TEMPORAL_SCALE} frames above 0; got "
                f"{self.frame}, try {near}"
            )
        video, mask = video_and_mask(state)
        clip = fit_batch("clip latent", self.latent, video)
        check_grid("clip latent", clip, video)
        prefix, rest = clip[:, :, :_PREFIX], clip[:, :, _PREFIX:]
        if prefix.shape[2] < _PREFIX:
            raise ValueError("a clip inside of the video needs at least 9 frames; use an image for one")
        at, own = self.frame // TEMPORAL_SCALE + _PREFIX, video.shape[2] - state.guide_frames
        if at + rest.shape[2] > own:
            raise ValueError(
                f"the clip reaches to latent {at + rest.shape[2]} and the video has {own}: use fewer frames"
            )
        still = 1 - self.strength
        put = torch.cat((video[:, :, :at], rest, video[:, :, at + rest.shape[2] :], prefix), dim=2)
        held = mask.clone()
        held[:, :, at : at + rest.shape[2]] = still
        held = torch.cat((held, torch.full_like(mask[:, :, :_PREFIX], still)), dim=2)
        rows, columns = clip.shape[3:]
        positions = guide_positions(
            _PREFIX, rows, columns, state.fps, frame=self.frame, times=state.times, own_layout=True
        )
        guide = Guide(frames=_PREFIX, positions=positions)
        return replace(with_video(state, put, held), guides=(*state.guides, guide))
