"""What a latent remembers of the pictures put into it, so that the next stage can be given them again."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..host.latents import GIVEN, GUIDE_FRAMES, Latent, to_av


@dataclass(frozen=True, eq=False)
class AttachedImage:
    """An image or clip in the place of the first frames."""

    image: Tensor
    strength: float
    crf: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class AttachedGuide:
    """An image or clip beside the video, with everything that LTX-2 Add Guide was told."""

    image: Tensor
    frame: int
    strength: float
    attention: float
    mask: Tensor | None
    downscale: int
    every: int = 1


@dataclass(frozen=True, eq=False)
class AttachedSource:
    """A clip (8k + 1, H, W, 3) that the video is made of, but for the latent frames ``made`` (F,) bool."""

    image: Tensor
    made: Tensor


Given = AttachedImage | AttachedGuide | AttachedSource


def given_to(latent: Latent) -> tuple[Given, ...]:
    """In the order in which they were put in."""
    return latent.get(GIVEN, ())


def remember(latent: Latent, item: Given) -> Latent:
    """The LATENT, which now also remembers ``item``."""
    return {**latent, GIVEN: (*given_to(latent), item)}


def forgotten(latent: Latent) -> Latent:
    """The LATENT, which remembers nothing."""
    return {key: value for key, value in latent.items() if key != GIVEN}


def marked_guides(latent: Latent, frames: int) -> Latent:
    """The LATENT, marked as holding ``frames`` guide frames at the end of its video."""
    return {**latent, GUIDE_FRAMES: (frames, _frames(latent))}


def refuse_guides(latent: Latent, node: str) -> None:
    """Raise ValueError if guide frames are still in a LATENT that goes into ``node``."""
    if guides := guides_marked(latent):
        raise ValueError(
            f"this latent still holds {guides} guide frames: move LTX-2 Crop Guides between "
            f"the sampler and {node}, and give the next stage its conditioning"
        )


def guides_marked(latent: Latent) -> int | None:
    """Guide frames that a LATENT says are at the end of its video; None where nothing is known.

    A mark counts only while the video is as long as when it was made: other nodes copy it along.
    """
    guides, frames = latent.get(GUIDE_FRAMES) or (None, None)
    return guides if frames is not None and frames == _frames(latent) else None


def _frames(latent: Latent) -> int:
    video = to_av(latent).video
    return 0 if video is None else int(video.shape[2])
