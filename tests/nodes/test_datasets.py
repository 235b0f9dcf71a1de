"""What the node that trains notices of its dataset; no ComfyUI."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACK = "pack_with_datasets"


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``nodes/training/datasets.py``, imported without the nodes, with ``tmp_path`` as the input folder."""
    host: Any = ModuleType("folder_paths")
    host.get_input_directory = lambda: str(tmp_path)
    monkeypatch.setitem(sys.modules, "folder_paths", host)
    for name, path in (
        ("", ROOT),
        (".nodes", ROOT / "nodes"),
        (".nodes.training", ROOT / "nodes" / "training"),
    ):
        package = ModuleType(PACK + name)
        package.__path__ = [str(path)]
        monkeypatch.setitem(sys.modules, PACK + name, package)
    sys.modules.pop(f"{PACK}.nodes.training.datasets", None)
    return import_module(f"{PACK}.nodes.training.datasets")


def test_a_clip_that_moves_to_another_folder_is_noticed_and_a_broken_link_is_no_error(
    datasets: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "clips"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    clip = folder / "a" / "clip.mp4"
    clip.write_bytes(b"frames")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    before = datasets.fingerprint("clips")
    assert before == datasets.fingerprint("clips")
    folders = {path: path.stat().st_mtime_ns for path in (folder / "a", folder / "b")}
    clip.rename(folder / "b" / "clip.mp4")
    for path, time in folders.items():
        # Copies that keep times, such as rsync -a, leave those of folders as they were.
        os.utime(path, ns=(time, time))
    assert datasets.fingerprint("clips") != before
