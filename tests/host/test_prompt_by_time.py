"""LTX-2 Prompt By Time: one text is the plain run, parts hold in their time, others are refused."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import checkpoint, our_latent, plan_node, prompt, stage, text_encoder
from tiny_models import TinyModels

FRAMES = 33
"""5 latent frames, 1.4 s."""
RED, BLUE = "a red ball", "a blue cube spins fast"


def by_time(g: Graph, clip: Link, parts: str, whole: str = "", **changes) -> Link:
    values = {"prompt": whole, "parts": parts, "negative": "noise", "fade": 0.0, "fps": 24.0, **changes}
    return g.add("LTX2AVPromptByTime", clip=clip, **values)


def sampled(g: Graph, models: TinyModels, text: Link, name: str, **changes) -> None:
    latent = stage(g, checkpoint(g, models), text, our_latent(g, FRAMES), **changes)
    g.dump(name, latent=latent)


@pytest.mark.parametrize("parts", [f"0: {RED}", f"0: {RED}\n0.7: {RED}"])
def test_one_text_is_the_clip_of_the_plain_prompt(server: Server, models: TinyModels, parts: str) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    sampled(g, models, prompt(g, clip), "plain")
    sampled(g, models, by_time(g, clip, parts), "parts")
    result = server.run(g.prompt)
    one, other = result.tensors("plain"), result.tensors("parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_part_in_one_text_is_the_clip_of_the_plain_prompt(server: Server, models: TinyModels) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    sampled(g, models, prompt(g, clip), "plain")
    sampled(g, models, by_time(g, clip, f"0: {RED}\n0.7: {RED}", method="relay"), "parts")
    result = server.run(g.prompt)
    one, other = result.tensors("plain"), result.tensors("parts")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("method", "changed"), [("relay", {3, 4}), ("relay_wdc", {1, 2})])
def test_in_one_text_the_time_of_a_part_changes_most_what_lies_in_it(
    server: Server, models: TinyModels, method: str, changed: set[int]
) -> None:
    """The words are the same, and the second part begins at 50 % or at 99 %.

    With relay_wdc the first part then moves from latent frame 1 to 2, and the second one stays at 4.
    """
    g = Graph()
    clip = text_encoder(g, models)
    length = plan_node(g, length=FRAMES, length_unit="frames", stages="1")
    for name, second in (("late", "99%"), ("half", "50%")):
        text = by_time(g, clip, f"0: {RED}\n{second}: {BLUE}", "a hall", method=method, plan=length)
        sampled(g, models, text, name)
    result = server.run(g.prompt)
    one, other = result.tensors("late"), result.tensors("half")
    video = next(name for name in one if one[name].ndim == 5)
    change = (one[video] - other[video]).abs().mean(dim=(0, 1, 3, 4))
    assert set(change.topk(2).indices.tolist()) == changed


def test_the_times_of_whatdreamscost_need_the_length_of_the_clip(server: Server, models: TinyModels) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    g.add("PreviewAny", source=by_time(g, clip, f"0: {RED}\n0.7: {BLUE}", method="relay_wdc"))
    with pytest.raises(GraphError, match="relay_wdc divides the length of the clip"):
        server.run(g.prompt)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_the_second_part_changes_most_where_it_holds(server: Server, models: TinyModels, cfg: float) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    sampled(g, models, prompt(g, clip), "plain", cfg=cfg)
    sampled(g, models, by_time(g, clip, f"0: {RED}\n0.7: {BLUE}"), "parts", cfg=cfg)
    result = server.run(g.prompt)
    one, other = result.tensors("plain"), result.tensors("parts")
    video = next(name for name in one if one[name].ndim == 5)
    change = (one[video] - other[video]).abs().mean(dim=(0, 1, 3, 4))
    assert float(change[-2:].min()) > 1.2 * float(change[:2].max())


def test_percent_takes_the_length_of_the_plan(server: Server, models: TinyModels) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    text = by_time(g, clip, f"0%: {RED}\n50%: {BLUE}")
    g.add("PreviewAny", source=text)
    with pytest.raises(GraphError, match="needs the length of the clip"):
        server.run(g.prompt)


def test_a_network_that_ignores_the_parts_is_refused(server: Server, models: TinyModels) -> None:
    g = Graph()
    clip = text_encoder(g, models)
    text = by_time(g, clip, f"0: {RED}\n0.7: {BLUE}")
    model = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"], network="ComfyUI")
    g.dump("x", latent=stage(g, model, text, our_latent(g, FRAMES)))
    with pytest.raises(GraphError, match="needs the network LTX-2"):
        server.run(g.prompt)
