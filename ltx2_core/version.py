"""The version of this package, from the checkout's ``pyproject.toml`` or the installed package."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def _version() -> str:
    """The version of the checkout, which ComfyUI runs without an installation, else the installed version.

    It is "unknown" if there is neither.
    """
    if PROJECT.is_file():
        found = re.search(r'^version = "(.+)"$', PROJECT.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found[1]
    try:
        return version("comfyui-ltx2")
    except PackageNotFoundError:
        return "unknown"


__version__: Final = _version()
