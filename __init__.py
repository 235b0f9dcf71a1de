"""LTX-2 for ComfyUI. No module of the host is imported before the host calls the entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"
OLDEST_HOST = (0, 20)


async def comfy_entrypoint() -> ComfyExtension:
    """The extension with the nodes of this pack; the host calls this once at start-up.

    Raises RuntimeError in an older host than this pack supports, which logs it as one line.
    """
    _check_host()
    from .nodes import LTX2Extension

    return LTX2Extension()


def _check_host() -> None:
    try:
        from comfyui_version import __version__ as version
    except ImportError:
        # A host without this module states no version, so what it lacks will be named when it is imported.
        return
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST_HOST:
        oldest = ".".join(map(str, OLDEST_HOST))
        raise RuntimeError(
            f"LTX2 for ComfyUI needs ComfyUI >= {oldest}, and this is {version}: update ComfyUI"
        )
