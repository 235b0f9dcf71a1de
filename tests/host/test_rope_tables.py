"""Rotary tables in the host: computed in the first step and for another size, and freed at the end."""

from __future__ import annotations

from host_graph import Graph, Link
from host_server import Server
from test_ab_samplers import Bench
from tiny_models import TinyModels


def sampled(bench: Bench, model: Link, *, width: int, cfg: float) -> Link:
    g: Graph = bench.g
    latent = g.add("LTX2AVEmptyLatent", width=width, height=64, frames=17, fps=24.0, batch_size=1)
    return g.add(
        "KSampler",
        model=model,
        positive=bench.text,
        negative=bench.text[1],
        latent_image=latent,
        seed=1,
        steps=3,
        cfg=cfg,
        sampler_name="euler",
        scheduler="simple",
        denoise=1.0,
    )


def report(server: Server, models: TinyModels, width: int | None) -> list[int]:
    """Tables made before the last report, until now, and held; with ``width`` after a sampling."""
    bench = Bench(models)
    latent = bench.latent if width is None else sampled(bench, bench.model, width=width, cfg=3.0)
    bench.g.add("LTX2ProbeRopeTables", model=bench.model, latent=latent)
    found: list[int] = server.run(bench.g.prompt).report()
    return found


def test_tables_are_made_once_for_each_size_and_let_go_afterwards(server: Server, models: TinyModels) -> None:
    report(server, models, None)
    for width in (64, 96):
        before, now, held = report(server, models, width)
        # One for each stream; three steps and two passes add nothing.
        assert (now - before, held) == (2, 0), width
