"""The JavaScript of ComfyUI's page: its tests by Node, the grid that it shares with the library, its size."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from ltx2_core.shapes import Snap, plan_clip
from ltx2_core.types import Numerics

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "web"
MOST_BYTES = 120 * 1024
"""What the extension may weigh; there is no build step, so that this is what the page loads."""


@pytest.fixture(scope="module")
def node() -> str:
    path = shutil.which("node")
    if path is None:
        pytest.skip("install Node 20 or newer to run the tests of the page's JavaScript")
    return path


def test_the_page_passes_its_own_tests(node: str) -> None:
    files = sorted(map(str, (ROOT / "tests" / "page").glob("*.test.mjs")))
    done = subprocess.run([node, "--test", *files], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "# skipped 0" in done.stdout


def test_constants_of_the_grid_are_those_of_the_library() -> None:
    spec = importlib.util.spec_from_file_location("page_table", ROOT / "docs" / "page_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (WEB / "grid_table.js").read_text(encoding="utf-8")
    assert written == module.table(), "run python docs/page_table.py"


def test_the_page_plans_five_thousand_clips_as_the_library(node: str) -> None:
    draw = random.Random(23)
    clips = []
    for _ in range(5000):
        by_frames = draw.random() < 0.5
        clips.append(
            {
                "width": draw.randint(1, 4100),
                "height": draw.randint(1, 4100),
                "frames": draw.randint(1, 2000) if by_frames else None,
                "seconds": None if by_frames else round(draw.uniform(0.01, 90), draw.randint(0, 4)) or 0.5,
                "fps": draw.choice((8.0, 12.5, 23.976, 24000 / 1001, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0)),
                "snap": draw.choice([snap.value for snap in Snap]),
                "stages": draw.choice((1, 2)),
            }
        )
    script = str(ROOT / "tests" / "page" / "plans.mjs")
    done = subprocess.run([node, script], input=json.dumps(clips), capture_output=True, text=True, check=True)
    for clip, planned in zip(clips, json.loads(done.stdout), strict=True):
        try:
            plan = plan_clip(**{**clip, "snap": Snap(clip["snap"])}, numerics=Numerics.COMFY)
        except ValueError:
            assert planned is None, clip
        else:
            assert planned == [plan.width, plan.height, plan.frames, plan.audio_latents], clip


def test_the_extension_is_small_and_writes_no_html() -> None:
    files = list(WEB.rglob("*.js"))
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// @ts-check\n"), path.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "globalThis"):
            assert word not in text, f"{path.name}: {word}"
