"""Placement of a guide: its start frame and how many of its frames are used, as in ComfyUI's Add Guide.

Letters: N frames, K guide latent frames, H W latent rows and columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..shapes import TEMPORAL_SCALE, frames_of, latent_frames_of


@dataclass(frozen=True, kw_only=True)
class GuidePlacement:
    """Where a guide of one or more frames lies in a clip, and what to encode for it.

    ``frame`` is the pixel frame of the clip at which the guide begins, ``used`` how many of its frames take
    effect, ``encoded`` how many frames go through the encoder, and ``latent_frames`` its length in latent
    frames. With ``lead`` the guide's first frame is encoded twice and the first latent frame is dropped
    again: the encoder makes the first latent frame from a single frame, while latent frames inside a clip
    stand for eight.
    """

    frame: int
    encoded: int
    used: int
    latent_frames: int
    lead: bool

    @property
    def single_frame(self) -> bool:
        """Whether the guide is one image, so that its tokens cover one pixel frame."""
        return self.used == 1

    @property
    def latent_index(self) -> int:
        """Index of the clip's latent frame in which the guide begins."""
        # Rounded up, as latent frame k begins at pixel frame 8k - 7.
        return (self.frame + TEMPORAL_SCALE - 1) // TEMPORAL_SCALE

    def describe(self) -> str:
        """One line for a report: the pixel frames that the guide covers, and its length in latent frames."""
        last = self.frame + self.used - 1
        where = f"frame {self.frame}" if self.used == 1 else f"frames {self.frame} to {last}"
        return f"{where}: {self.used} frames used, {self.latent_frames} latent frames"

    def frames_to_encode(self, images: Tensor) -> Tensor:
        """Return the frames to pass to the encoder, ``encoded`` of them, from ``images`` (frames, ...).

        They are the first ones in order; with ``lead`` the first one comes twice.
        """
        used = images[: self.encoded - self.lead]
        return torch.cat((used[:1], used)) if self.lead else used

    def latent(self, encoded: Tensor) -> Tensor:
        """The guide's latent (B, C, K, H, W) from ``encoded``, the output of the encoder.

        With ``lead`` the encoder's output has one latent frame more, the first one, which is left out.
        """
        return encoded[:, :, 1:] if self.lead else encoded


def place_guide(images: int, frame: int, latent_frames: int) -> GuidePlacement:
    """Place a guide of ``images`` frames at pixel frame ``frame`` of a clip.

    The clip has ``latent_frames`` latent frames. A negative ``frame`` counts from the end; -1 is the last. A
    single image can be at any frame; of 2 to 8 images only the first is used, as a single image. 9 or more
    images at frame 0 are cut to 8k + 1. Elsewhere they start at a frame of the form 8k + 1, to which
    ``frame`` is rounded down, and are cut to a multiple of 8.

    Raises ValueError if ``images`` is below 1, or if the guide begins before the clip or ends after it.
    """
    if images < 1:
        raise ValueError("a guide needs at least one image; got none")
    clip = frames_of(latent_frames)
    # ComfyUI takes a frame before the start for frame 0, which moves an image by any distance.
    if frame < -clip:
        raise ValueError(
            f"a guide at frame {frame} lies before the clip, which has {clip} frames: {-clip} is its first "
            "and -1 its last"
        )
    at = frame if frame >= 0 else clip + frame
    whole = frames_of(latent_frames_of(images))
    # At frame 0 the guide's first latent frame coincides with the clip's, which also stands for one frame.
    lead = at != 0 and whole > 1
    if lead:
        # One frame more is encoded, the doubled first one, and then cut to 8k + 1 as the encoder needs.
        encoded = frames_of(latent_frames_of(images + 1))
        used, length = encoded - 1, latent_frames_of(encoded) - 1
        if used > 1:
            # Only there do eight pixel frames begin that share one latent frame; a guide between two of them
            # would blend with half of each. A single image covers one pixel frame and can stay where it is.
            at = (at - 1) // TEMPORAL_SCALE * TEMPORAL_SCALE + 1
    else:
        encoded = used = whole
        length = latent_frames_of(whole)
    placed = GuidePlacement(frame=at, encoded=encoded, used=used, latent_frames=length, lead=lead)
    if placed.latent_index + length > latent_frames:
        raise ValueError(
            f"a guide of {used} frames at frame {at} ends at frame {at + used - 1} and the clip has frames "
            f"0 to {clip - 1}: use fewer frames or an earlier position"
        )
    return placed
