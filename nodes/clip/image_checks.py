"""Measures a clip made from an image while a node decodes it: whether it moves and begins with that image."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from ...ltx2_core.run.image_checks import Advice, ImageChecks
from ..conditioning.attached import AttachedImage, attached_to
from ..convert import frames_from_image, image_at_stage
from ..host.latents import Latent

_NODE: Final = "LTX-2 Img To Video Inplace"
ADVICE: Final = Advice(
    strength=f"strength of {_NODE} (image_strength of LTX-2 Sample DFR)",
    last_strength=f"strength (after LTX-2 Next Stage: next_strength) of {_NODE}",
    crf="its crf",
)


def checks_of(latent: Latent, samples: Tensor, fps: float) -> ImageChecks | None:
    """The checks of a clip that is decoded from ``samples`` (1, C, F, H, W) of a LATENT, at ``fps``.

    The image is the one that a node attached to the LATENT as its first frame, at the size and with the
    compression with which it was encoded. The result is None without such an image: a clip of several frames
    at the start already moves.
    """
    images = [
        item for item in attached_to(latent) if isinstance(item, AttachedImage) and len(item.image) == 1
    ]
    if not images:
        return None
    # Each item replaces the frames of those before it.
    last = images[-1]
    fitted = image_at_stage(last.image, {"samples": samples}, last.crf)
    return ImageChecks(image=frames_from_image(fitted)[0], strength=last.strength, fps=fps, advice=ADVICE)


def report_of(checks: ImageChecks | None) -> str:
    """The findings for the report of a node; a line that says so if nothing was measured."""
    if checks is None or checks.psnr_db is None:
        return "no first image to compare the clip with"
    return "\n".join(checks.lines())
