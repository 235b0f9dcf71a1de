"""Lengths that the duration head predicts from the text of a prompt."""

from __future__ import annotations

import torch

from ..loading import Component
from ..text.duration import frames_for
from ..types import TextContext
from .components import Components
from .request import Request


def predict_seconds(networks: Components, context: TextContext) -> float:
    """How many seconds a clip should last, by the duration head; ``context`` is the text of one prompt."""
    with networks.use(Component.DURATION_HEAD) as head, torch.inference_mode():
        seconds: float = head.seconds(context)
    return seconds


def with_length(request: Request, seconds: float) -> Request:
    """``request``, whose length was to be predicted, with the frames that ``seconds`` stand for.

    Its frame rate must be known.
    """
    assert request.size.fps is not None
    return request.changed(seconds=None, num_frames=frames_for(seconds, request.size.fps))
