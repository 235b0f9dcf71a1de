"""In the host: prompts in any order, values that break, memory that runs out, interrupts in every phase."""

from __future__ import annotations

import re

import pytest
import torch
from host_graph import Graph, Link
from host_server import GraphError, Server
from node_graphs import checkpoint, prompt, stage, text_encoder
from tiny_models import TinyModels


def sampled(g: Graph, models: TinyModels, model: Link | None = None) -> Link:
    loaded = checkpoint(g, models)
    text = prompt(g, text_encoder(g, models))
    latent = g.add("LTX2AVEmptyLatent", width=64, height=64, frames=9, fps=24.0, batch_size=1)
    return stage(g, model or loaded, text, latent)


def test_a_first_step_that_is_not_finite_stops_and_names_the_block(server: Server, models: TinyModels):
    g = Graph()
    strong = g.add("LTX2AVLoadLora", model=checkpoint(g, models), lora=models.lora, strength=100.0)
    for _ in range(14):
        strong = g.add("LTX2AVLoadLora", model=strong, lora=models.lora, strength=100.0)
    g.dump("broken", latent=sampled(g, models, strong))
    server.run(g.prompt, timeout_s=300)
