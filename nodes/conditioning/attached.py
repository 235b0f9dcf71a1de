"""Images and clips that a LATENT remembers, so that the next stage can be conditioned on them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from ...ltx2_core.editing.conditioning import FirstFrames, SourceFrames
from ..host.latents import ATTACHED, GUIDE_FRAMES, Latent, to_av


@dataclass(frozen=True, eq=False)
class AttachedImage:
    """An image or clip in place of the first frames, with the inputs of LTX-2 Img To Video Inplace."""

    image: Tensor
    strength: float
    crf: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class AttachedGuide:
    """An image or clip that guides the video, with the inputs of LTX-2 Add Guide."""

    image: Tensor
    frame: int
    strength: float
    attention: float
    mask: Tensor | None
    downscale: int
    every: int = 1


Attached: TypeAlias = AttachedImage | AttachedGuide | FirstFrames | SourceFrames


def attached_to(latent: Latent) -> tuple[Attached, ...]:
    """The guides and inputs that nodes before have attached to a LATENT, in the order of the nodes."""
    items: tuple[Attached, ...] = latent.get(ATTACHED, ())
    return items


def remember(latent: Latent, item: Attached) -> Latent:
    """The LATENT, which also remembers ``item``."""
    return {**latent, ATTACHED: (*attached_to(latent), item)}


def without_attached(latent: Latent) -> Latent:
    """The LATENT, which remembers nothing."""
    return {key: value for key, value in latent.items() if key != ATTACHED}


def marked_guides(latent: Latent, frames: int) -> Latent:
    """The LATENT, marked as holding ``frames`` guide frames at the end of its video."""
    return {**latent, GUIDE_FRAMES: (frames, _frames(latent))}


def refuse_guides(latent: Latent, node: str, *, advice: str = "") -> None:
    """Raise ValueError if guide frames are still in a LATENT that is an input of ``node``.

    ``advice`` says what to do where it is not to remove them after sampling.
    """
    if guides := guides_marked(latent):
        advice = advice or (
            f"move LTX-2 Crop Guides between the sampler and {node}, and connect its conditioning to the "
            "next stage"
        )
        raise ValueError(f"this latent still holds {guides} guide frames: {advice}")


def guides_marked(latent: Latent) -> int | None:
    """Guide frames that a LATENT is marked to hold at the end of its video; None if it has no valid mark.

    A mark is valid only while the video is as long as when it was made, because other nodes copy marks to
    latents of another length.
    """
    guides, frames = latent.get(GUIDE_FRAMES) or (None, None)
    return guides if frames is not None and frames == _frames(latent) else None


def _frames(latent: Latent) -> int:
    video = to_av(latent).video
    return 0 if video is None else int(video.shape[2])
