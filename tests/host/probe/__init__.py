"""Test-only nodes: the pack's host layer without its nodes, inputs from nothing, tensors to files."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import faults, later, loaders, masks, memory, models, text, values, ways_in


class ProbeExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            node
            for module in (values, masks, later, loaders, text, models, memory, ways_in, faults)
            for name, node in vars(module).items()
            if name.startswith("LTX2Probe")
        ]


async def comfy_entrypoint() -> ProbeExtension:
    return ProbeExtension()
