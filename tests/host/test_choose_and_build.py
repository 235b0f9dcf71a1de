"""Nodes that choose a run for a GPU and build a prompt: what they give fits other nodes of a graph."""

from __future__ import annotations

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server

from ltx2_core.run.choice import choose_run
from ltx2_core.run.prompt_parts import FORMS, fields

CHOICE = {
    "budget": "8 GB",
    "quality": "balanced",
    "seconds": 5.0,
    "with_image": True,
    "with_audio": False,
    "lora": "none",
    "system_gb": 0.0,
}
PARTS = {
    "dialogue": "at last",
    "ambient": "traffic",
    "subject": "an old man",
    "action": "pours tea",
    "setting": "a kitchen",
    "lighting": "morning light",
}


def chosen(g: Graph, **changes) -> Link:
    return g.add("LTX2AVChooseRun", **CHOICE | changes)


def built(g: Graph, form: str, **changes) -> Link:
    words = {f"{name}_word": "none" for name in ("camera", "dialogue", "ambient", "music", "effects")}
    names = {"size": "720p", "clip_length": "quick", "lora_effect": "balanced"}
    parts = dict.fromkeys(fields(), "") | PARTS
    return g.add("LTX2AVBuildPrompt", form=form, **parts | words | names | changes)


def shown(server: Server, g: Graph, node: Link) -> str:
    return server.run(g.prompt).outputs[node.node]["text"][0]


def test_the_choice_is_that_of_the_library_and_its_numbers_fit_other_nodes(server: Server):
    g = Graph()
    choice = chosen(g)
    g.add("PreviewAny", source=choice[8])
    latent = g.add("EmptyLTXVLatentVideo", width=choice[1], height=choice[2], length=choice[3], batch_size=1)
    g.dump("latent", latent=latent)
    memory = g.add(
        "LTX2AVMemoryPlan",
        width=64,
        height=64,
        frames=9,
        stages="2",
        budget="8 GB",
        model_version="ltxv-2b",
        weights="bf16",
        plan=choice,
    )
    result = server.run(g.prompt)
    expected = choose_run(8 * 10**9, image=True, audio=False)
    report = result.outputs[choice.node]["text"][0]
    assert all(reason in report for reason in expected.reasons)
    assert all(file in report for file in expected.files)
    assert "steps: 7 and 3" in report
    assert any(expected.model in output.get("text", ()) for output in result.outputs.values())
    _, _, frames, height, width = result.tensors("latent")["latent"].shape
    clip = expected.clip
    assert (8 * frames - 7, 32 * height, 32 * width) == (clip.frames, clip.height, clip.width)
    assert f"{clip.width} x {clip.height}, {clip.frames} frames" in result.outputs[memory.node]["text"][0]


def test_where_nothing_fits_the_node_says_so(server: Server):
    g = Graph()
    g.add("PreviewAny", source=chosen(g, system_gb=0.5)[11])
    with pytest.raises(GraphError, match="no clip fits 8 GB and 500 MB of system memory"):
        server.run(g.prompt)


@pytest.mark.parametrize(
    ("form", "text"),
    zip(
        FORMS,
        (
            'whispers "at last", distant traffic, gentle, whoosh, an old man, pours tea, dolly in, '
            "a kitchen, morning light",
            'Dolly in. An old man pours tea. A kitchen. Morning light. Whispers "at last". Distant traffic. '
            "Gentle. Whoosh.",
            'an old man, pours tea, dolly in, a kitchen, morning light, whispers "at last", distant traffic, '
            "gentle music, whoosh",
        ),
        strict=True,
    ),
)
def test_the_parts_and_words_become_a_prompt(server: Server, form: str, text: str):
    g = Graph()
    words = {"camera_word": "dolly in", "dialogue_word": "whispers", "ambient_word": "distant"}
    prompt = built(g, form, **words, music_word="gentle", effects_word="whoosh")
    for output in range(5):
        g.add("PreviewAny", source=prompt[output])
    result = server.run(g.prompt)
    assert result.outputs[prompt.node]["text"][0] == text
    others = {one for node, output in result.outputs.items() if node != prompt.node for one in output["text"]}
    assert others == {text, "1280", "704", "6.0", "0.7"}


def test_empty_parts_are_refused(server: Server):
    g = Graph()
    g.add("PreviewAny", source=built(g, next(iter(FORMS)), **dict.fromkeys(PARTS, "")))
    with pytest.raises(GraphError, match="all parts of the prompt are empty"):
        server.run(g.prompt)
