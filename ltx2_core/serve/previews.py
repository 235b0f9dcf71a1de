"""Draws previews of a clip while it is sampled: a few frames side by side, and the loudness of its audio."""

from __future__ import annotations

import base64
import io
import logging
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..loading import Component
from ..run.pipeline import LTX2Pipeline
from ..sampling.previews import Previews, TimeShare, false_colours, fit_previews, relative_levels
from ..types import AVLatent
from ..video_vae import VideoDecoder, VideoEncoder
from .progress import Preview

_log = logging.getLogger(__name__)

SHARE: Final = 0.01
"""The largest share of the time of a job that previews take; if they are slower, some steps have none."""
_FRAMES, _SIDE, _LEVELS = 6, 160, 48
"""Most frames of a preview, the pixels of their longer side, and the most levels."""
_SMALL: Final = 128 * 2**20
"""Most bytes of an autoencoder that is loaded to fit the colours of previews."""


class Drawing:
    """Draws the previews of one job, in the colours of ``fitted``, or in false colours if that is None."""

    def __init__(self, fitted: Previews | None) -> None:
        self._fitted = fitted
        self._time = TimeShare(SHARE)
        self._number = 0

    def __call__(self, x0: AVLatent) -> Preview | None:
        """The preview of estimated latents ``x0``; None if previews have had their share of the time."""
        if not self._time.due:
            return None
        with self._time.spend():
            self._number += 1
            frames = [] if x0.video is None else self._frames(x0.video.detach().cpu())
            return Preview(
                number=self._number,
                image=_jpeg(frames) if frames else None,
                frames=len(frames),
                levels=() if x0.audio is None else self._levels(x0.audio.detach().cpu()),
            )

    def _frames(self, video: Tensor) -> list[Image.Image]:
        """Evenly spaced frames of ``video`` (B, C, F, H, W), first sample, on the CPU."""
        colours = false_colours if self._fitted is None else self._fitted.colours
        count = min(_FRAMES, video.shape[2])
        numbers = [round(i * (video.shape[2] - 1) / max(1, count - 1)) for i in range(count)]
        return [_enlarged(colours(video, number)) for number in numbers]

    def _levels(self, audio: Tensor) -> tuple[float, ...]:
        levels = relative_levels(audio) if self._fitted is None else self._fitted.levels(audio)
        few = torch.nn.functional.interpolate(
            levels[None, None], size=min(_LEVELS, len(levels)), mode="linear"
        )[0, 0]
        return tuple(round(float(level), 3) for level in few)


def fitted_to(pipeline: LTX2Pipeline) -> Previews | None:
    """The maps from latents of a pipeline to colours and loudness, from its own autoencoders.

    None if it lacks one, or if they are so large that loading them takes longer than a preview is worth.
    """
    parts = (Component.VIDEO_ENCODER, Component.VIDEO_DECODER, Component.AUDIO_DECODER)
    networks = pipeline.networks
    try:
        files = [(part, networks.file(part)) for part in parts]
        if sum(info.nbytes for part, file in files for info in file.infos(part).values()) > _SMALL:
            return None
        encoder, decoder, audio = (
            file.load(part, dtype=torch.float32, device=torch.device("cpu")) for part, file in files
        )
    except ValueError:
        return None
    if not isinstance(encoder, VideoEncoder) or not isinstance(decoder, VideoDecoder):
        return None
    return fit_previews(encoder, decoder, audio)


def _enlarged(colours: Tensor) -> Image.Image:
    """An image of ``colours`` (H, W, 3) in [0, 1], whose longer side has ``_SIDE`` pixels."""
    height, width = colours.shape[:2]
    factor = _SIDE / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    pixels = np.asarray((colours.clamp(0, 1) * 255).round().byte())
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def _jpeg(frames: list[Image.Image]) -> str:
    """A JPEG file of ``frames`` side by side, in base64."""
    width, height = frames[0].size
    strip = Image.new("RGB", (width * len(frames), height))
    for index, frame in enumerate(frames):
        strip.paste(frame, (index * width, 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=80)
    return base64.b64encode(file.getvalue()).decode("ascii")
