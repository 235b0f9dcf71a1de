"""Where released files are on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .table import ReleasedFile, ReleasedModel

VARIABLE: Final = "LTX2_MODELS"
"""The environment variable with folders of models, such as that of ComfyUI, separated like those of PATH."""


def cache_folder() -> Path:
    """The folder for files that were downloaded without naming one."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ltx2" / "models"


def model_folders() -> tuple[Path, ...]:
    """The folders in which released files are looked for: those of ``LTX2_MODELS``, then the cache."""
    named = os.environ.get(VARIABLE, "").split(os.pathsep)
    return (*(Path(one).expanduser() for one in named if one.strip()), cache_folder())


def place_of(file: ReleasedFile, folder: Path) -> Path:
    """Where a file is or will be below ``folder``, which has the layout of ``ComfyUI/models``."""
    return folder / file.folder / file.name


def found(file: ReleasedFile, folders: Sequence[Path]) -> Path | None:
    """The path of a file in the first of ``folders`` that has it; None if it is in none."""
    return next((path for folder in folders if (path := place_of(file, folder)).is_file()), None)


def paths_of(model: ReleasedModel) -> dict[ReleasedFile, Path]:
    """The paths of the files of a model. Raises FileNotFoundError that says how to download those missing.

    The upscaler is left out if it is missing, because clips of one stage need none.
    """
    folders = model_folders()
    paths = {file: path for file in model.files if (path := found(file, folders)) is not None}
    missing = [file.name for file in model.files if file not in paths and file != model.upscaler]
    if missing:
        where = ", ".join(map(str, folders))
        raise FileNotFoundError(
            f"{', '.join(missing)} of {model.name} cannot be found in {where}: ltx2 models get {model.name} "
            f"downloads what is missing; {VARIABLE} names other folders, such as ComfyUI/models"
        )
    return paths
