"""The length of a clip that the duration head, a small network, predicts from the text of a prompt."""

from __future__ import annotations

import torch

from ..loading import Component
from ..text.duration import frames_for
from ..types import TextContext
from .components import Components
from .request import Request


def predict_seconds(networks: Components, context: TextContext) -> float:
    """The length in seconds that the duration head predicts for a clip of a prompt.

    ``context`` is the encoded prompt (B = 1), as the transformer reads it. ``networks`` loads the head.
    """
    with networks.use(Component.DURATION_HEAD) as head, torch.inference_mode():
        seconds: float = head.seconds(context)
    return seconds


def with_length(request: Request, seconds: float) -> Request:
    """A copy of ``request`` with a length of ``seconds`` at its frame rate, rounded to 8k + 1 frames.

    ``seconds`` is the predicted length. The frame rate of ``request`` must be set.
    """
    assert request.size.fps is not None
    return request.changed(seconds=None, num_frames=frames_for(seconds, request.size.fps))
