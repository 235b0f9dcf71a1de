"""Doubles the frame rate of a sampled clip with a temporal latent upscaler; the audio is not changed.

Letters: B batch, F latent frames, H W latent rows and columns.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Final, cast

import torch
from torch import Tensor

from ..config import upsampler_config
from ..loading import Checkpoint, Component, open_checkpoint
from ..loading.file_set import upscaler_kind
from ..out_of_memory import attempt
from ..shapes import ClipPlan
from ..types import AVLatent
from ..upsampler import LatentUpsampler, upsample_latent
from .components import Components
from .generation import Generation

WINDOW: Final = 64
"""Latent frames whose rate is doubled at once: 505 frames, 21 seconds at 24 fps."""
SHARED: Final = 16
"""Latent frames that two windows share, more than the upscaler sees of its neighbours in time (14)."""
BLENDED: Final = 2 * SHARED - 1
"""Latent frames of the doubled latent that two windows share."""


def open_temporal_upscaler(path: str | os.PathLike[str]) -> Checkpoint:
    """Open the file of a temporal latent upscaler; only its header is read.

    Raises ValueError for a file that is no latent upscaler, or one that changes width and height.
    """
    file = open_checkpoint(path)
    if Component.UPSAMPLER not in file.components:
        held = ", ".join(sorted(str(component) for component in file.components))
        raise ValueError(
            f"{path} is no latent upscaler but holds {held}: the temporal one is usually "
            "ltx-2.3-temporal-upscaler-x2 (latent_upscale_models)"
        )
    config = upsampler_config(file.config)
    if config.spatial or not config.temporal:
        raise ValueError(
            f"{path} is a {upscaler_kind(config)} upscaler: doubling the frame rate needs a temporal x2 one"
        )
    return file


def at_double_rate(clip: ClipPlan) -> ClipPlan:
    """The plan of ``clip`` with a new frame between every two: 2N - 1 frames for N, at twice the rate."""
    return replace(clip, frames=2 * clip.frames - 1, fps=2 * clip.fps)


def double_rate(generation: Generation, upscaler: str | os.PathLike[str] | Checkpoint) -> Generation:
    """A copy of ``generation`` with twice the frames a second, made by a temporal upscaler.

    ``upscaler`` is the path of the upscaler's file, or the opened file. The audio latent is the same, cut to
    the new clip, which ends half an old frame earlier: 2N - 1 frames for N. Raises ValueError for a clip
    without video, and what :func:`open_temporal_upscaler` raises.
    """
    if generation.latents.video is None:
        raise ValueError("there is no video whose frame rate could be doubled")
    file = upscaler if isinstance(upscaler, Checkpoint) else open_temporal_upscaler(upscaler)
    clip, audio = at_double_rate(generation.clip), generation.latents.audio
    video = doubled_frames(generation.codecs.networks, file, generation.latents.video)
    return replace(
        generation,
        latents=AVLatent(video, None if audio is None else audio[:, :, : clip.audio_latents]),
        clip=clip,
        run_settings={**generation.run_settings, "temporal_upscaler": file.path.name},
    )


def doubled_pieces(double: Callable[[Tensor], Tensor], pieces: Iterable[Tensor]) -> Iterator[Tensor]:
    """Double the frames of a latent of any length that comes in ``pieces`` (1, C, f, H, W) along time.

    ``double`` maps (1, C, f, H, W) to (1, C, 2f - 1, H, W). Yields consecutive parts of the result. Up to
    ``WINDOW`` latent frames are doubled at once, which is exact. A longer latent is doubled in windows of
    that many; two of them share ``SHARED`` latent frames, over whose middle third one blends into the other.
    """
    buffer: Tensor | None = None
    before: Tensor | None = None
    for piece in pieces:
        buffer = piece if buffer is None else torch.cat((buffer, piece), dim=2)
        # Strictly more, so that a latent of one window is never cut.
        while buffer.shape[2] > WINDOW:
            made = _joined(before, double(buffer[:, :, :WINDOW]))
            yield made[:, :, :-BLENDED]
            before, buffer = made[:, :, -BLENDED:], buffer[:, :, WINDOW - SHARED :]
    if buffer is not None:
        yield _joined(before, double(buffer))


def _joined(before: Tensor | None, after: Tensor) -> Tensor:
    """``after`` with its first frames blended with ``before``, the end of the window before it; None: none.

    Tensors are (1, C, f, H, W).
    """
    if before is None:
        return after
    third = BLENDED / 3
    steps = torch.arange(BLENDED, device=after.device, dtype=torch.float32)
    weight = ((steps - third) / third).clamp(0, 1).view(1, 1, -1, 1, 1)
    start = before.float() * (1 - weight) + after[:, :, :BLENDED].float() * weight
    return torch.cat((start.to(after.dtype), after[:, :, BLENDED:]), dim=2)


@contextmanager
def doubling(networks: Components, file: Checkpoint) -> Iterator[Callable[[Tensor], Tensor]]:
    """A context that yields a function which doubles the frames of a normalised video latent.

    The function maps (1, 128, F, H, W) to (1, 128, 2F - 1, H, W), float32. ``file`` is the temporal upscaler;
    ``networks`` loads it and the statistics of the latents.
    """
    where = networks.device, networks.dtype
    # Of the encoder only its statistics are used, since upscalers work on latents that are not normalised.
    with networks.use(Component.VIDEO_ENCODER) as encoder:
        # A copy: the encoder is used again meanwhile, and may be offloaded after that.
        statistics = deepcopy(encoder.per_channel_statistics)
    with networks.clock.timed("load"):
        network = cast(
            LatentUpsampler, file.load(Component.UPSAMPLER, device=networks.device, dtype=networks.dtype)
        )

    def double(video: Tensor) -> Tensor:
        with networks.clock.timed("sampling"), torch.inference_mode():
            doubled = attempt(
                "doubling the frame rate",
                lambda: upsample_latent(network, video.to(*where), statistics),
            )
        return doubled.float()

    yield double


def doubled_frames(networks: Components, file: Checkpoint, video: Tensor) -> Tensor:
    """Double the frames of a normalised video latent: (1, 128, F, H, W) -> (1, 128, 2F - 1, H, W).

    ``file`` is the temporal upscaler; ``networks`` loads it and the statistics of the latents.
    """
    with doubling(networks, file) as double:
        return double(video)
