"""The loss of a training step: squared errors of the velocities, averaged over the tokens that count.

Letters: B batch, N tokens, C token channels.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from .objective import Objective
from .step import NoisyStream, Step


class Losses(NamedTuple):
    """Losses of each sample, (B,) float32, before weighting; None for a stream that is not generated."""

    total: Tensor
    """The weighted sum of both streams; its mean is minimised."""
    video: Tensor | None
    audio: Tensor | None


def losses(objective: Objective, step: Step, velocities: tuple[Tensor | None, Tensor | None]) -> Losses:
    """The losses of the predicted ``velocities`` (B, R + N, C) of video and audio.

    Each stream counts with its weight, whatever its number of tokens.
    """
    video, audio = (
        _masked_mean(stream, velocity)
        for stream, velocity in zip((step.video, step.audio), velocities, strict=True)
    )
    weighted = [
        loss * weight
        for loss, weight in ((video, objective.video_weight), (audio, objective.audio_weight))
        if loss is not None
    ]
    total = weighted[0] if len(weighted) == 1 else weighted[0] + weighted[1]
    return Losses(total, video, audio)


def _masked_mean(stream: NoisyStream | None, velocity: Tensor | None) -> Tensor | None:
    """The mean squared error (B,) over tokens in the loss; 0 for a sample whose tokens are all known."""
    if stream is None or stream.target is None or velocity is None:
        return None
    assert stream.in_loss is not None
    target = stream.target
    # References stand in front and are not predicted.
    error = (velocity[:, -target.shape[1] :] - target).float().square()
    counted = stream.in_loss.to(error.dtype)
    # The small number keeps a sample without tokens in the loss from dividing by zero.
    return (error * counted[..., None]).sum(dim=(1, 2)) / (counted.sum(dim=1) * target.shape[2]).clamp(
        min=1e-8
    )
