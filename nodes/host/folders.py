"""The files and folders in ComfyUI's model folders: their names in lists, and the path of each name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import folder_paths

from .file_checks import warn

CHECKPOINTS = "checkpoints"
DIFFUSION_MODELS = "diffusion_models"
DIFFUSERS = "diffusers"
VAES = "vae"
LORAS = "loras"
UPSCALERS = "latent_upscale_models"
TEXT_ENCODERS = "text_encoders"
MODEL_PATCHES = "model_patches"
CATEGORIES = (CHECKPOINTS, DIFFUSION_MODELS, DIFFUSERS, VAES, TEXT_ENCODERS, LORAS, UPSCALERS, MODEL_PATCHES)


def every_file() -> dict[str, Path]:
    """All model files and model folders in ComfyUI's folders: "category/name" -> path."""
    return {f"{c}/{name}": path for c in CATEGORIES for name, path in paths_in(c)}


def model_path(name: str) -> Path:
    """The path of a model that :func:`every_file` lists as ``name``. Raises ValueError if it is gone."""
    if name not in (files := every_file()):
        raise ValueError(f"{name} is not in the model folders any more; choose another file")
    return files[name]


def paths_in(category: str) -> Iterator[tuple[str, Path]]:
    """Yield name and path of each model file or model folder in one category, such as "checkpoints".

    Yields nothing if this ComfyUI lacks the category, or if the folder cannot be listed, which is logged.
    """
    # Hosts differ in their categories, and a user may remove one in the paths file.
    if category not in folder_paths.folder_names_and_paths:
        return
    try:
        yield from _folders() if category == DIFFUSERS else _files(category)
    except OSError as error:
        warn(f"models/{category} cannot be listed: {error}")


def _files(category: str) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of the files in a category of ComfyUI's folders, such as "checkpoints".

    A text encoder that is a folder with several files appears once: the name of its first file, with the path
    of the folder.
    """
    encoders: dict[str, bool] = {}
    for name in sorted(folder_paths.get_filename_list(category)):
        parent = os.path.dirname(name)
        # The other shards of a folder would be further names of the same encoder.
        if encoders.get(parent) or (found := folder_paths.get_full_path(category, name)) is None:
            continue
        path = Path(found)
        if category == TEXT_ENCODERS and parent not in encoders:
            folder = _encoder_at(path)
            encoders[parent] = folder != path
            path = folder
        yield name, path
    if category in (TEXT_ENCODERS, DIFFUSION_MODELS):
        yield from _ggufs(category)


def _ggufs(category: str) -> Iterator[tuple[str, Path]]:
    """Yield names and paths of the GGUF files in a category, which ComfyUI does not list."""
    found: dict[str, Path] = {}
    for root in map(Path, folder_paths.get_folder_paths(category)):
        for path in root.rglob("*.gguf") if os.path.isdir(root) else ():
            found.setdefault(path.relative_to(root).as_posix(), path)
    yield from sorted(found.items())


def _folders() -> Iterator[tuple[str, Path]]:
    """Yield names and paths of model folders in models/diffusers and one level below.

    These are diffusers pipelines and folders of split files.
    """
    for root in map(Path, folder_paths.get_folder_paths(DIFFUSERS)):
        # One level is enough for pipelines and for folders by author; a full search of a network drive would
        # take minutes.
        for path in sorted((*root.glob("*/"), *root.glob("*/*/"))) if os.path.isdir(root) else ():
            if _is_model_folder(path):
                yield path.relative_to(root).as_posix(), path


def _is_model_folder(path: Path) -> bool:
    """Whether a folder is a whole diffusers pipeline, or holds a model that is split into several files.

    The folder of a single component inside a pipeline does not count.
    """
    if os.path.isfile(path / "model_index.json"):
        return True
    try:
        # A component of a pipeline has a config.json next to its weights; split files have none.
        return any(path.glob("*.safetensors")) and not os.path.isfile(path / "config.json")
    except OSError:
        return False


def _encoder_at(path: Path) -> Path:
    """The folder of the text encoder file ``path`` if it holds a ``config.json``, else ``path`` itself."""
    # A broken link counts too: the folder is then listed and its error says what is missing.
    return path.parent if os.path.lexists(path.parent / "config.json") else path
