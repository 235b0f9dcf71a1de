"""LTX-2 as a plain torch library: text, image and audio in, video with audio out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .conditioning.inputs import ImageAt, VideoReference
    from .run.dfr_plan import DfrFiles
    from .run.execution import Execution
    from .run.generation import Generation
    from .run.pipeline import LTX2Pipeline, Progress, Stopped
    from .run.request import Request
    from .run.saved_latents import find_saved, resume, save_latents
    from .text.prompt import PromptEmbeds
    from .transformer.tiles import Tiles
    from .version import __version__

_HOMES = {
    "DfrFiles": "run.dfr_plan",
    "Execution": "run.execution",
    "ImageAt": "conditioning.inputs",
    "VideoReference": "conditioning.inputs",
    "Generation": "run.generation",
    "LTX2Pipeline": "run.pipeline",
    "Progress": "run.pipeline",
    "PromptEmbeds": "text.prompt",
    "__version__": "version",
    "Request": "run.request",
    "Stopped": "run.pipeline",
    "find_saved": "run.saved_latents",
    "save_latents": "run.saved_latents",
    "resume": "run.saved_latents",
    "Tiles": "transformer.tiles",
}

__all__ = [
    "DfrFiles",
    "Execution",
    "Generation",
    "ImageAt",
    "LTX2Pipeline",
    "Progress",
    "PromptEmbeds",
    "Request",
    "Stopped",
    "Tiles",
    "VideoReference",
    "__version__",
    "find_saved",
    "resume",
    "save_latents",
]


_RENAMED = {"find_kept": "find_saved", "keep_latents": "save_latents"}
"""Names of 0.1, which still work."""


def __getattr__(name: str) -> Any:
    """Return the public object called ``name``; its module is imported on the first use of the name.

    ComfyUI and ``--help`` therefore do not have to import the pipeline. Names of version 0.1 work too.
    Raises AttributeError for any other ``name``.
    """
    name = _RENAMED.get(name, name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
