"""The memory plan node: what it says of released models and of a loaded one, before anything is sampled."""

from __future__ import annotations

import pytest
from host_graph import Graph
from host_server import GraphError, Server
from node_graphs import checkpoint, plan_node
from tiny_models import TinyModels


def plan(g: Graph, **changes):
    values = {
        "width": 1920,
        "height": 1088,
        "frames": 121,
        "stages": "2",
        "budget": "all sizes",
        "model_version": "2.3",
        "weights": "bf16",
    }
    return g.add("LTX2AVMemoryPlan", **{**values, **changes})


def report(server: Server, **changes) -> str:
    g = Graph()
    node = plan(g, **changes)
    return server.run(g.prompt).outputs[node.node]["text"][0]


def test_the_plan_names_every_size_and_comes_with_an_image(server: Server):
    g = Graph()
    node = plan(g)
    g.dump("picture", image=node[1])
    result = server.run(g.prompt)
    text = result.outputs[node.node]["text"][0]
    assert [f"within {size} GB" in text for size in (8, 12, 16, 24, 32, 48, 80)] == [True] * 7
    assert "48 of 48 blocks" in text
    assert "does not fit" not in text
    assert result.outputs[node.node]["images"]
    picture = result.tensors("picture")["image"]
    assert picture.shape[-1] == 3
    assert picture.std() > 0.05


def test_fp8_and_a_clip_plan_change_it(server: Server):
    whole = report(server, budget="24 GB")
    half = report(server, budget="24 GB", weights="fp8")
    assert "48 of 48" in half
    assert "48 of 48" not in whole
    g = Graph()
    node = plan(g, plan=plan_node(g, width=256, height=128), budget="8 GB")
    assert "256 x 128, 9 frames" in server.run(g.prompt).outputs[node.node]["text"][0]


def test_a_loaded_model_is_planned_as_it_is(server: Server, models: TinyModels):
    g = Graph()
    loaded = checkpoint(g, models)
    node = plan(g, model=loaded, budget="8 GB")
    text = server.run(g.prompt).outputs[node.node]["text"][0]
    assert "2 of 2 blocks stay on the device" in text
    g = Graph()
    foreign = g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    plan(g, model=foreign)
    with pytest.raises(GraphError, match="use LTX-2 Load Checkpoint"):
        server.run(g.prompt)


def test_a_frame_whose_decoder_does_not_fit_is_planned_in_tiles(server: Server):
    text = report(server, width=3840, height=2176, budget="8 GB")
    assert "tiles with 512 pixels around each: exact" in text
    assert "tiles" not in report(server, width=3840, height=2176, budget="24 GB")
