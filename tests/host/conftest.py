"""One ComfyUI for the whole session: this pack, the probe nodes and a tiny model set, in a temporary folder.

``COMFYUI_DIR`` names a checkout of ComfyUI with its requirements installed in the running Python. Without it
every test here is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path.insert(0, str(HERE))

from browser import chromium_path  # noqa: E402
from host_graph import CROSS_MODAL  # noqa: E402
from host_server import Server  # noqa: E402
from layouts import write_layouts  # noqa: E402
from tiny_models import TinyModels, make_tiny_models  # noqa: E402
from workflow_runs import Runs  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.host)
            # One host serves all of them, so they run in one process of xdist.
            item.add_marker(pytest.mark.xdist_group("host"))


@pytest.fixture(scope="session")
def comfy_dir() -> Path:
    named = os.environ.get("COMFYUI_DIR")
    if not named:
        pytest.skip("set COMFYUI_DIR to a checkout of ComfyUI to run the host tests")
    path = Path(named).expanduser().resolve()
    if not (path / "main.py").is_file():
        pytest.fail(f"COMFYUI_DIR={named}: no main.py there; it must be a checkout of ComfyUI")
    return path


@pytest.fixture(scope="session")
def streams_off(comfy_dir: Path) -> str:
    """Switches of the network to turn off on both sides where core is the oracle of audio and video together.

    Up to 0.22 core takes scale, shift and gate of these attentions from the wrong noise level (mended by
    ComfyUI #14097), so that it is compared with its two cross attentions off. From 0.31 core's block adds
    audio-to-video attention to the video before video-to-audio reads the video; our network is then loaded
    with the numerics of the host, which do the same.
    """
    return "" if host_version(comfy_dir) >= (0, 23) else CROSS_MODAL


@pytest.fixture(scope="session")
def guides_of_today(comfy_dir: Path) -> bool:
    """Whether core places guides as it does today.

    Up to 0.21 its Add Guide stretches images instead of cropping them, encodes clips amid the video without
    their leading frame, counts two guides at one frame as one, and has no attention mask, no strength above 1
    and no IC-LoRA parameters.
    """
    return host_version(comfy_dir) >= (0, 22)


@pytest.fixture(scope="session")
def old_levels(comfy_dir: Path) -> bool:
    """Whether core takes scale, shift and gate between the streams from the wrong noise level, up to 0.22.

    Mended by ComfyUI #14097. Such a core is an oracle only where nothing passes between the streams.
    """
    return host_version(comfy_dir) < (0, 23)


def host_version(comfy_dir: Path) -> tuple[int, int]:
    match = re.search(r'__version__ = "(\d+)\.(\d+)', (comfy_dir / "comfyui_version.py").read_text())
    assert match, f"{comfy_dir}: comfyui_version.py states no version"
    return int(match[1]), int(match[2])


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("comfy")
    for folder in ("custom_nodes", "input", "output"):
        (base / folder).mkdir()
    (base / "custom_nodes" / "comfyui-ltx2").symlink_to(PACK, target_is_directory=True)
    (base / "custom_nodes" / "ltx2_host_probe").symlink_to(HERE / "probe", target_is_directory=True)
    # Packs of others, for the tests that mix their nodes with ours.
    for pack in sorted(Path(os.environ.get("COMFYUI_PACKS") or os.devnull).glob("*")):
        (base / "custom_nodes" / pack.name).symlink_to(pack.resolve(), target_is_directory=True)
    return base


@pytest.fixture(scope="session")
def models(comfy_dir: Path, base_dir: Path) -> TinyModels:
    return make_tiny_models(base_dir / "models")


@pytest.fixture(scope="session")
def folder(models: TinyModels, base_dir: Path) -> Path:
    """The model folders, with the parts of the tiny checkpoint in other layouts and number formats."""
    write_layouts(base_dir / "models", models)
    return base_dir / "models"


@pytest.fixture(scope="session")
def server(comfy_dir: Path, base_dir: Path, models: TinyModels) -> Iterator[Server]:
    host = Server(comfy_dir, base_dir)
    try:
        host.wait_ready()
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="session")
def chromium() -> str:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("install playwright to run the tests of the page")
    path = chromium_path()
    if path is None:
        pytest.skip("no Chromium found on the path; install it or set CHROMIUM to run the tests of the page")
    return path


@pytest.fixture(scope="session")
def runs(server: Server) -> Runs:
    return Runs(server)
