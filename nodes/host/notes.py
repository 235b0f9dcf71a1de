"""Shows remarks on the node that runs, also if it belongs to another pack."""

from __future__ import annotations

import logging

from comfy_execution.utils import get_executing_context
from server import PromptServer

logger = logging.getLogger(__name__)


def say(text: str) -> None:
    """Show ``text`` under the node that runs, and write it to the log."""
    logger.warning(text)
    server, context = getattr(PromptServer, "instance", None), get_executing_context()
    if server is not None and context is not None:
        server.send_progress_text(text, context.node_id)
