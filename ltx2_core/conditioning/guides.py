"""Where a guide goes and which of its pictures count: the rules of ComfyUI core 0.27's Add Guide.

Letters: N pictures, K guide latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import TEMPORAL_SCALE, frames_of, latent_frames_of


@dataclass(frozen=True, kw_only=True)
class GuidePlacement:
    """A guide on the grid of a clip.

    ``frame`` is the pixel frame that it begins at. Of its pictures ``used`` count, ``encoded`` of them are to
    be encoded; with ``lead`` a copy of the first goes before these and the first latent frame comes off
    again, because the encoder makes it from one picture while the frames amid a clip stand for eight.
    """

    frame: int
    encoded: int
    used: int
    latent_frames: int
    lead: bool

    @property
    def single_frame(self) -> bool:
        """Whether it is one picture, whose tokens cover one frame."""
        return self.used == 1

    @property
    def latent_index(self) -> int:
        """The latent frame of the clip that it begins in."""
        return (self.frame + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE

    def describe(self) -> str:
        """One line for a report."""
        last = self.frame + self.used - 1
        where = f"frame {self.frame}" if self.used == 1 else f"frames {self.frame} to {last}"
        return f"{where}: {self.used} pictures used, {self.latent_frames} latent frames"

    def pictures(self, images: Tensor) -> Tensor:
        """The pictures to encode, of ``images`` (N, ...)."""
        used = images[: self.encoded - self.lead]
        return torch.cat((used[:1], used)) if self.lead else used

    def latent(self, encoded: Tensor) -> Tensor:
        """The guide of what the encoder made, (B, C, K + lead, H, W) -> (B, C, K, H, W)."""
        return encoded[:, :, 1:] if self.lead else encoded


def place_guide(images: int, frame: int, latent_frames: int) -> GuidePlacement:
    """Put ``images`` pictures at pixel frame ``frame`` of a clip of ``latent_frames``.

    A negative frame counts from the end, -1 is the last. At frame 0, 8k + 1 pictures count; one picture may
    lie anywhere; a clip elsewhere begins at a frame 8k + 1, which is rounded down to, and 8k of its pictures
    count. Raises ValueError for no picture, and for a guide that reaches past the end.
    """
    if images < 1:
        raise ValueError("a guide needs at least one picture; got none")
    clip = frames_of(latent_frames)
    at = frame if frame >= 0 else max(clip + frame, 0)
    keep = frames_of(latent_frames_of(images))
    lead = at != 0 and keep > 1
    if lead:
        encoded = frames_of(latent_frames_of(images + 1))
        used, length = encoded - 1, latent_frames_of(encoded) - 1
        if used > 1:
            at = (at - 1) // TEMPORAL_SCALE * TEMPORAL_SCALE + 1
    else:
        encoded = used = keep
        length = latent_frames_of(keep)
    placed = GuidePlacement(frame=at, encoded=encoded, used=used, latent_frames=length, lead=lead)
    if placed.latent_index + length > latent_frames:
        raise ValueError(
            f"a guide of {used} pictures at frame {at} ends at frame {at + used - 1} and the clip has frames "
            f"0 to {clip - 1}: use fewer pictures or an earlier frame"
        )
    return placed
