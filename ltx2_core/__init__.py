"""LTX-2 as a plain torch library: text, image and audio in, video with sound out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .generation import Generation
    from .kept import find_kept, keep_latents, resume
    from .pipeline import LTX2Pipeline, Progress, Stopped
    from .request import Request
    from .transformer.tiles import Tiles

_HOMES = {
    "Generation": "generation",
    "LTX2Pipeline": "pipeline",
    "Progress": "pipeline",
    "Request": "request",
    "Stopped": "pipeline",
    "find_kept": "kept",
    "keep_latents": "kept",
    "resume": "kept",
    "Tiles": "transformer.tiles",
}

__all__ = [
    "Generation",
    "LTX2Pipeline",
    "Progress",
    "Request",
    "Stopped",
    "Tiles",
    "find_kept",
    "keep_latents",
    "resume",
]


def __getattr__(name: str) -> Any:
    """Import on first use: ComfyUI and ``ltx2 inspect`` should not pay for the whole pipeline."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
