"""LTX-2 for ComfyUI. Nothing of the host is imported before it asks for the nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by the host once at start-up."""
    from comfy_api.latest import ComfyExtension, io

    from .nodes import NODES

    class LTX2Extension(ComfyExtension):
        async def get_node_list(self) -> list[type[io.ComfyNode]]:
            return NODES

    return LTX2Extension()
