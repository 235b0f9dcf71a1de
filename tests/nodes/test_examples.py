"""The shipped workflows fit the documented nodes, and both formats of each say the same; without ComfyUI."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from ltx2_core.tiny.write import TinySet

MISSING = object()
ROOT = Path(__file__).resolve().parents[2]
EXAMPLES, DOCS = ROOT / "example_workflows", ROOT / "web" / "docs"
NAMES = sorted(path.stem for path in EXAMPLES.glob("*.json"))
MAX_NODES, MAX_PICTURE_BYTES = 12, 60_000
LARGER = {
    "keyframes_two_stages": 14,
    "audio_image_two_stages": 13,
    "ic_lora_image": 13,
    "ic_lora_two_stages": 14,
    "ic_lora_image_two_stages": 17,
    "ltx25_first_last_frame": 13,
    "dub_video": 13,
    "hdr_from_video": 13,
}
"""Workflows that need more than 12 nodes."""
RELEASED = [name for name in NAMES if name.startswith(("ltx2", "ltxv"))]
"""Workflows with the files of a released generation; all others have the tiny ones."""
NOTE = "MarkdownNote"
FOLDERS = {"checkpoints", "diffusion_models", "text_encoders", "vae", "loras", "latent_upscale_models"}
LOADERS = ("LTX2AVLoadAll", "LTX2AVLoadLora", "LTX2AVLoadUpscaler", "LTX2AVTrainLora")
OURS = "LTX2AV"
PAGE = "https://huggingface.co"
CORE = {
    "LoadImage": (["image"], 2),
    "LoadAudio": (["audio"], 1),
    "LoadVideo": (["file"], 1),
    "GetVideoComponents": ([], 4),
    "VAEEncode": ([], 1),
    "LTXVAudioVAEEncode": ([], 1),
    "SaveAudio": (["filename_prefix"], 1),
    "SaveVideo": (["filename_prefix", "format", "codec"], 1),
}
"""Core nodes that the examples use: their widgets and their number of outputs."""


def ui(name: str) -> dict:
    return json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))


def running(workflow: dict) -> list[dict]:
    """The nodes that are sent to the host: all but the note."""
    return [node for node in workflow["nodes"] if node["type"] != NOTE]


def box(node: dict) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title bar."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + height


def api(name: str) -> dict:
    return json.loads((EXAMPLES / "api" / f"{name}.json").read_text(encoding="utf-8"))


def documented(node: str) -> tuple[dict[str, bool], list[str]]:
    """Inputs of a node, with whether they are optional, and outputs; a host test compares them with it."""
    inputs, outputs = (DOCS / f"{node}.md").read_text(encoding="utf-8").split("## Outputs")
    rows = re.findall(r"^\| (\w+) \| ([^|]+) \|", inputs, re.MULTILINE)
    return {name: kind.endswith("optional") for name, kind in rows if name != "input"}, [
        name
        for name in re.findall(r"^\| (\w+) \|", outputs.split("## Notes")[0], re.MULTILINE)
        if name != "output"
    ]


def outputs_of(node: str) -> int:
    return CORE[node][1] if node in CORE else len(documented(node)[1])


def test_every_node_has_its_page_of_help():
    ids = set()
    for path in (ROOT / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.keyword)
                and node.arg == "node_id"
                and isinstance(node.value, ast.Constant)
            ):
                ids.add(node.value.value)
    assert ids == {path.stem for path in DOCS.glob("*.md")}
    assert all(node.startswith(OURS) for node in ids)


@pytest.mark.parametrize("name", NAMES)
def test_images_are_compressed_as_the_model_was_trained(name):
    inputs = [node["inputs"] for node in api(name).values() if "image" in node["inputs"]]
    assert {one["crf"] for one in inputs if "crf" in one} <= {-1}


def test_both_formats_of_every_workflow_are_there():
    assert set(NAMES) == {path.stem for path in (EXAMPLES / "api").glob("*.json")} != set()


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_names_existing_nodes_inputs_and_outputs(name):
    graph = api(name)
    for node in graph.values():
        kind = node["class_type"]
        if kind.startswith(OURS):
            inputs, _ = documented(kind)
            assert {one.split(".")[0] for one in node["inputs"]} <= inputs.keys()
            assert {one for one, optional in inputs.items() if not optional} <= node["inputs"].keys()
        for value in node["inputs"].values():
            if isinstance(value, list):
                assert value[1] < outputs_of(graph[value[0]]["class_type"])


@pytest.mark.parametrize("name", NAMES)
def test_the_api_format_equals_what_the_page_displays(name):
    workflow, graph = ui(name), api(name)
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    assert {str(node["id"]): node["type"] for node in running(workflow)} == {
        key: node["class_type"] for key, node in graph.items()
    }
    for node in running(workflow):
        kind, sockets = node["type"], {one["name"]: one["link"] for one in node["inputs"]}
        linked = {name: links[link] for name, link in sockets.items() if link is not None}
        plain = {one["name"] for one in node["inputs"] if "widget" not in one}
        said, shown = graph[str(node["id"])]["inputs"], {}
        widgets = CORE[kind][0] if kind in CORE else [one for one in documented(kind)[0] if one not in plain]
        # The widgets of the chosen option follow the widget of the choice.
        widgets = [one for name in widgets for one in (name, *(s for s in said if s.startswith(f"{name}.")))]
        values = iter(node.get("widgets_values") or [])
        for widget in widgets:
            value = next(values, MISSING)
            if value is MISSING:
                assert documented(kind)[0][widget], f"{kind} got {widget} later, so it has to be optional"
                continue
            shown[widget] = value
            if widget == "seed":
                assert next(values) == "fixed", "the page adds what happens to a seed after a run"
        assert shown | linked == said, kind


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_small_and_says_where_its_nodes_come_from(name):
    workflow = ui(name)
    assert len(running(workflow)) <= LARGER.get(name, MAX_NODES)
    for node in workflow["nodes"]:
        ours = node["type"].startswith(OURS)
        assert node["properties"]["cnr_id"] == ("comfyui-ltx2" if ours else "comfy-core")


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_explains_itself(name):
    workflow = ui(name)
    (note,) = (node for node in workflow["nodes"] if node["type"] == NOTE)
    text, nodes = note["widgets_values"][0], running(workflow)
    left = min(box(node)[0] for node in nodes)
    assert box(note)[2] < left, "the note is left of everything"
    assert box(note)[1] <= min(box(node)[1] for node in nodes)
    assert re.match(r"# .+\n\n.+", text)
    for heading in ("## Change first\n1. ", "## Files\n- [", "## Time and memory\n"):
        assert heading in text
    titles = [node.get("title") for node in nodes]
    for titled in re.findall(r"^\d+\. \*\*([^*]+)\*\*(?: and \*\*([^*]+)\*\*)?", text, re.MULTILINE):
        assert all(one in titles or f"{one}: control" in titles for one in titled if one), (titled, titles)
    assert all(titles)
    assert not any(one.startswith(("LTX", "VAE", "Get", "Load")) for one in titles), "titles in plain words"


@pytest.mark.parametrize("name", NAMES)
def test_no_node_lies_on_another_and_groups_are_in_reading_order(name):
    workflow = ui(name)
    boxes = [box(node) for node in workflow["nodes"]]
    for number, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
            assert apart, (boxes[number], other)
    groups = [group["bounding"] for group in workflow["groups"]]
    assert groups == sorted(groups)
    for node in running(workflow):
        left, top, right, bottom = box(node)
        assert any(x <= left and right <= x + w and y <= top and bottom <= y + h for x, y, w, h in groups)


def downloads(name: str) -> dict[str, dict]:
    """By name, the files of a workflow that the page offers to download."""
    stated = [one for node in running(ui(name)) for one in node["properties"].get("models", [])]
    return {one["name"]: one for one in stated}


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_the_note_can_be_downloaded_by_the_page(name):
    (note,) = (node for node in ui(name)["nodes"] if node["type"] == NOTE)
    listed = re.findall(
        rf"^- \[(.+)\]\({PAGE}/(.+)\) in `models/(.+)`$", note["widgets_values"][0], re.MULTILINE
    )
    offered = downloads(name)
    assert {file for file, _, _ in listed} == offered.keys()
    for file, repository, folder in listed:
        assert offered[file]["url"].startswith(f"{PAGE}/{repository}/resolve/main/")
        assert offered[file]["url"].endswith(f"/{file}")
        assert offered[file]["directory"] == folder
        assert folder in FOLDERS


@pytest.mark.parametrize("name", NAMES)
def test_each_loader_offers_what_its_widgets_hold_with_released_files(name):
    for node in running(ui(name)):
        values = node.get("widgets_values") or []
        changes = node["properties"].get("ltx2_released", {}).values()
        assert all(tiny in values for tiny, _ in changes), "the page replaces what a widget holds"
        held = [dict(map(tuple, changes)).get(value, value) for value in values]
        files = {value for value in held if str(value).endswith(".safetensors")}
        assert {one["name"] for one in node["properties"].get("models", [])} == files
        assert bool(files) == (node["type"] in LOADERS)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(RELEASED)))
def test_a_workflow_needs_only_the_tiny_models_and_the_shipped_inputs(name):
    files = TinySet.in_folder(Path())
    tiny = {
        "ckpt_name": {files.checkpoint.name},
        "text_encoder": {f"{files.text_encoder.name}/model.safetensors"},
        "upscaler": {files.upsampler.name, "none"},
        "lora": {files.distilled.name, files.edges.name},
    }
    for node in api(name).values():
        for one, value in node["inputs"].items():
            if one in tiny:
                assert value in tiny[one]
            if node["class_type"].startswith("Load") and isinstance(value, str):
                assert (EXAMPLES / "input" / value).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_has_a_small_image_for_the_template_browser(name):
    path = EXAMPLES / f"{name}.jpg"
    assert path.stat().st_size < MAX_PICTURE_BYTES
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert min(picture.size) >= 256


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_is_introduced_in_the_readme_of_the_folder(name):
    assert f"{name}.json" in (EXAMPLES / "README.md").read_text(encoding="utf-8")
