"""Remarks that a user has to see on the node that runs, whichever pack it is of."""

from __future__ import annotations

import logging

logger = logging.getLogger(__name__)


def say(text: str) -> None:
    """Show ``text`` under the node that runs, and write it to the log."""
    # Only a running host has a server, and its module cannot be imported everywhere else.
    from comfy_execution.utils import get_executing_context
    from server import PromptServer

    logger.warning(text)
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id)
