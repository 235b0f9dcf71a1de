"""How smoothly the timeline of LTX-2 Shot List is drawn while an item is dragged, in ComfyUI's real page.

    COMFYUI_DIR=... python benchmarks/timeline.py --items 4 200

Runs ComfyUI with this pack in a temporary folder, and Chromium without a window and without a GPU, so that it
draws in software. A region is dragged in 120 moves; ``median`` and ``95 %`` are the time between two frames
of the page meanwhile, of which 16.7 ms are 60 a second; ``script`` is the time of JavaScript for a move.
The exit code is 1 if 95 % of the frames do not come within a 50th of a second. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "host"), str(ROOT)]

FPS, FRAMES = 24, 481
MOVES = 120
MOST_MS = 20.0
WATCH = """() => {
    const times = [];
    const frame = (now) => { times.push(now); window.ltx2Frame = requestAnimationFrame(frame); };
    window.ltx2Times = times;
    window.ltx2Frame = requestAnimationFrame(frame);
}"""
WATCHED = "() => { cancelAnimationFrame(window.ltx2Frame); return JSON.stringify(window.ltx2Times); }"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, nargs="+", default=[4, 200], help="items of the list")
    options = parser.parse_args()
    from browser import chromium_path, comfy_page
    from host_server import Server

    comfy, chromium = os.environ.get("COMFYUI_DIR"), chromium_path()
    if not comfy or not chromium:
        print("set COMFYUI_DIR to a checkout of ComfyUI, and install Chromium", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="ltx2-timeline-") as folder:
        base = Path(folder)
        for name in ("custom_nodes", "input", "output"):
            (base / name).mkdir()
        (base / "custom_nodes" / "comfyui-ltx2").symlink_to(ROOT, target_is_directory=True)
        server = Server(Path(comfy).resolve(), base)
        try:
            server.wait_ready()
            with comfy_page(server.port, chromium) as page:
                # The first drag compiles what all of them run.
                dragged(page, options.items[0])
                rows = {count: dragged(page, count) for count in options.items}
        finally:
            server.stop()
    print("| items | frames | median, ms | 95 %, ms | script a move, ms |\n|---|---|---|---|---|")
    for count, (frames, median, most, script) in rows.items():
        print(f"| {count} | {frames} | {median:.1f} | {most:.1f} | {script:.1f} |")
    return int(any(most > MOST_MS for _, _, most, _ in rows.values()))


def shots(count: int) -> dict[str, Any]:
    """A shot list with ``count`` items, a quarter of each kind."""
    starts = [i * 80 / count for i in range(count // 4)]
    return {
        "format": "ltx2.shots/1",
        "clip": {"fps": FPS, "frames": FRAMES},
        "prompt": "a ball",
        "parts": [{"from": at, "prompt": f"part {at:.1f}"} for at in starts],
        "images": [{"file": "x.png", "at": at} for at in starts],
        "audio": [{"file": "a.wav", "at": at, "trim": [0, 0.3]} for at in starts],
        "regions": [{"track": "audio", "from": at, "to": at + 0.3} for at in starts],
    }


def dragged(page: Any, count: int) -> tuple[int, float, float, float]:
    """Frames of a drag, median and 95th percentile of the ms between them, and ms of script a move."""
    from timeline_page import Timeline

    timeline = Timeline.of(page, shots(count))
    page.page.wait_for_timeout(1500)
    session = page.page.context.new_cdp_session(page.page)
    session.send("Performance.enable")

    def script_s() -> float:
        found = session.send("Performance.getMetrics")["metrics"]
        return next(one["value"] for one in found if one["name"] == "ScriptDuration")

    x, y = timeline.place("regions", 0.15, FRAMES / FPS, 16)
    mouse = page.page.mouse
    before = timeline.text
    mouse.move(x, y)
    mouse.down()
    page.page.evaluate(WATCH)
    start = script_s()
    for move in range(MOVES):
        mouse.move(x + move * 3, y)
    script = script_s() - start
    times = json.loads(page.page.evaluate(WATCHED))
    mouse.up()
    session.detach()
    assert timeline.text != before, "nothing was dragged"
    apart = sorted(after - one for one, after in pairwise(times))
    return len(apart), apart[len(apart) // 2], apart[int(len(apart) * 0.95)], script * 1000 / MOVES


if __name__ == "__main__":
    sys.exit(main())
