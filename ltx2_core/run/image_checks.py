"""Checks of a clip that was made from an image: whether it moves, and whether it begins with that image.

Letters: N frames, H W pixel rows and columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from torch import Tensor

from ..media.motion import MotionMeter
from ..media.save import Frames
from .generation import Generation
from .inputs import first_image_pixels

LEAST_SPEED = 2.0
"""Root mean square of the optical flow, in per cent of the longer side per second, below which a clip hardly
moves: stills with the noise of compression have up to 1.3, clips of the synthetic world 15 to 70."""
LEAST_PSNR = 20.0
"""Peak signal-to-noise ratio in dB below which the first frame does not count as the image."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What the settings are called that the report advises to change, on the command line or in the nodes.

    ``strength`` and ``last_strength`` are how much of the image the first and the last stage preserve, which
    of one stage are the same; ``crf`` is the compression of the image.
    """

    strength: str = "--image-strength"
    last_strength: str = "--image-strength"
    crf: str = "--image-crf"


OF_COMMANDS: Final = Advice()
TWO_STAGES: Final = replace(OF_COMMANDS, last_strength="--stage2-image-strength")


@dataclass
class ImageChecks:
    """Measures the frames of one clip while they are decoded.

    ``image`` (3, H, W) in [0, 1] is the image that the clip begins with, as it was encoded; ``strength`` is
    how much of it the last sampling stage preserved (0 to 1), and ``fps`` the frame rate. ``psnr_db`` is the
    peak signal-to-noise ratio of the first frame to the image in dB; None before a frame was measured.
    ``advice`` has the names of settings for the report.
    """

    image: Tensor
    strength: float
    fps: float
    psnr_db: float | None = None
    advice: Advice = OF_COMMANDS
    _motion: MotionMeter = field(default_factory=MotionMeter)

    @classmethod
    def of(cls, generation: Generation) -> ImageChecks | None:
        """The checks of a sampled clip; None if it does not begin with one input image, or has no frames."""
        request = generation.request
        numerics = generation.codecs.networks.numerics
        pixels = first_image_pixels(request, generation.clip, numerics)
        # An input of several frames is a clip, which moves already.
        if pixels is None or len(pixels) != 1 or generation.latents.video is None:
            return None
        two = request.staging.count == 2
        strength = request.inputs.image.stage2_strength if two else request.inputs.image.strength
        return cls(
            image=pixels[0],
            # Settings of earlier versions have none for a second stage, which preserved all of the image.
            strength=1.0 if strength is None else strength,
            fps=generation.clip.fps,
            advice=TWO_STAGES if two else OF_COMMANDS,
        )

    def watching(self, frames: Frames) -> Frames:
        """Return a source of the same frames as ``frames``; frames that are read from it are measured."""

        def watched(*, as_bytes: bool) -> Iterator[Tensor]:
            for chunk in frames(as_bytes=as_bytes):
                self.add(chunk)
                yield chunk

        return watched

    def add(self, frames: Tensor) -> None:
        """Measure the next frames (N, 3, H, W), uint8 or float in [-1, 1]."""
        if self.psnr_db is None:
            self.psnr_db = _psnr(frames[0], self.image)
        self._motion.add(frames)

    @property
    def speed(self) -> float:
        """Root mean square of the optical flow so far, in per cent of the frame's longer side per second."""
        return self._motion.speed(self.fps)

    def lines(self) -> Iterator[str]:
        """Yield a line with speed and signal-to-noise ratio, then one for each of the two that is too low.

        A clip of one frame has no speed.
        """
        psnr, moves = 0.0 if self.psnr_db is None else self.psnr_db, self._motion.measured
        motion = f"motion {self.speed:.1f} % of the longer side per second, " if moves else ""
        yield f"{motion}first frame {psnr:.1f} dB to the image as encoded"
        if moves and self.speed < LEAST_SPEED:
            yield (
                f"the clip hardly moves ({self.speed:.1f} % per second, below {LEAST_SPEED:g}): lower "
                f"{self.advice.strength}, add words of motion to the prompt, or raise {self.advice.crf}"
            )
        if psnr < LEAST_PSNR:
            weak = f"raise {self.advice.last_strength}"
            advice = weak if self.strength < 1 else "look at the image and its size"
            yield (f"the first frame differs from the image ({psnr:.1f} dB, below {LEAST_PSNR:g}): {advice}")


def _psnr(frame: Tensor, image: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a frame, uint8 or float in [-1, 1], to an image in [0, 1]."""
    values = frame.float() / 255 if not frame.is_floating_point() else frame.float() / 2 + 0.5
    error = (values.clamp(0, 1).cpu() - image.float().cpu()).square().mean().clamp(min=1e-10)
    return float(-10 * error.log10())
