"""The node that rewrites prompts: it writes as core's node for text does, told by our instructions."""

from __future__ import annotations

import pytest
from browser import comfy_page
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import text_encoder
from tiny_models import TinyModels

from ltx2_core.text.enhance import cleaned, conversation

SHORT = 16


def texts(server: Server, g: Graph) -> list[str]:
    """The texts that a graph shows, in the order of its nodes: hosts run equal nodes in different orders."""
    outputs = server.run(g.prompt, timeout_s=120).outputs
    return [text for node in sorted(outputs, key=int) for text in outputs[node].get("text", ())]


def enhanced(g: Graph, clip: Link, prompt: str = "a red ball", seed: int = 42) -> Link:
    values = {"prompt": prompt, "from_image": False, "max_tokens": SHORT, "seed": seed}
    return g.add("LTX2AVEnhancePrompt", clip=clip, check=False, **values)


def test_a_prompt_is_rewritten_as_core_writes_text(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("PreviewAny", source=enhanced(g, text_encoder(g, models)))
    ours, _ = texts(server, g)
    ours = ours.removesuffix("\n\n(written by the language model)")
    g = Graph()
    sampling = {"sampling_mode": "on", "temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    sampling |= {"repetition_penalty": 1.0, "seed": 42, "presence_penalty": 0.0}
    core = g.add(
        "TextGenerate",
        clip=text_encoder(g, models),
        prompt=conversation("a red ball", 3),
        max_length=SHORT,
        thinking=False,
        use_default_template=False,
        sampling_mode="on",
        **{f"sampling_mode.{name}": value for name, value in sampling.items() if name != "sampling_mode"},
    )
    g.add("PreviewAny", source=core)
    (answer,) = texts(server, g)
    assert ours == cleaned(answer, "a red ball")
    assert ours != "a red ball"


def test_an_empty_prompt_is_refused(server: Server, models: TinyModels) -> None:
    g = Graph()
    g.add("PreviewAny", source=enhanced(g, text_encoder(g, models), "  "))
    with pytest.raises(GraphError, match="no prompt to enhance"):
        server.run(g.prompt)


def test_a_text_that_is_no_caption_is_not_used(server: Server, models: TinyModels) -> None:
    g = Graph()
    values = {"prompt": "a red ball", "from_image": False, "max_tokens": SHORT, "check": True}
    # The last seed: the second answer is drawn with the first one.
    values["seed"] = 2**64 - 1
    answer = g.add("LTX2AVEnhancePrompt", clip=text_encoder(g, models), **values)
    for output in (answer, answer[1]):
        g.add("PreviewAny", source=output)
    _, prompt, report = texts(server, g)
    assert prompt == "a red ball"
    assert report.startswith("the prompt stays as it is: what was written")


def test_an_edited_text_is_used_and_no_language_model_is_loaded(server: Server) -> None:
    g = Graph()
    values = {"prompt": "a red ball", "from_image": False, "max_tokens": SHORT, "seed": 1}
    # Loading these files would fail.
    clip = g.add("LTX2ProbeLoadClip", text_encoder="gone", ckpt_name="gone")
    answer = g.add("LTX2AVEnhancePrompt", clip=clip, edited=" A red ball rolls. ", **values)
    g.add("PreviewAny", source=answer)
    assert texts(server, g) == ["A red ball rolls.\n\n(as edited)", "A red ball rolls."]


def test_an_image_is_refused_where_only_the_text_part_of_gemma_is_loaded(
    server: Server, models: TinyModels
) -> None:
    g = Graph()
    values = {"prompt": "a ball", "from_image": True, "max_tokens": SHORT, "seed": 1}
    image = g.add("EmptyImage", width=64, height=64, batch_size=1, color=0)
    answer = g.add("LTX2AVEnhancePrompt", clip=text_encoder(g, models), image=image, **values)
    g.add("PreviewAny", source=answer)
    with pytest.raises(GraphError, match="loads only the text part of Gemma"):
        server.run(g.prompt)


WRITTEN = "A fox runs through fresh snow."
EDIT = """(written) => {
    const node = LiteGraph.createNode("LTX2AVEnhancePrompt");
    app.graph.add(node);
    node.onExecuted({ text: [`${written}\\n\\n(written by the language model)`], prompt: [written] });
    const box = node.widgets.find((one) => one.name === "edited");
    const before = box.value;
    node.widgets.find((one) => one.type === "button").callback();
    const saved = node.serialize().widgets_values;
    return JSON.stringify([before, box.value, saved.filter((one) => one === written).length]);
}"""


def test_the_page_puts_the_written_text_into_the_box(server: Server, chromium: str) -> None:
    with comfy_page(server.port, chromium) as page:
        before, after, saved = page.ask(EDIT, WRITTEN)
    assert (before, after, saved) == ("", WRITTEN, 1)
