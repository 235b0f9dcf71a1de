"""Writes example_workflows/ and subgraphs/: ``python tests/host/author_workflows.py [NAME...]``.

``COMFYUI_DIR`` names the host. Each table is turned into API format, loaded into ComfyUI's own page, arranged
in columns, and serialised there: as UI format and, in ``api/``, as API format. Then it is run, unless
``--no-run`` is set, and frames of its result become the thumbnail. Workflows with released files and
blueprints are not run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK)]

from browser import ComfyPage, chromium_path, comfy_page  # noqa: E402
from host_server import Json, Server  # noqa: E402
from tiny_models import with_trained_loras  # noqa: E402
from workflow_blueprints import BLUEPRINTS, PROJECT, subgraph_file  # noqa: E402
from workflow_edit_tables import EDITING  # noqa: E402
from workflow_files import named  # noqa: E402
from workflow_format import Workflow  # noqa: E402
from workflow_long_tables import LONG  # noqa: E402
from workflow_notes import NOTES  # noqa: E402
from workflow_real import state_released  # noqa: E402
from workflow_released_tables import RELEASED  # noqa: E402
from workflow_tables import WORKFLOWS  # noqa: E402
from workflow_thumbnails import of_audio, of_video  # noqa: E402
from workflow_titles import title  # noqa: E402

from ltx2_core.tiny import embedded_dir  # noqa: E402

OUTPUT = PACK / "example_workflows"
SUBGRAPHS = PACK / "subgraphs"
NO_RUN = "--no-run"
ARRANGE = """([columns, sizes, titles, note, reports]) => {
    for (const [id, title] of Object.entries(titles)) app.graph.getNodeById(id).title = title;
    const text = LiteGraph.createNode("MarkdownNote");
    app.graph.add(text);
    text.title = "About this workflow";
    text.widgets[0].value = note;
    text.setSize([480, 600]);
    text.pos = [-570, -90];
    let x = 0;
    app.graph.clear_groups?.();
    for (const [title, ids] of columns) {
        const nodes = ids.map((id) => app.graph.getNodeById(id));
        // The font of a group's title is wide.
        let y = 0, width = title.length * 12 - 20;
        for (const node of nodes) {
            const least = node.computeSize(), wanted = sizes[node.type] ?? [0, 0];
            node.setSize([Math.max(least[0], wanted[0], 300), Math.max(least[1], wanted[1])]);
            node.pos = [x, y];
            y += node.size[1] + 70 + (reports[node.type] ?? 0);
            width = Math.max(width, node.size[0]);
        }
        for (const node of nodes) node.setSize([width, node.size[1]]);
        const group = new LiteGraph.LGraphGroup(title);
        group.pos = [x - 20, -90];
        group.size = [width + 40, y + 50];
        app.graph.add(group);
        x += width + 90;
    }
    app.graph.setDirtyCanvas(true, true);
}"""
SERIALISE = """async () => {
    const { workflow, output } = await app.graphToPrompt();
    return JSON.stringify({ workflow, output });
}"""
SIZES = {
    "LTX2AVLoadAll": [400, 0],
    "LTX2AVPrompt": [420, 420],
    "LTX2AVClipPlan": [400, 480],
    "LTX2AVLoadLora": [320, 190],
    "LTX2AVSetAudio": [320, 240],
    "LoadImage": [320, 400],
    "LoadVideo": [320, 500],
    "SaveVideo": [420, 480],
    "LTX2AVExtend": [400, 420],
    "LTX2AVLongVideo": [420, 900],
    "LTX2AVRetake": [400, 420],
    "LTX2AVSound": [400, 240],
    "LTX2AVDub": [400, 300],
    "LTX2AVSaveHDR": [400, 300],
    "LTX2AVTimeMask": [400, 420],
    "LTX2AVNextStage": [320, 240],
    "LTX2AVAddGuide": [320, 330],
    "LTX2AVSampleStage": [320, 330],
    "LTX2AVTrainLora": [440, 780],
}
REPORT_ALONE, TEXT_ALONE, BOTH, WAVE = 72, 36, 110, 80
REPORTS = {
    "LTX2AVLoadLora": REPORT_ALONE,
    "LTX2AVImgToVideoInplace": BOTH,
    "LTX2AVAddGuide": 90,
    "LTX2AVSampleStage": BOTH,
    "LTX2AVSampleDFR": BOTH,
    "LTX2AVLongVideo": 60,
    "LTX2AVTrainLora": 400,
    "LTX2AVDecodeToVideo": BOTH + WAVE,
    "LTX2AVDecodeLongVideo": 50,
    "LTX2AVDecodeHDR": 76,
    "LTX2AVDecodeAudio": TEXT_ALONE + WAVE,
    "LTX2AVFinishEdit": 58 + WAVE,
    "LTX2AVSetAudio": 20,
    "LTX2AVLatentUpscale": TEXT_ALONE,
    "LTX2AVReferenceAudio": BOTH,
    "LTX2AVDub": 20,
    "LTX2AVSound": 20,
    "LTX2AVExtend": 20,
    "LTX2AVRetake": 20,
    "SaveVideo": 40,
}
"""Pixels by which a node grows once it has run: for a report, progress text, a waveform or a player."""
PLAYERS = ("audioUI", "video-preview")
"""Widgets that display a file."""
LOAD = """([prompt, name]) => {
    app.nodeOutputs = {};
    app.loadApiJson(prompt, name);
}"""
FIX_SEEDS = """() => app.graph.nodes.forEach((node) => node.widgets?.forEach((widget) => {
    if (widget.name === "control_after_generate") widget.value = "fixed";
}))"""
PLAIN_CANVAS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}


def author(page: ComfyPage, name: str, table: Workflow, known: Json) -> None:
    """Write one workflow in both formats."""
    workflow, prompt_ = arranged(page, name, table, known, NOTES[name].markdown())
    if name not in RELEASED:
        state_released(workflow, name, table)
    _write(OUTPUT / f"{name}.json", workflow)
    _write(OUTPUT / "api" / f"{name}.json", prompt_)


def author_blueprint(page: ComfyPage, name: str, known: Json) -> None:
    """Write one subgraph blueprint."""
    blueprint = BLUEPRINTS[name]
    workflow, _ = arranged(page, name, blueprint.workflow, known, "")
    SUBGRAPHS.mkdir(exist_ok=True)
    _write(SUBGRAPHS / f"{name}.json", subgraph_file(name, blueprint, workflow))


def arranged(page: ComfyPage, name: str, table: Workflow, known: Json, note: str) -> tuple[Json, Json]:
    """A workflow as the page saves it, in UI format and in API format."""
    page.page.evaluate(LOAD, [table.prompt(known), name])
    page.page.wait_for_timeout(1500)
    page.page.evaluate(FIX_SEEDS)
    titles = {
        number: title(one, node.kind, table.stages)
        for number, (one, node) in enumerate(table.nodes.items(), 1)
    }
    page.page.evaluate(ARRANGE, [table.ids(), SIZES, titles, note, REPORTS])
    page.page.wait_for_timeout(500)
    made = page.ask(SERIALISE)
    workflow, prompt_ = made["workflow"], made["output"]
    version = re.search(r'^version = "(.+)"$', (PACK / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    workflow["id"] = str(uuid5(NAMESPACE_URL, f"{PROJECT}/{name}"))
    for node in workflow["nodes"]:
        ours = node["type"].startswith("LTX2AV")
        node["properties"] |= {"cnr_id": PROJECT, "ver": version[1]} if ours else {"cnr_id": "comfy-core"}
        if files := named(node.get("widgets_values")):
            node["properties"]["models"] = [file.model() for file in files]
        if node["type"] == "MarkdownNote":
            continue
        for player in PLAYERS:
            prompt_[str(node["id"])]["inputs"].pop(player, None)
        if node["type"] == "LoadAudio":
            # The page fills the player's address in again; it holds a random number.
            node["widgets_values"][1] = ""
    return workflow, prompt_


def run(page: ComfyPage, name: str) -> None:
    """Run the workflow that is open, so that it displays its results."""
    ended = page.run()
    if ended["kind"] != "execution_success":
        raise SystemExit(f"{name}: {json.dumps(ended)[:2000]}")


def thumbnail(name: str, output: Path) -> None:
    """Write the thumbnail: frames of the newest result in ``output``, and the waveform of its audio."""
    newest = max(
        (path for path in output.rglob("*.*") if path.is_file()), key=lambda path: path.stat().st_mtime
    )
    image = of_video(newest) if newest.suffix == ".mp4" else of_audio(newest)
    image.save(OUTPUT / f"{name}.jpg", quality=85, optimize=True)


def released_thumbnail(name: str) -> None:
    """The thumbnail of a workflow with released files: that of the tiny workflow of the same form."""
    forms = {"image": "image_to_video_distilled", "first_last": "first_last_frame"}
    forms |= {
        "keyframes": "first_last_frame",
        "segment": "retake_two_stages",
        "video_to_video": "video_to_video",
    }
    form = next((form for part, form in forms.items() if part in name), "text_to_video_distilled")
    shutil.copy(OUTPUT / f"{form}.jpg", OUTPUT / f"{name}.jpg")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main(names: list[str], *, runs: bool) -> None:
    comfy, chromium = Path(os.environ["COMFYUI_DIR"]), chromium_path()
    if chromium is None:
        raise SystemExit("no Chromium found; set CHROMIUM to its path")
    tables = {**WORKFLOWS, **EDITING, **LONG, **RELEASED}
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("custom_nodes", "output"):
            (base / name).mkdir()
        (base / "custom_nodes" / "comfyui-ltx2").symlink_to(PACK, target_is_directory=True)
        shutil.copytree(OUTPUT / "input", base / "input")
        shutil.copytree(os.environ.get("LTX2_TRAINED_SET", embedded_dir()), base / "models")
        with_trained_loras(base / "models")
        server = Server(comfy, base)
        try:
            server.wait_ready()
            known = server.get("/object_info")
            with comfy_page(server.port, chromium, PLAIN_CANVAS) as page:
                for name in [name for name in names or BLUEPRINTS if name in BLUEPRINTS]:
                    author_blueprint(page, name, known)
                for name in [name for name in names or tables if name not in BLUEPRINTS]:
                    author(page, name, tables[name], known)
                    if name in RELEASED:
                        released_thumbnail(name)
                    elif runs:
                        run(page, name)
                        thumbnail(name, base / "output")
        finally:
            server.stop()


if __name__ == "__main__":
    given = sys.argv[1:]
    main([name for name in given if name != NO_RUN], runs=NO_RUN not in given)
