"""Writes API-format graphs as Python: ``sampled = g.add("SamplerCustomAdvanced", noise=noise, ...)``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Link:
    """Output ``slot`` of a node; ``node[1]`` is its second output."""

    node: str
    slot: int = 0

    def __getitem__(self, slot: int) -> Link:
        return Link(self.node, slot)


class Graph:
    """A graph in API format; `prompt` is what ``POST /prompt`` takes."""

    def __init__(self) -> None:
        self.prompt: dict[str, Any] = {}

    def add(self, class_type: str, **inputs: Any) -> Link:
        node = str(len(self.prompt) + 1)
        self.prompt[node] = {
            "class_type": class_type,
            "inputs": {k: [v.node, v.slot] if isinstance(v, Link) else v for k, v in inputs.items()},
        }
        return Link(node)

    def dump(self, name: str, **what: Link) -> Link:
        """Write latent, image, audio or conditioning to a file that ``Result.tensors(name)`` reads."""
        return self.add("LTX2ProbeDump", name=name, **what)
