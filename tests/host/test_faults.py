"""In the host: prompts in any order, values that break, memory that runs out, the stop button."""

from __future__ import annotations

import json

import pytest
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import checkpoint, prompt, stage, text_encoder
from tiny_models import TinyModels

PHASES = ["text", "step", "decode", "audio decode", "encode", "audio encode"]


def empty(g: Graph) -> Link:
    return g.add("LTX2AVEmptyLatent", width=64, height=64, frames=9, fps=24.0, batch_size=1)


@pytest.mark.parametrize("kind", ["memory", "interrupt"])
def test_a_fault_in_any_phase_changes_no_result(server: Server, models: TinyModels, kind: str):
    g = Graph()
    loaded, clip = checkpoint(g, models), text_encoder(g, models)
    ends = {"model": loaded, "clip": clip, "video_vae": loaded[1], "audio_vae": loaded[2]}
    g.add("LTX2ProbeFaults", **ends, positive=prompt(g, clip), latent=empty(g), kind=kind)
    result = server.run(g.prompt, timeout_s=500)
    (found,) = (json.loads(o["report"][0]) for o in result.outputs.values() if "report" in o)
    assert found["phases"] == PHASES
    assert found["wrong"] == []


def test_a_first_step_that_is_not_finite_stops_and_names_the_block(server: Server, models: TinyModels):
    g = Graph()
    strong = checkpoint(g, models)
    strong = g.add("LTX2ProbeOverflow", model=strong)
    text = prompt(g, text_encoder(g, models))
    g.dump("broken", latent=stage(g, strong, text, empty(g)))
    with pytest.raises(
        GraphError, match=r"estimate of video.* holds NaN or infinite values, first in block 1, video"
    ):
        server.run(g.prompt, timeout_s=300)


def test_a_prompt_is_encoded_the_same_after_any_other(server: Server, models: TinyModels):
    found: dict[str, dict] = {}
    for order in (
        ("a red ball", "a very long prompt of many words"),
        ("blue", "a red ball"),
        ("a red ball", "a red ball"),
    ):
        server.free(unload_models=True, free_memory=True)
        g = Graph()
        clip = text_encoder(g, models)
        both = g.add("LTX2AVPrompt", clip=clip, positive=order[0], negative=order[1], fps=24.0)
        g.dump("first", conditioning=both)
        g.dump("second", conditioning=both[1])
        result = server.run(g.prompt, timeout_s=300)
        for name, text in zip(("first", "second"), order, strict=True):
            tensors = result.tensors(name)
            before = found.setdefault(text, tensors)
            assert tensors.keys() == before.keys()
            assert all(tensors[key].equal(before[key]) for key in tensors), (order, name)
