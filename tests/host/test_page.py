"""Shipped workflows in the real page: drop the file, press Run, and the video plays."""

from __future__ import annotations

import json

import pytest
from browser import comfy_page
from host_server import Json, Server
from workflow_runs import EXAMPLES, Runs

NAME = "image_to_video_two_stages"
REPORTS = """() => JSON.stringify(app.graph.nodes.flatMap((node) => node.widgets ?? [])
    .filter((widget) => widget.name === "report").map((widget) => widget.element.textContent))"""
STAGES = """const stages = app.graph.nodes.filter((node) => node.type === "LTX2AVSampleStage");
    const widget = (node, name) => node.widgets.find((one) => one.name === name);"""
STEPS = f"""() => {{ {STAGES}
    return JSON.stringify(Object.fromEntries(
        stages.map((node) => [widget(node, "schedule").value, widget(node, "steps").disabled ?? false])));
}}"""
CHOSEN = f"""() => {{ {STAGES}
    const schedule = widget(stages.at(-1), "schedule");
    schedule.value = "LTX-2 scheduler";
    schedule.callback(schedule.value);
    return JSON.stringify(widget(stages.at(-1), "steps").disabled);
}}"""
SIZES = """() => {
    const plan = app.graph.nodes.find((node) => node.type === "LTX2AVClipPlan");
    const disabled = (name) => plan.widgets.find((one) => one.name === name).disabled;
    return JSON.stringify(["width", "height", "megapixels"].map(disabled));
}"""
LABELS = """() => JSON.stringify(
    [...document.querySelectorAll("textarea[aria-label]")].map((box) => box.ariaLabel).sort())"""
HEIGHTS = f"() => {{ {STAGES} return JSON.stringify(stages.map((node) => node.size[1])); }}"
STRENGTH = """() => {
    const lora = app.graph.nodes.find((node) => node.type === "LTX2AVLoadLora");
    const widget = (name) => lora.widgets.find((one) => one.name === name);
    return JSON.stringify([widget("distilled_strength").value, widget("strength").disabled]);
}"""
BOXES = """() => JSON.stringify({
    nodes: app.graph.nodes.filter((node) => node.type !== "MarkdownNote").map((node) =>
        [node.title, node.pos[0], node.pos[1] - 30, node.pos[0] + node.size[0], node.pos[1] + node.size[1]]),
    groups: app.graph.groups.map((group) => ["", ...group.pos,
        group.pos[0] + group.size[0], group.pos[1] + group.size[1]]),
})"""
"""Title, left, top, right and bottom of each node with its title bar, and of each group."""
TOLD = """async (text) => {
    await app.loadGraphData(JSON.parse(text));
    for (const node of app.graph.nodes.filter((one) => one.type.startsWith("LTX2AV"))) {
        const report = node.widgets?.some((widget) => widget.name === "report");
        const work = /Sample|Decode|Inplace|Guide|Upscale|Next|Long|Finish|Extend|Retake|Sound|Dub$/;
        if (work.test(node.type) && !/Crop|Load/.test(node.type)) {
            const told = { nodeId: String(node.id), text: "step 3 of 20, 12 s left" };
            app.api.dispatchCustomEvent("progress_text", told);
        }
        if (report) node.onExecuted({ text: ["a line of a report, of the length that such lines have"] });
    }
    await new Promise((done) => setTimeout(done, 600));
}"""
"""Gives each node its report, and those that work for long the text of their progress."""
PLAYS = """() => {
    const video = document.querySelector("video");
    return video && video.readyState === 4 && video.duration > 1.9;
}"""


def test_a_dropped_workflow_runs_and_its_video_plays(server: Server, runs: Runs, chromium: str):
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", (EXAMPLES / f"{NAME}.json").read_text(encoding="utf-8"))
        missing = page.missing()
        assert missing == {"types": [], "overlay": []}
        ended = page.run()
        assert ended["kind"] == "execution_success", ended["detail"]
        page.fit_view()
        page.page.wait_for_function(PLAYS, timeout=30_000)
        reports = page.ask(REPORTS)
        assert len(reports) == 7
        told_by_nodes = (
            "20 steps from noise level 1, euler, cfg 3; sampler by the recipe of the tiny set",
            "128 x 128, 49 frames at 25 fps",
            "16 of 16 layers",
            "image compressed with crf 0, by the recipe of the tiny set",
        )
        for told in told_by_nodes:
            assert any(told in report for report in reports), reports
        assert_apart(page.ask(BOXES))


def assert_apart(boxes: Json) -> None:
    """No node covers another one or leaves its group, with all that the nodes tell after a run."""
    nodes = boxes["nodes"]
    for number, (name, *a) in enumerate(nodes):
        for other, *b in nodes[number + 1 :]:
            assert not (a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]), (name, other)
        inside = (
            g[0] <= a[0] and g[1] <= a[1] and a[2] <= g[2] and a[3] <= g[3] for _, *g in boxes["groups"]
        )
        assert any(inside), f"{name} leaves its group"


def test_nodes_stay_apart_with_all_that_they_tell(server: Server, runs: Runs, chromium: str):
    with comfy_page(server.port, chromium) as page:
        for path in sorted(EXAMPLES.glob("*.json")):
            page.page.evaluate(TOLD, path.read_text(encoding="utf-8"))
            assert any(page.ask(REPORTS)), path.name
            assert_apart(page.ask(BOXES))


def test_boxes_have_labels_and_steps_are_grey_while_the_schedule_is_fixed(
    server: Server, runs: Runs, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", (EXAMPLES / f"{NAME}.json").read_text(encoding="utf-8"))
        assert page.ask(STEPS) == {"LTX-2 scheduler": False, "second stage, by the model": True}
        assert page.ask(CHOSEN) is False, "choosing a schedule with steps makes them count again"
        assert page.ask(SIZES) == [True, True, False], "the image decides the size"
        assert page.ask(LABELS) == ["Negative prompt: what to avoid", "Prompt"]


def test_a_node_with_presets_has_the_size_that_it_was_saved_with(server: Server, runs: Runs, chromium: str):
    text = (EXAMPLES / f"{NAME}.json").read_text(encoding="utf-8")
    saved = [node["size"][1] for node in json.loads(text)["nodes"] if node["type"] == "LTX2AVSampleStage"]
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", text)
        assert page.ask(HEIGHTS) == pytest.approx(saved, abs=1)


def test_the_strength_of_a_lora_counts_in_workflows_that_could_not_leave_it_to_the_model(
    server: Server, runs: Runs, chromium: str
):
    text = (EXAMPLES / f"{NAME}.json").read_text(encoding="utf-8")
    before = json.loads(text)
    (lora,) = (node for node in before["nodes"] if node["type"] == "LTX2AVLoadLora")
    assert lora["widgets_values"].pop() == "by the model"
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", text)
        assert page.ask(STRENGTH) == ["by the model", True]
        page.drop(f"{NAME}.json", json.dumps(before))
        assert page.ask(STRENGTH) == ["as above", False]


def test_the_strength_of_a_lora_counts_in_api_files_that_could_not_leave_it_to_the_model(
    server: Server, runs: Runs, chromium: str
):
    text = (EXAMPLES / "api" / f"{NAME}.json").read_text(encoding="utf-8")
    before = json.loads(text)
    (lora,) = (node["inputs"] for node in before.values() if node["class_type"] == "LTX2AVLoadLora")
    assert lora.pop("distilled_strength") == "by the model"
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", text)
        assert page.ask(STRENGTH) == ["by the model", True]
        page.drop(f"{NAME}.json", json.dumps(before))
        assert page.ask(STRENGTH) == ["as above", False]


def test_every_workflow_opens_with_nothing_missing_and_is_sent_as_its_api_file(
    server: Server, runs: Runs, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        for path in sorted(EXAMPLES.glob("*.json")):
            text = path.read_text(encoding="utf-8")
            sent = page.convert(text)
            missing = page.missing()
            assert missing["types"] == [], path.name
            # Graphs of released files offer the downloads, which are not here.
            assert path.stem.startswith(("ltx2", "ltxv")) or missing["overlay"] == [], path.name
            shipped = json.loads((EXAMPLES / "api" / path.name).read_text(encoding="utf-8"))
            for number, node in shipped.items():
                assert node["inputs"].items() <= sent[number]["inputs"].items(), f"{path.name}: {number}"
