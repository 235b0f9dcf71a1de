"""Graphs copied from the page as a command and as Python: the Python makes the latents of the graph."""

from __future__ import annotations

import re
from pathlib import Path

from browser import comfy_page
from host_server import Server
from workflow_runs import EXAMPLES, Runs

NAME = "first_last_frame"
COPY = """async (kind) => {
    await app.extensionManager.command.execute(`comfyui-ltx2.copy-${kind}`);
    return JSON.stringify(await navigator.clipboard.readText());
}"""
TITLES = (
    "() => JSON.stringify([...document.querySelectorAll('.p-toast-summary')].map((one) => one.textContent))"
)
SAID = "() => JSON.stringify([...document.querySelectorAll('.p-toast-detail')].map((one) => one.textContent))"


def copied(server: Server, chromium: str, kind: str, name: str) -> str:
    """What is in the clipboard after the menu's command, with a workflow open."""
    with comfy_page(server.port, chromium) as page:
        page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.drop(f"{name}.json", (EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
        return page.ask(COPY, kind)


def test_copied_python_makes_the_latents_of_the_graph(
    server: Server, runs: Runs, chromium: str, tmp_path: Path
):
    text = copied(server, chromium, "python", NAME)
    prompt = runs.prompt(NAME)
    prompt["dump"] = {"class_type": "LTX2ProbeDump", "inputs": {"name": "made", "latent": ["9", 2]}}
    made = server.run(prompt, timeout_s=300).tensors("made").values()
    ours = [next(one for one in made if one.shape[1:2] == (channels,)) for channels in (128, 8)]
    # Names of files are those that ComfyUI lists, and the clip is not written here.
    base = server.base
    folders = [base / "models" / one for one in ("checkpoints", "text_encoders", "loras")] + [base / "input"]
    found = [path for folder in folders for path in folder.rglob("*")]

    def located(match: re.Match[str]) -> str:
        name = match[1] if match[1].endswith(".png") else prompt_file(match[1])
        return next(repr(str(path)) for path in found if str(path).endswith(f"/{name}"))

    def prompt_file(name: str) -> str:
        return name if not runs.trained or name.startswith("trained/") else f"trained/{name}"

    script = re.sub(r'"([^"\n ]*(?:\.safetensors|\.png|gemma-tiny))"', located, text)
    script = script.replace('clip.save("clip.mp4")', "")
    script = script.replace("numerics=", 'device="cpu", dtype=torch.float32, numerics=')
    names: dict = {}
    exec(f"import torch\n{script}", names)  # noqa: S102 the point of the test
    latents = names["clip"].latents
    for mine, theirs in zip(ours, (latents.video, latents.audio), strict=True):
        assert mine.shape == theirs.shape
        # Twenty guided steps enlarge the rounding of two implementations; another seed or schedule gives 1.
        assert float((mine - theirs).abs().max()) <= 1e-2 * float(theirs.abs().max())


def test_a_graph_that_no_command_can_do_says_what_is_in_the_way(server: Server, runs: Runs, chromium: str):
    with comfy_page(server.port, chromium) as page:
        name = "extend_video"
        page.drop(f"{name}.json", (EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
        page.page.evaluate("() => app.extensionManager.command.execute('comfyui-ltx2.copy-command')")
        page.page.wait_for_function(f"() => ({SAID})().includes('LTX2AVExtend has no counterpart')")


def test_a_command_that_the_page_may_not_copy_is_shown_and_not_called_copied(
    server: Server, runs: Runs, chromium: str
):
    with comfy_page(server.port, chromium) as page:
        page.drop(f"{NAME}.json", (EXAMPLES / f"{NAME}.json").read_text(encoding="utf-8"))
        page.page.evaluate(
            "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('refused')); }"
        )
        page.page.evaluate("() => app.extensionManager.command.execute('comfyui-ltx2.copy-command')")
        page.page.wait_for_function(f"() => ({SAID})().includes('ltx2 generate')")
        assert page.ask(TITLES) == ["Copy this"]
