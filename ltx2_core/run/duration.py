"""The length of a clip that the duration head, a small network, predicts from the text of a prompt."""

from __future__ import annotations

import torch

from ..loading import Component
from ..text.duration import frames_for
from ..types import TextContext
from .components import Components
from .request import Request


def predict_seconds(networks: Components, context: TextContext) -> float:
    """How many seconds a clip should last, as the duration head predicts.

    ``context`` is one encoded prompt, as the transformer gets it. ``networks`` loads the duration head.
    """
    with networks.use(Component.DURATION_HEAD) as head, torch.inference_mode():
        seconds: float = head.seconds(context)
    return seconds


def with_length(request: Request, seconds: float) -> Request:
    """A copy of ``request`` whose number of frames (8k + 1) is that of about ``seconds`` at its frame rate.

    It is used once the length of the clip has been predicted. The frame rate of ``request`` must be set.
    """
    assert request.size.fps is not None
    return request.changed(seconds=None, num_frames=frames_for(seconds, request.size.fps))
