"""Makes a graph on ComfyUI's page by the mouse: menus for nodes and choices, drags for links."""

from __future__ import annotations

import re
from typing import Any

from browser import ComfyPage

PLACE = """([type, kind, name]) => {
    const { ds, canvas } = app.canvas;
    const node = app.graph.nodes.find((one) => one.type === type);
    const slots = kind === "in" ? node.inputs : node.outputs;
    let at;
    if (kind === "widget") {
        const widget = node.widgets.find((one) => one.name === name);
        at = [node.pos[0] + node.size[0] * 0.6, node.pos[1] + widget.last_y + 10];
    } else if (kind === "title") at = [node.pos[0] + 60, node.pos[1] - 15];
    else at = node.getConnectionPos(kind === "in", slots.findIndex((one) => one.name === name));
    const { x, y } = canvas.getBoundingClientRect();
    const [right, down] = [0, 1].map((axis) => (at[axis] + ds.offset[axis]) * ds.scale);
    return JSON.stringify([x + right, y + down]);
}"""
LINKS = "() => JSON.stringify([...app.graph.links.values()].length)"
MENU = """(type) => {
    const { category, title } = LiteGraph.registered_node_types[type];
    return JSON.stringify([...category.split("/"), title]);
}"""
COUNT = "() => JSON.stringify(app.graph.nodes.length)"


class MouseGraph:
    """The graph of an open page, as someone makes it who has a mouse alone."""

    def __init__(self, page: ComfyPage) -> None:
        self.page, self.mouse, self.ask = page.page, page.page.mouse, page.ask

    def add(self, x: float, y: float, *path: str) -> None:
        """Add a node at a place of the page that is empty; ``path`` is its category and its title."""
        before = self.ask(COUNT)
        self.mouse.click(x, y, button="right")
        for entry in ("Add Node", *path):
            self.entry(entry)
        self.page.wait_for_function(f"() => Number(({COUNT})()) === {before + 1}")
        self.page.wait_for_timeout(200)

    def menu(self, kind: str) -> Any:
        """The category and the title by which the menu has a kind of node."""
        return self.ask(MENU, kind)

    def entry(self, text: str) -> None:
        """Click an entry of the menu that was opened last."""
        exact = re.compile(rf"^\s*{re.escape(text)}\s*$")
        entry = self.page.locator(".litemenu-entry").filter(has_text=exact)
        entry.last.wait_for()
        entry.last.click()
        self.page.wait_for_timeout(150)

    def place(self, *what: str) -> Any:
        """Where an input ("in"), an output ("out"), a widget or the title of a node is on the page."""
        return self.ask(PLACE, list(what))

    def link(self, source: str, output: str, target: str, name: str) -> None:
        before = self.ask(LINKS)
        self.mouse.move(*self.place(source, "out", output))
        self.mouse.down()
        self.mouse.move(*self.place(target, "in", name), steps=8)
        self.page.wait_for_timeout(100)
        self.mouse.up()
        self.page.wait_for_timeout(150)
        assert self.ask(LINKS) == before + 1, f"{source}.{output} to {target}.{name}"

    def choose(self, node: str, widget: str, value: str) -> None:
        """Choose a value of a combo from its menu."""
        self.mouse.click(*self.place(node, "widget", widget))
        self.page.wait_for_timeout(300)
        self.entry(value)
