"""Tells the user what has no effect: once in the log, and on the node that runs."""

from __future__ import annotations

import logging
from functools import lru_cache

log = logging.getLogger(__name__)

USE_CORE = (
    "Where it is needed, set network to ComfyUI in LTX-2 Load Checkpoint or LTX-2 Load All: that is the "
    "host's own network from the same file"
)
"""What to do about something that acts on the host's own network alone."""


@lru_cache(maxsize=256)
def notice_once(text: str) -> None:
    """Log ``text`` and show it on the running node; further calls with the same text do nothing."""
    log.warning("%s", text)
    try:
        from comfy_execution.utils import get_executing_context
        from server import PromptServer

        context = get_executing_context()
        if context is not None:
            PromptServer.instance.send_progress_text(text, context.node_id)
    except (ImportError, AttributeError):
        # Older hosts cannot display text on a node; the log has it.
        return
