"""The datasets in ComfyUI's input folder: folders with clips and captions, and files that list them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths

from ...ltx2_core.trainer.rows import AUDIO, IMAGES, VIDEOS

NO_DATASET = "no folder with clips and captions found"
LISTS = (".csv", ".jsonl")
_MEDIA = VIDEOS | IMAGES | AUDIO


def datasets() -> list[str]:
    """Names of the datasets: folders, up to two levels deep, with a clip and its caption, and lists."""
    root = Path(folder_paths.get_input_directory())
    if not root.is_dir():
        return []
    folders = sorted((*root.glob("*/"), *root.glob("*/*/")))
    found = [folder.relative_to(root).as_posix() for folder in folders if _is_dataset(folder)]
    return found + sorted(path.name for path in root.iterdir() if path.suffix.lower() in LISTS)


def dataset_path(name: str) -> Path:
    """The folder called ``name``; raises ValueError that says what belongs there."""
    if name not in datasets():
        raise ValueError(
            f"{name} is no dataset in ComfyUI's input folder: put clip.mp4 and clip.txt, with what the clip "
            "shows, into a folder there, or list clips in a csv or jsonl file"
        )
    return Path(folder_paths.get_input_directory()) / name


def fingerprint(name: str) -> str:
    """A digest of places, sizes and times of the files of a folder, or of a list.

    What cannot be looked at, such as a link to a file that is gone, is left out.
    """
    found = hashlib.sha256()
    root = Path(folder_paths.get_input_directory()) / name
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        try:
            status = path.stat()
        except OSError:
            continue
        place = path.relative_to(root).as_posix()
        found.update(f"{place}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    return found.hexdigest()


def _is_dataset(folder: Path) -> bool:
    try:
        names = {entry.name for entry in os.scandir(folder)}
    except OSError:
        return False
    return any(
        Path(name).suffix.lower() in _MEDIA and Path(name).with_suffix(".txt").name in names for name in names
    )
