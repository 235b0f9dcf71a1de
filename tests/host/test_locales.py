"""Translated texts of the nodes: made from the texts as they are, served by the host, shown on the page."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser import ComfyPage, comfy_page
from host_server import Json, Server
from locale_texts import LANGUAGES, SOURCE, Texts, english, file_of, read
from timeline_page import Timeline

REFRESH = "run tests/host/author_locales.py and translate what it lists"
SHOWN = """([name, combos]) => {
    const node = LiteGraph.createNode(name);
    const texts = { [`${name}.display_name`]: node.title };
    const note = (part, key, label) => { texts[`${name}.${part}.${key.replaceAll(".", "_")}.name`] = label; };
    const look = () => {
        for (const widget of node.widgets ?? []) note("inputs", widget.name, widget.label);
        for (const input of node.inputs ?? []) note("inputs", input.name, input.localized_name);
        node.outputs.forEach((output, index) => note("outputs", String(index), output.localized_name));
    };
    app.graph.add(node);
    look();
    for (const [combo, options] of Object.entries(combos))
        for (const option of options) {
            const widget = node.widgets.find((one) => one.name === combo);
            widget.value = option;
            widget.callback?.(option);
            look();
        }
    app.graph.remove(node);
    return JSON.stringify(texts);
}"""
LABELS = """() => JSON.stringify(LiteGraph.createNode("LTX2AVPrompt").widgets
    .map((widget) => (widget.inputEl ?? widget.element)?.ariaLabel).filter(Boolean))"""


@pytest.fixture(scope="module")
def known(server: Server) -> Json:
    return server.get("/object_info")


def test_the_source_of_the_translations_is_what_the_nodes_say(known: Json):
    source, now = read(SOURCE), english(known)
    stale = {path for path in source.keys() | now.keys() if source.get(path) != now.get(path)}
    assert not stale, REFRESH
    assert list(source) == list(now), REFRESH


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_host_serves_the_texts_of_a_language(server: Server, language: str):
    served = server.get("/i18n")[language]["nodeDefs"]
    ours = json.loads(file_of(language).read_text(encoding="utf-8"))
    assert {name: served[name] for name in ours} == ours


@pytest.fixture(scope="module")
def chinese(server: Server, chromium: str) -> Iterator[ComfyPage]:
    with comfy_page(server.port, chromium, {"Comfy.Locale": "zh"}) as page:
        page.page.evaluate("() => app.graph.clear()")
        yield page
    with comfy_page(server.port, chromium, {"Comfy.Locale": "en"}):
        pass  # The host keeps this setting, and other tests read the page in English.


def shown(page: ComfyPage, name: str, node: Json) -> Texts:
    """Title and labels of a node on the page, with each option of its dynamic combos chosen once."""
    entries = {**node["input"].get("required", {}), **node["input"].get("optional", {})}
    combos = {
        key: [option["key"] for option in settings[0]["options"]]
        for key, (kind, *settings) in entries.items()
        if kind == "COMFY_DYNAMICCOMBO_V3"
    }
    return page.ask(SHOWN, [name, combos])


def test_the_page_shows_titles_and_labels_of_all_nodes_in_chinese(chinese: ComfyPage, known: Json):
    texts = read(file_of("zh"))
    seen: Texts = {}
    for name, node in known.items():
        if name.startswith("LTX2AV"):
            seen |= shown(chinese, name, node)
    wanted = {path: text for path, text in texts.items() if path.endswith("name")}
    assert {path: seen.get(path) for path in wanted} == wanted


def test_boxes_of_prompts_are_labelled_in_chinese(chinese: ComfyPage):
    texts = read(file_of("zh"))
    wanted = [texts[f"LTX2AVPrompt.inputs.{name}.name"] for name in ("positive", "negative")]
    assert chinese.ask(LABELS) == wanted


def test_the_timeline_is_in_chinese(chinese: ComfyPage):
    texts = json.loads(file_of("zh").with_name("main.json").read_text(encoding="utf-8"))["ltx2av"]
    timeline = Timeline.of(chinese, {"format": "ltx2.shots/1", "parts": [], "prompt": ""})
    assert timeline.button(texts["Split at the playhead (s)"]).inner_text() == texts["Split"]
    assert timeline.warnings == [texts["There is no prompt yet."]]
    timeline.root.get_by_label(texts["Prompt of the whole clip"]).wait_for()
