"""Sentences that tell the user what has no effect, in the log and on the node that runs."""

from __future__ import annotations

import logging
from functools import lru_cache

from .progress import show_text

log = logging.getLogger(__name__)

USE_CORE = (
    "Where it is needed, set network to ComfyUI in LTX-2 Load Checkpoint or LTX-2 Load All: that is the "
    "host's own network from the same file"
)
"""What to do about something that acts on the host's own network alone."""


def say(text: str) -> None:
    """Write ``text`` to the log as a warning, and display it under the node that is running."""
    log.warning("%s", text)
    show_text(text)


@lru_cache(maxsize=256)
def notice_once(text: str) -> None:
    """Write ``text`` to the log and under the running node; a second call with the same text does nothing."""
    say(text)
