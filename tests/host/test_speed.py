"""LTX-2 Speed on a CPU: the same clip with a LoRA, in part loaded and without either."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Result, Server
from node_graphs import assert_equal, checkpoint, distance, our_latent, prompt, stage, text_encoder
from tiny_models import TinyModels


def fused(g: Graph, model: Link) -> Link:
    return g.add("LTX2AVSpeed", model=model, fused=True)


def lora(g: Graph, models: TinyModels, model: Link) -> Link:
    return g.add("LTX2AVLoadLora", model=model, lora=models.lora, strength=1.0)


def assert_same(result: Result, actual: str, expected: str) -> None:
    left, right = result.tensors(actual), result.tensors(expected)
    assert left.keys() == right.keys()
    for name in right:
        torch.testing.assert_close(left[name], right[name], rtol=1e-4, atol=1e-4)


def sampled(server: Server, models: TinyModels, **variants) -> Result:
    g = Graph()
    loaded, text = checkpoint(g, models), prompt(g, text_encoder(g, models))
    for name, variant in variants.items():
        g.dump(name, latent=stage(g, variant(g, loaded), text, our_latent(g)))
    return server.run(g.prompt, timeout_s=500)


def test_on_a_cpu_fused_kernels_change_nothing_and_a_lora_still_acts(
    server: Server, models: TinyModels
) -> None:
    result = sampled(
        server,
        models,
        plain=lambda g, model: model,
        fused=fused,
        changed=lambda g, model: lora(g, models, model),
        before=lambda g, model: fused(g, lora(g, models, model)),
        after=lambda g, model: lora(g, models, fused(g, model)),
        off=lambda g, model: g.add("LTX2AVSpeed", model=model, fused=False),
    )
    # The server computes on a CPU, which has no kernels.
    assert_equal(result, "fused", "plain")
    assert_equal(result, "before", "changed")
    assert_equal(result, "before", "after")
    assert_equal(result, "off", "plain")
    assert distance(result, "before", "fused") > 1e-3


def test_a_model_that_is_loaded_in_part_gives_the_same(server: Server, models: TinyModels) -> None:
    plain = sampled(server, models, changed=lambda g, model: lora(g, models, model))
    before = server.log().count("loaded partially")
    partly = sampled(
        server,
        models,
        fused=lambda g, model: fused(g, lora(g, models, g.add("LTX2ProbePartialLoad", model=model))),
    )
    assert server.log().count("loaded partially") > before
    for name, expected in plain.tensors("changed").items():
        torch.testing.assert_close(partly.tensors("fused")[name], expected, rtol=1e-4, atol=1e-4)


def test_fused_kernels_need_our_model(server: Server, models: TinyModels) -> None:
    g = Graph()
    core = g.add("CheckpointLoaderSimple", ckpt_name=models.checkpoints["2.3"])
    g.add("LTX2ProbeModel", model=fused(g, core))
    with pytest.raises(GraphError, match="fused kernels need the model of LTX-2 Load Checkpoint"):
        server.run(g.prompt)
