"""Writes example_workflows/: ``python tests/host/author_workflows.py`` with ``COMFYUI_DIR`` set.

Each graph is written here in API format, loaded into ComfyUI's own page, arranged in columns, and serialised
there: as UI format and, in ``api/``, as API format. Then it is run; a picture of it becomes the thumbnail.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from PIL import Image

HERE = Path(__file__).resolve().parent
PACK = HERE.parents[1]
sys.path[:0] = [str(HERE), str(PACK)]

from browser import ComfyPage, chromium_path, comfy_page  # noqa: E402
from host_graph import Graph, Link  # noqa: E402
from host_server import Server  # noqa: E402

OUTPUT = PACK / "example_workflows"
PROJECT = "comfyui-ltx2"
WIDTH, HEIGHT, SECONDS, FPS = 256, 192, 2.0, 24.0
NEGATIVE = "blurry, low quality, still frame, watermark, overlay, titles, subtitles"
BEACH = (
    "A red beach ball rolls slowly over wet sand towards the camera, leaving a shallow track, while small "
    "waves break behind it in warm evening light. The camera stays low. Soft surf and distant gulls."
)
PHOTO = (
    "The scene comes alive: a light wind moves everything that can move, the light shifts slowly, and the "
    "camera glides forward. Quiet wind and a few far voices."
)
SONG = (
    "The scene moves to the music: every swell of the sound brightens the light and pushes the camera "
    "forward a little, and the picture calms down as the sound fades."
)

ARRANGE = """([columns, sizes]) => {
    let x = 0;
    app.graph.clear_groups?.();
    for (const [title, ids] of columns) {
        const nodes = ids.map((id) => app.graph.getNodeById(id));
        let y = 0, width = 0;
        for (const node of nodes) {
            const least = node.computeSize(), wanted = sizes[node.type] ?? [0, 0];
            node.setSize([Math.max(least[0], wanted[0], 300), Math.max(least[1], wanted[1])]);
            node.pos = [x, y];
            y += node.size[1] + 70;
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
    "SaveVideo": [420, 480],
    "LTX2AVSampleStage": [320, 330],
}
FIX_SEEDS = """() => app.graph.nodes.forEach((node) => node.widgets?.forEach((widget) => {
    if (widget.name === "control_after_generate") widget.value = "fixed";
}))"""
BOUNDS = """() => {
    const { scale, offset } = app.canvas.ds, groups = app.graph.groups, edge = 10;
    const [left, top] = [0, 1].map((i) => Math.min(...groups.map((g) => g.pos[i])));
    const [right, bottom] = [0, 1].map((i) => Math.max(...groups.map((g) => g.pos[i] + g.size[i])));
    const corner = app.canvas.canvas.getBoundingClientRect();
    return JSON.stringify({
        x: (left + offset[0]) * scale + corner.x - edge,
        y: (top + offset[1]) * scale + corner.y - edge,
        width: (right - left) * scale + 2 * edge,
        height: (bottom - top) * scale + 2 * edge,
    });
}"""
PLAIN_CANVAS = {
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasMenu": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,
}
Columns = list[tuple[str, list[Link]]]


def load_all(g: Graph, upscaler: str = "ltx2-tiny-spatial-upscaler-x2.safetensors") -> Link:
    return g.add(
        "LTX2AVLoadAll",
        ckpt_name="ltx2-tiny-2.3.safetensors",
        text_encoder="gemma-tiny/model.safetensors",
        upscaler=upscaler,
    )


def clip_plan(g: Graph, stages: int) -> Link:
    return g.add(
        "LTX2AVClipPlan",
        width=WIDTH,
        height=HEIGHT,
        length_unit="seconds",
        length=SECONDS,
        fps=FPS,
        snap="nearest",
        stages=str(stages),
        batch_size=1,
    )


def prompt(g: Graph, models: Link, plan: Link, text: str) -> Link:
    return g.add("LTX2AVPrompt", clip=models[1], positive=text, negative=NEGATIVE, fps=FPS, plan=plan)


def stage(g: Graph, model: Link, text: Link, latent: Link, schedule: str, cfg: float, seed: int) -> Link:
    return g.add(
        "LTX2AVSampleStage",
        model=model,
        positive=text,
        negative=text[1],
        latent=latent,
        seed=seed,
        schedule=schedule,
        steps=20,
        cfg=cfg,
        audio_cfg=0.0,
        sampler="euler",
    )


def in_place(g: Graph, models: Link, image: Link, latent: Link, crf: int) -> Link:
    return g.add(
        "LTX2AVImgToVideoInplace", video_vae=models[2], image=image, latent=latent, strength=1.0, crf=crf
    )


def upscale(g: Graph, models: Link, latent: Link) -> Link:
    return g.add("LTX2AVLatentUpscale", latent=latent, upscale_model=models[4], video_vae=models[2])


def lora(g: Graph, models: Link) -> Link:
    return g.add("LTX2AVLoadLora", model=models, lora="ltx2-tiny-lora.safetensors", strength=0.5)


def finish(
    g: Graph, name: str, models: Link, latent: Link, plan: Link, audio: Link | None = None
) -> list[Link]:
    sound = {} if audio is None else {"audio": audio}
    video = g.add(
        "LTX2AVDecodeToVideo",
        video_vae=models[2],
        latent=latent,
        fps=FPS,
        crf=18,
        batch_index=0,
        audio_vae=models[3],
        plan=plan,
        **sound,
    )
    return [
        video,
        g.add("SaveVideo", video=video, filename_prefix=f"video/{name}", format="auto", codec="auto"),
    ]


def text_to_video_two_stages(g: Graph, name: str) -> Columns:
    models = load_all(g)
    plan = clip_plan(g, 2)
    text = prompt(g, models, plan, BEACH)
    first = stage(g, models, text, plan[1], "LTX-2 scheduler", 4.0, 42)
    larger = upscale(g, models, first)
    distilled = lora(g, models)
    second = stage(g, distilled, text, larger, "distilled 3 (second stage)", 1.0, 43)
    return [
        ("Models and size (real models: 1280 x 704)", [models, plan]),
        ("Prompt", [text]),
        ("First stage: half size, 20 steps", [first]),
        ("Second stage: full size, 3 steps", [larger, distilled, second]),
        ("Result", finish(g, name, models, second, plan)),
    ]


def text_to_video_distilled(g: Graph, name: str) -> Columns:
    models = load_all(g)
    plan = clip_plan(g, 2)
    text = prompt(g, models, plan, BEACH)
    first = stage(g, models, text, plan[1], "distilled 8", 1.0, 42)
    larger = upscale(g, models, first)
    second = stage(g, models, text, larger, "distilled 3 (second stage)", 1.0, 43)
    return [
        ("Distilled models (real: 1280 x 704)", [models, plan]),
        ("Prompt", [text]),
        ("First stage: half size, 8 steps", [first]),
        ("Second stage: full size, 3 steps", [larger, second]),
        ("Result", finish(g, name, models, second, plan)),
    ]


def image_to_video_two_stages(g: Graph, name: str) -> Columns:
    models = load_all(g)
    plan = clip_plan(g, 2)
    image = g.add("LoadImage", image="photo.jpg")
    text = prompt(g, models, plan, PHOTO)
    begun = in_place(g, models, image, plan[1], 33)
    first = stage(g, models, text, begun, "LTX-2 scheduler", 4.0, 42)
    larger = upscale(g, models, first)
    again = in_place(g, models, image, larger, 0)
    distilled = lora(g, models)
    second = stage(g, distilled, text, again, "distilled 3 (second stage)", 1.0, 43)
    return [
        ("Models and size (real models: 1280 x 704)", [models, plan]),
        ("First image and prompt", [image, text]),
        ("First stage: half size, 20 steps", [begun, first]),
        ("Second stage: full size, image again", [larger, again, distilled, second]),
        ("Result", finish(g, name, models, second, plan)),
    ]


def audio_image_to_video(g: Graph, name: str) -> Columns:
    models = load_all(g, "none")
    plan = clip_plan(g, 1)
    image = g.add("LoadImage", image="photo.jpg")
    sound = g.add("LoadAudio", audio="sound.wav")
    text = prompt(g, models, plan, SONG)
    begun = in_place(g, models, image, plan[1], 33)
    given = g.add("LTX2AVSetAudio", audio_vae=models[3], audio=sound, latent=begun, start=0.0)
    first = stage(g, models, text, given, "distilled 8", 1.0, 42)
    return [
        ("Distilled models (real: 1024 x 576)", [models, plan]),
        ("First image, sound, prompt", [image, sound, text]),
        ("One stage: full size, 8 steps", [begun, given, first]),
        ("Result, with the sound that was given", finish(g, name, models, first, plan, given[1])),
    ]


WORKFLOWS: tuple[Callable[[Graph, str], Columns], ...] = (
    text_to_video_two_stages,
    text_to_video_distilled,
    image_to_video_two_stages,
    audio_image_to_video,
)


def author(page: ComfyPage, build: Callable[[Graph, str], Columns]) -> None:
    """Write one workflow in both formats, and its thumbnail."""
    name, g = build.__name__, Graph()
    columns = [[title, [int(link.node) for link in links]] for title, links in build(g, name)]
    page.page.evaluate("([prompt, name]) => app.loadApiJson(prompt, name)", [g.prompt, name])
    page.page.wait_for_timeout(1500)
    page.page.evaluate(FIX_SEEDS)
    page.page.evaluate(ARRANGE, [columns, SIZES])
    page.page.wait_for_timeout(500)
    made = page.ask(SERIALISE)
    workflow, prompt_ = made["workflow"], made["output"]
    version = re.search(r'^version = "(.+)"$', (PACK / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    workflow["id"] = str(uuid5(NAMESPACE_URL, f"{PROJECT}/{name}"))
    for node in workflow["nodes"]:
        ours = node["type"].startswith("LTX2AV")
        node["properties"] |= {"cnr_id": PROJECT, "ver": version[1]} if ours else {"cnr_id": "comfy-core"}
        if node["type"] == "LoadAudio":
            # The page fills the player's address in again; it holds a random number.
            node["widgets_values"][1] = ""
            del prompt_[str(node["id"])]["inputs"]["audioUI"]
    _write(OUTPUT / f"{name}.json", workflow)
    _write(OUTPUT / "api" / f"{name}.json", prompt_)
    ended = page.run()
    if ended["kind"] != "execution_success":
        raise SystemExit(f"{name}: {json.dumps(ended)[:2000]}")
    page.fit_view()
    page.page.wait_for_selector(".p-toast-message", state="hidden")
    picture = Image.open(io.BytesIO(page.page.screenshot(clip=page.ask(BOUNDS)))).convert("RGB")
    picture.thumbnail((1000, 1000))
    picture.save(OUTPUT / f"{name}.jpg", quality=65, optimize=True)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    comfy, chromium = Path(os.environ["COMFYUI_DIR"]), chromium_path()
    if chromium is None:
        raise SystemExit("no Chromium found; set CHROMIUM to its path")
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        for name in ("custom_nodes", "input", "output"):
            (base / name).mkdir()
        (base / "custom_nodes" / "comfyui-ltx2").symlink_to(PACK, target_is_directory=True)
        for file in (OUTPUT / "input").iterdir():
            shutil.copy(file, base / "input")
        shutil.copytree(PACK / "ltx2_core" / "assets" / "tiny", base / "models")
        server = Server(comfy, base)
        try:
            server.wait_ready()
            for build in WORKFLOWS:
                with comfy_page(server.port, chromium, PLAIN_CANVAS) as page:
                    author(page, build)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
