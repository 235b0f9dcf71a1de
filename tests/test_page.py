"""The JavaScript of ComfyUI's page: its tests by Node, the grid that it shares with the library, its size."""

from __future__ import annotations

import ast
import importlib.util
import json
import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ltx2_core.cli.generate import generate
from ltx2_core.run.flat_options import RequestOptions
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
    # Its summary is read below, and newer versions of Node write another one unless asked.
    done = subprocess.run(
        [node, "--test", "--test-reporter=tap", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "# skipped 0" in done.stdout


def test_constants_of_the_grid_are_those_of_the_library() -> None:
    module = loaded(ROOT / "docs" / "page_table.py")
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


PAGES = {path.stem: path for path in sorted((ROOT / "example_workflows" / "api").glob("*.json"))}
WRITTEN = (
    *("camera_lora", "first_last_frame", "keyframes_two_stages", "ltx23_text_to_video"),
    *("ltx25_text_to_video", "text_to_video_distilled", "text_to_video_guided", "text_to_video_two_stages"),
)
"""Shipped workflows that one command can do; the page says of all others what has no counterpart."""


def loaded(path: Path) -> Any:
    """A file of Python that imports neither ComfyUI nor its neighbours."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Classes of data look their own module up.
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def written(graph: object) -> dict[str, Any]:
    """A graph as the menu of the page writes it."""
    module = loaded(ROOT / "nodes" / "as_command.py")
    return asdict(module.written_as(graph))


def test_graphs_are_written_as_commands_and_python_or_it_is_said_why_not() -> None:
    found = {name: written(json.loads(path.read_text(encoding="utf-8"))) for name, path in PAGES.items()}
    assert {name for name, one in found.items() if one["command"]} == set(WRITTEN)
    keywords = RequestOptions.__annotations__.keys()
    for name, one in found.items():
        assert bool(one["command"]) == (not one["problems"]), name
        if not one["command"]:
            continue
        words = shlex.split(one["command"])
        assert words[:2] == ["ltx2", "generate"]
        # Raises for options and values that do not exist.
        context = generate.make_context("generate", words[2:])
        if "preset" in one["command"]:
            assert not one["python"], name
            continue
        tree = ast.parse(one["python"])
        (call,) = (part for part in ast.walk(tree) if isinstance(part, ast.Call) and is_run(part))
        given = {part.arg: part.value for part in call.keywords}
        assert given.keys() <= keywords, name
        assert context.params["prompt"] == ast.literal_eval(call.args[0]), name
        for keyword in ("seed", "width", "height"):
            assert context.params[keyword] == ast.literal_eval(given[keyword]), name


def stages_of(graph: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs of the first and of the second sampling stage of a graph."""
    first, second = (one["inputs"] for one in graph.values() if one["class_type"] == "LTX2AVSampleStage")
    return first, second


def test_what_is_no_graph_is_refused() -> None:
    for wrong in (None, [], 1, {"1": 2}, {"1": {}}, {"1": {"class_type": "A", "inputs": 3}}):
        with pytest.raises(ValueError, match="no graph in API format"):
            written(wrong)


def test_nothing_of_a_second_stage_or_prompt_is_dropped_silently() -> None:
    def changed(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        graph = json.loads(PAGES["keyframes_two_stages"].read_text(encoding="utf-8"))
        change(graph)
        return written(graph)

    def with_image(graph: dict[str, Any], **inputs: Any) -> None:
        (first,) = (one for one in graph.values() if one["class_type"] == "LTX2AVImgToVideoInplace")
        _, second = stages_of(graph)
        graph["later"] = {**first, "inputs": {**first["inputs"], "latent": second["latent"], **inputs}}
        second["latent"] = ["later", 0]

    def with_prompt(graph: dict[str, Any]) -> None:
        graph["later"] = next(one for one in graph.values() if one["class_type"] == "LTX2AVPrompt")

    for name, value in {"cfg": 3, "audio_cfg": 7, "preset": "quality res_2s 15"}.items():
        made = changed(lambda graph, name=name, value=value: stages_of(graph)[1].update({name: value}))  # type: ignore[misc]
        assert made["problems"] == ("a schedule, cfg or preset in the second stage",), name
    assert changed(with_prompt)["problems"] == ("several prompts",)
    assert changed(lambda graph: with_image(graph, strength=0.5))["problems"] == ("several first images",)
    assert not changed(with_image)["problems"]

    def first_image(graph: dict[str, Any]) -> dict[str, Any]:
        return next(one["inputs"] for one in graph.values() if one["class_type"] == "LTX2AVImgToVideoInplace")

    made = changed(lambda graph: first_image(graph).update(strength=-1))
    assert made["problems"] == ("an image strength by the model",)
    for name in ("strength", "next_strength", "crf"):
        made = changed(lambda graph, name=name: first_image(graph).update({name: ["9", 0]}))  # type: ignore[misc]
        assert made["problems"] == (f"{name} of an image comes by a link",)
    made = changed(lambda graph: stages_of(graph)[0].update(schedule="LTX-2 scheduler", steps=["9", 0]))
    assert made["problems"] == ("--steps comes by a link",)
    made = changed(lambda graph: first_image(graph).update(next_strength=0.4))
    assert "--stage2-image-strength 0.4" in made["command"]
    command = changed(lambda graph: stages_of(graph)[1].update(sampler="res_2s"))["command"]
    context = generate.make_context("generate", shlex.split(command)[2:])
    assert context.params["stage2_sampler"] == "res_2s"


def is_run(call: ast.Call) -> bool:
    """Whether a call is that of the pipeline, and not of its class."""
    return isinstance(call.func, ast.Name) and call.func.id == "pipe"


def test_the_extension_is_small_and_writes_no_html() -> None:
    files = list(WEB.rglob("*.js"))
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("// @ts-check\n"), path.name
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "globalThis"):
            assert word not in text, f"{path.name}: {word}"
