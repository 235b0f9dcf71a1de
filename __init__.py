"""LTX-2 for ComfyUI. No module of the host is imported before the host calls the entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """The extension with the nodes of this pack; the host calls this once at start-up."""
    from .nodes import LTX2Extension

    return LTX2Extension()
