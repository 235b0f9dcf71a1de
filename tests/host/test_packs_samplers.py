"""Samplers of RES4LYF on our MODEL give what they give on core's: the same graph, seed and weights.

``COMFYUI_PACKS`` names a folder with packs; without RES4LYF in it all are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from foreign_changes import EFFECT, TOLERANCE, knows
from host_graph import Link
from host_server import GraphError, Server
from test_ab_samplers import distance
from test_named_packs import PackBench
from tiny_models import TinyModels

NODE = "ClownsharKSampler_Beta"
PACK_TOO_OLD = "'NestedTensor' object has no attribute 'reshape'"
"""The error of a RES4LYF that hands the latents of two streams to ComfyUI in a form it no longer takes."""


@pytest.fixture(scope="module", autouse=True)
def res4lyf(server: Server) -> None:
    if not knows(server, NODE):
        pytest.skip("set COMFYUI_PACKS to a folder with RES4LYF")


def clownshark(bench: PackBench, sampler: str = "linear/euler", **changes: object) -> Link:
    """Its sampler with everything in one node."""
    values = {
        "eta": 0.5,
        "sampler_name": sampler,
        "scheduler": "beta57",
        "steps": 3,
        "steps_to_run": -1,
        "denoise": 1.0,
        "cfg": 3.0,
        "seed": 42,
        "sampler_mode": "standard",
        "bongmath": True,
        "positive": bench.text,
        "negative": bench.text[1],
        "latent_image": bench.latent,
    }
    return bench.g.add(NODE, model=bench.model, **{**values, **changes})


def shark(bench: PackBench, sampler: Link, **changes: object) -> Link:
    """Its node for a SAMPLER."""
    values = {
        "scheduler": "beta57",
        "steps": 3,
        "steps_to_run": -1,
        "denoise": 1.0,
        "cfg": 3.0,
        "seed": 42,
        "sampler_mode": "standard",
        "positive": bench.text,
        "negative": bench.text[1],
        "latent_image": bench.latent,
    }
    return bench.g.add("SharkSampler_Beta", model=bench.model, sampler=sampler, **{**values, **changes})


def clown(bench: PackBench, sampler: str, eta: float = 0.5) -> Link:
    """Its SAMPLER."""
    return bench.g.add("ClownSampler_Beta", eta=eta, sampler_name=sampler, seed=7, bongmath=True)


def unsampled(bench: PackBench) -> Link:
    """Back to noise and forth again; what its nodes hand on lies in the LATENT."""
    first = clownshark(bench, eta=0.0)
    noised = clownshark(bench, eta=0.0, latent_image=first, sampler_mode="unsample", cfg=1.0)
    return clownshark(bench, eta=0.0, latent_image=noised, sampler_mode="resample")


def chained(bench: PackBench) -> Link:
    first = clownshark(bench, steps=4, steps_to_run=2)
    rest = {"eta": 0.5, "sampler_name": "linear/euler", "steps_to_run": -1, "cfg": 3.0}
    values = {"sampler_mode": "resample", "bongmath": True, "latent_image": first}
    return bench.g.add("ClownsharkChainsampler_Beta", **rest, **values)


def guided(bench: PackBench) -> Link:
    """Our GUIDER with its SAMPLER in core's node."""
    return bench.sample(bench.guider({"cfg": 3.0, "rescale": 0.5}), clown(bench, "linear/ralston_2s"))


def guided_by_options(bench: PackBench) -> Link:
    """Our GUIDER in its node."""
    guider = bench.guider({"cfg": 3.0, "rescale": 0.5})
    options = bench.g.add("SharkOptions_GuiderInput", guider=guider)
    return clownshark(bench, **{"options_group.options0": options})


GRAPHS: dict[str, Callable[[PackBench], Link]] = {
    **{
        f"clownshark {name}": lambda bench, name=name: clownshark(bench, name)
        for name in (
            "linear/euler",
            "exponential/res_2s",
            "exponential/res_3m",
            "multistep/deis_2m",
            "fully_implicit/gauss-legendre_2s",
        )
    },
    "clownshark without bongmath": lambda bench: clownshark(bench, "exponential/res_2s", bongmath=False),
    "shark": lambda bench: shark(bench, clown(bench, "exponential/res_2s")),
    "clown in core's node": lambda bench: bench.sample(
        bench.cfg_guider(), clown(bench, "exponential/res_2s")
    ),
    "our guider": guided,
    "our guider by options": guided_by_options,
    "chain": chained,
    "unsample, resample": unsampled,
}


@pytest.mark.parametrize("mask", ["", "0,0.5,1"], ids=["whole", "mask"])
@pytest.mark.parametrize("name", GRAPHS)
def test_it_gives_what_it_gives_on_cores_model(
    server: Server, models: TinyModels, name: str, mask: str, streams_off: str
) -> None:
    def sampled(*, ours: bool) -> dict[str, Any]:
        bench = PackBench(models, ours, streams_off, mask=mask)
        plain = bench.sample(bench.cfg_guider(1.0), bench.core("euler"))
        return bench.run(server, sampled=GRAPHS[name](bench), plain=plain)

    found = {}
    try:
        found[False] = sampled(ours=False)
    except GraphError as error:
        if PACK_TOO_OLD not in str(error):
            raise
        with pytest.raises(GraphError, match=PACK_TOO_OLD):
            sampled(ours=True)
        pytest.skip("this RES4LYF cannot sample video with audio on this ComfyUI, with core's MODEL neither")
    found[True] = sampled(ours=True)
    assert distance(found[False]["sampled"], found[True]["sampled"]) < TOLERANCE
    assert distance(found[False]["plain"], found[False]["sampled"]) > EFFECT
