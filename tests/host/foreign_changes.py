"""Graphs that sample with a change by another pack, on core's MODEL and on ours, and how they compare."""

from __future__ import annotations

from dataclasses import replace

from host_graph import Graph, Guide, Recipe, load, sample
from host_server import Server
from tiny_models import TinyModels
from torch import Tensor

TOLERANCE = 1e-4
"""Relative L2 of the latents of ours from core's."""
EFFECT = 1e-3
"""Relative L2 from the run without the change that a change has at least."""
PLAIN = Recipe()

GUIDES = Recipe(frames=17, image_strength=0.7, guides=(Guide(1, 0), Guide(1, -1, 0.5)))


def sampled(
    server: Server, models: TinyModels, generation: str, recipe: Recipe, change: object = None
) -> dict[str, dict[str, Tensor]]:
    """The latents of core's MODEL and of ours with and without a change, a function of graph and models."""
    g = Graph()
    for whose in ("core", "ours"):
        loaded = load(g, models, generation, model=whose, vae="core")
        g.dump(f"{whose} plain", latent=sample(g, loaded, recipe))
        if change is not None:
            changed = replace(loaded, model=change(g, loaded))
            g.dump(whose, latent=sample(g, changed, recipe))
    result = server.run(g.prompt)
    names = ("core plain", "ours plain", *(() if change is None else ("core", "ours")))
    return {name: result.tensors(name) for name in names}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative L2 of a stream."""
    streams = [name for name in a if name.startswith("latent/")]
    assert streams
    assert a.keys() == b.keys()
    return max(((a[n] - b[n]).norm() / a[n].norm()).item() for n in streams)


def assert_acts(found: dict[str, dict[str, Tensor]], *, effect: float = EFFECT) -> None:
    assert distance(found["core plain"], found["core"]) > effect, "the change has no effect on core"
    assert distance(found["core"], found["ours"]) < TOLERANCE
    assert distance(found["ours plain"], found["ours"]) > effect


def way(name: str):
    return lambda g, loaded: g.add("LTX2ProbeWayIn", model=loaded.model, way=name)


def node(name: str, **inputs: object):
    return lambda g, loaded: g.add(name, model=loaded.model, **inputs)


def knows(server: Server, name: str) -> bool:
    return name in server.get("/object_info")
