"""Records in a LATENT which images and clips condition it, so that the next stage can encode them again.

A stage is one of two sampling runs for a clip, of which the second has a larger size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from torch import Tensor

from ...ltx2_core.editing.conditioning import FirstFrames, ReferenceFrames, SourceFrames
from ...ltx2_core.editing.dub import DubbedAudio
from ..host.latents import ATTACHED, GUIDE_FRAMES, Latent, to_av


@dataclass(frozen=True, eq=False)
class AttachedImage:
    """An image or clip, an IMAGE, that replaces the first frames.

    ``strength`` 1 preserves it, 0 ignores it, and ``next_strength`` is that of the next sampling stage (None:
    the same); ``crf`` is its H.264 compression, 0 is off.
    """

    image: Tensor
    strength: float
    crf: int = 0
    next_strength: float | None = None

    @property
    def in_next_stage(self) -> AttachedImage:
        """The same image with the strength of the next sampling stage."""
        strength = self.strength if self.next_strength is None else self.next_strength
        return replace(self, strength=strength)


@dataclass(frozen=True, eq=False, kw_only=True)
class AttachedGuide:
    """An image or clip, an IMAGE, that guides the video from pixel frame ``frame`` on; -1 is the last frame.

    ``strength`` 1 fixes the guide; ``attention`` is the weight of attention to it. ``mask`` (masks, height,
    width) multiplies that weight for parts of the guide, by one mask for all frames or several along time;
    None weights all parts alike. The guide is encoded ``downscale`` times smaller than the clip, and of each
    ``every`` frames one is used.
    """

    image: Tensor
    frame: int
    strength: float
    attention: float
    mask: Tensor | None
    downscale: int
    every: int = 1


Attached: TypeAlias = (
    AttachedImage | AttachedGuide | FirstFrames | SourceFrames | ReferenceFrames | DubbedAudio
)


def attached_to(latent: Latent) -> tuple[Attached, ...]:
    """The images and clips that earlier nodes attached to a LATENT, in the order of the nodes."""
    items: tuple[Attached, ...] = latent.get(ATTACHED, ())
    return items


def remember(latent: Latent, item: Attached) -> Latent:
    """Return a copy of the LATENT to which ``item``, an image, clip or guide, is attached too.

    The next sampling stage, at a larger size, encodes attached items again.
    """
    # A new tuple: the LATENT may go to several branches of the graph, each with further items.
    return {**latent, ATTACHED: (*attached_to(latent), item)}


def without_attached(latent: Latent) -> Latent:
    """Return a copy of the LATENT without the images and clips that nodes attached to it."""
    return {key: value for key, value in latent.items() if key != ATTACHED}


def marked_guides(latent: Latent, frames: int) -> Latent:
    """Return a copy of the LATENT with a mark: the last ``frames`` latent frames of its video are guides."""
    return {**latent, GUIDE_FRAMES: (frames, _frames(latent))}


def refuse_guides(latent: Latent, node: str, *, advice: str = "") -> None:
    """Raise ValueError if a LATENT that is an input of ``node`` still contains guide frames.

    The message says to remove them after sampling, or gives ``advice`` in place of that, if it is not empty.
    """
    if guides := guides_marked(latent):
        advice = advice or (
            f"move LTX-2 Crop Guides between the sampler and {node}, and connect its conditioning to the "
            "next stage"
        )
        raise ValueError(f"this latent still holds {guides} guide frames: {advice}")


def guides_marked(latent: Latent) -> int | None:
    """How many guide frames a LATENT is marked to have at the end of its video; None without a valid mark.

    A mark is valid only while the video has the length for which the mark was made, because other nodes copy
    marks to latents of another length.
    """
    guides, frames = latent.get(GUIDE_FRAMES) or (None, None)
    return guides if frames is not None and frames == _frames(latent) else None


def _frames(latent: Latent) -> int:
    video = to_av(latent).video
    return 0 if video is None else int(video.shape[2])
