"""Write the pictures of the timeline in the docs: ``COMFYUI_DIR=... python tests/host/timeline_pictures.py``.

They are of the real page, dark, light and narrow, with the inputs of the shipped workflows.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

from browser import chromium_path, comfy_page  # noqa: E402
from host_server import Server  # noqa: E402
from timeline_page import Timeline  # noqa: E402

INPUT = ROOT / "example_workflows" / "input"
IMAGES = ROOT / "docs" / "images"
SHOTS = {
    "format": "ltx2.shots/1",
    "clip": {"width": 768, "height": 512, "fps": 24, "frames": 121, "seed": 7},
    "prompt": "a yellow square on a blue background",
    "parts": [
        {"from": 0, "prompt": "it stands still"},
        {"from": 1.375, "prompt": "it slides right, a tone rises"},
        {"from": 3.7083, "prompt": "it stops at the edge"},
    ],
    "images": [{"file": "first.png"}, {"file": "last.png", "at": "end", "strength": 0.7}],
    "audio": [{"file": "sound.wav", "at": 1.375, "trim": [0, 1.9], "gain_db": -3, "fade": 0.1}],
    "regions": [{"track": "audio", "from": 3.375, "to": 4.375}],
}
LOOKS = {
    "timeline": ({}, (1600, 900)),
    "timeline_light": ({"Comfy.ColorPalette": "light"}, (1600, 900)),
    "timeline_900": ({}, (900, 800)),
    "timeline_html": ({"Comfy.VueNodes.Enabled": True}, (1600, 900)),
}
"""Picture -> settings of the page, width and height of the window."""


def main(folder: Path, names: list[str]) -> None:
    """Write the pictures ``names`` into ``folder``."""
    comfy = Path(os.environ["COMFYUI_DIR"]).resolve()
    base = Path(tempfile.mkdtemp(prefix="timeline"))
    for name in ("custom_nodes", "output"):
        (base / name).mkdir()
    shutil.copytree(INPUT, base / "input")
    (base / "custom_nodes" / "comfyui-ltx2").symlink_to(ROOT, target_is_directory=True)
    server = Server(comfy, base)
    try:
        server.wait_ready()
        for name in names:
            picture(server, name, folder / f"{name}.png")
    finally:
        server.stop()
        shutil.rmtree(base)


def picture(server: Server, name: str, path: Path) -> None:
    """Write one picture."""
    settings, (width, height) = LOOKS[name]
    defaults = {"Comfy.ColorPalette": "dark", "Comfy.VueNodes.Enabled": False}
    executable = chromium_path()
    assert executable is not None
    with comfy_page(server.port, executable, {**defaults, **settings}) as page:
        page.page.set_viewport_size({"width": width, "height": height})
        timeline = Timeline.of(page, SHOTS)
        page.page.wait_for_timeout(1000)
        page.page.mouse.click(*timeline.place("ruler", 2.0, 121 / 24))
        page.page.mouse.click(*timeline.place("parts", 1.8, 121 / 24))
        page.page.wait_for_timeout(500)
        box = timeline.root.bounding_box()
        clip = {
            "x": box["x"] - 8,
            "y": box["y"] - 8,
            "width": box["width"] + 16,
            "height": box["height"] + 16,
        }
        whole = name != "timeline"
        page.page.screenshot(path=path, **({} if whole else {"clip": clip}))


if __name__ == "__main__":
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    main(given, list(LOOKS) if len(sys.argv) > 1 else ["timeline"])
