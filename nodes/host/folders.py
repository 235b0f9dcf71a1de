"""File lists for combos, and the way from a listed name to a path, through the host's folders."""

from __future__ import annotations

from pathlib import Path, PurePath

import folder_paths

CHECKPOINTS = "checkpoints"
LORAS = "loras"
UPSCALERS = "latent_upscale_models"
TEXT_ENCODERS = "text_encoders"


def files(category: str) -> list[str]:
    """Names in one of the host's model categories; empty where a host does not know the category."""
    return folder_paths.get_filename_list(category) if category in folder_paths.folder_names_and_paths else []


def path_of(category: str, name: str) -> str:
    """Full path of a listed name. Raises FileNotFoundError if it is gone."""
    return folder_paths.get_full_path_or_raise(category, name)


def text_encoders() -> list[str]:
    """Text encoders, one entry each: a folder of shards is listed by its first file."""
    listed: list[str] = []
    folders: set[PurePath] = set()
    for name in sorted(files(TEXT_ENCODERS)):
        folder = PurePath(name).parent
        if folder in folders:
            continue
        if text_encoder_path(name).is_dir():
            folders.add(folder)
        listed.append(name)
    return listed


def text_encoder_path(name: str) -> Path:
    """The folder of a listed text encoder where a ``config.json`` lies beside the file, else the file."""
    path = Path(path_of(TEXT_ENCODERS, name))
    return path.parent if (path.parent / "config.json").is_file() else path
