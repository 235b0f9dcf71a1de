"""ComfyUI's page in headless Chromium: load a workflow as a user does, press Run, look at what appears."""

from __future__ import annotations

import json
import os
import shutil
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

Json = dict[str, Any]
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY = """() => window.app && app.graph && window.LiteGraph
    && Object.keys(LiteGraph.registered_node_types).length > 100"""
DROP = """([text, name]) => {
    const files = new DataTransfer();
    files.items.add(new File([text], name, { type: "application/json" }));
    const canvas = document.querySelector("#graph-canvas");
    for (const kind of ["dragenter", "dragover", "drop"])
        canvas.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
}"""
MISSING = """() => JSON.stringify({
    types: app.graph.nodes.map((n) => n.type).filter((t) => !(t in LiteGraph.registered_node_types)),
    overlay: [...document.querySelectorAll("[data-testid=error-overlay]")].map((e) => e.textContent),
})"""
CONVERT = """async (text) => {
    await app.loadGraphData(JSON.parse(text));
    return JSON.stringify((await app.graphToPrompt()).output);
}"""
RUN = """() => new Promise((done) => {
    const finish = (kind) => (event) => done(JSON.stringify({ kind, detail: event.detail }));
    for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
        app.api.addEventListener(kind, finish(kind));
    document.querySelector("[data-testid=queue-button]").click();
    // A graph that the host rejects never starts.
    setInterval(() => Object.keys(app.lastNodeErrors ?? {}).length
        && done(JSON.stringify({ kind: "rejected", detail: app.lastNodeErrors })), 500);
})"""


def chromium_path() -> str | None:
    """``CHROMIUM`` if set, else the first browser found on the path."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


@contextmanager
def comfy_page(port: int, executable: str, settings: Json | None = None) -> Iterator[ComfyPage]:
    """Open the page of the host at ``port``; nothing but that host can be reached from it."""
    from playwright.sync_api import sync_playwright

    base = f"http://127.0.0.1:{port}"
    body = json.dumps({"Comfy.TutorialCompleted": True, **(settings or {})}).encode()
    request = urllib.request.Request(f"{base}/api/settings", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=list(CHROMIUM_FLAGS))
        try:
            page = browser.new_page(viewport={"width": 1600, "height": 900})
            page.set_default_timeout(120_000)
            local = (f"127.0.0.1:{port}", "")
            page.route(
                "**/*",
                lambda route: (
                    route.continue_() if urlparse(route.request.url).netloc in local else route.abort()
                ),
            )
            page.goto(base)
            page.wait_for_function(READY)
            page.wait_for_timeout(1500)
            yield ComfyPage(page)
        finally:
            browser.close()


class ComfyPage:
    """The open page."""

    def __init__(self, page: Any) -> None:
        self.page = page

    def ask(self, script: str, argument: Any = None) -> Any:
        """Run JavaScript that returns JSON text; objects returned as such would turn undefined into null."""
        return json.loads(self.page.evaluate(script, argument))

    def drop(self, name: str, text: str) -> None:
        """Drop a workflow file, in UI or API format, on the canvas and wait until its nodes are there."""
        graph = json.loads(text)
        wanted = len(graph.get("nodes", graph))
        self.page.evaluate(DROP, [text, name])
        self.page.wait_for_function("(wanted) => app.graph.nodes.length === wanted", arg=wanted)
        self.page.wait_for_timeout(1000)

    def missing(self) -> Json:
        """Node types that the page does not have, and the text of its error overlay."""
        return self.ask(MISSING)

    def convert(self, text: str) -> Json:
        """A workflow in UI format as the page sends it to the host: in API format."""
        return self.ask(CONVERT, text)

    def run(self) -> Json:
        """Press Run and wait for the end: its kind and detail."""
        return self.ask(RUN)

    def fit_view(self) -> None:
        """Show the whole graph; media previews exist only while their node is visible."""
        self.page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.page.wait_for_timeout(1000)
