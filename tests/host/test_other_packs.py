"""What nodes of other packs do to a MODEL acts on ours as on core's, or is refused by name before sampling.

Each row is one way in or one node of the host: the same graph, seed and weights with core's MODEL and with
ours, and without the change.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import host_version
from foreign_changes import EFFECT, GUIDES, PLAIN, TOLERANCE, assert_acts, distance, knows, node, sampled, way
from host_graph import Graph, Guide, Link, Recipe, load, sample
from host_server import GraphError, Server
from tiny_models import GENERATIONS, TinyModels

LOADING = "Requested to load LTX2Model"
"""What the host logs when it loads our network."""

PARTS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "ff", "audio_ff")
CROSS = ("audio_to_video_attn", "video_to_audio_attn")

WAYS = (
    "override",
    "swapped",
    "block_skipped",
    "block_edited",
    "block_other_arguments",
    "block_video_values",
    "block_audio_values",
    "block_all_values",
    *(f"forward {part}" for part in (*PARTS, *CROSS)),
    "relay attn2",
    "relay audio_attn2",
    "rewritten attn1",
    "rewritten audio_attn1",
    "whole_block",
    "network_wrapper",
    "separated",
)

NODES = {
    "SkipLayerGuidanceDiT": {
        "double_layers": "1",
        "single_layers": "",
        "scale": 3.0,
        "start_percent": 0.0,
        "end_percent": 1.0,
        "rescaling_scale": 0.3,
    },
    "APG": {"eta": 0.5, "norm_threshold": 5.0, "momentum": 0.2},
    "EasyCache": {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False},
    "LazyCache": {"reuse_threshold": 0.5, "start_percent": 0.0, "end_percent": 1.0, "verbose": False},
    "CFGZeroStar": {},
    "TCFG": {},
    "LTXVContextWindows": {
        "context_length": 9,
        "context_overlap": 0,
        "context_schedule": "standard_static",
        "context_stride": 1,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "freenoise": False,
        "retain_first_frame": False,
        "split_conds_to_windows": False,
    },
}


@pytest.mark.parametrize("recipe", [PLAIN, GUIDES], ids=["text", "guides"])
@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", WAYS)
def test_each_way_in_acts_as_on_core(
    server: Server, models: TinyModels, name: str, generation: str, recipe: Recipe, streams_off: str
) -> None:
    if name.removeprefix("forward ") in CROSS and streams_off:
        pytest.skip("core of this version is no oracle for attention between the streams")
    if name.endswith("_values") and recipe.guides:
        # Core computes attention with weighed guides in parts, each of which is counted and must be as long.
        recipe = replace(recipe, guides=(Guide(1, -1),))
    assert_acts(sampled(server, models, generation, replace(recipe, streams_off=streams_off), way(name)))


@pytest.mark.parametrize("name", NODES)
def test_each_node_of_core_acts_as_on_its_own_model(
    server: Server, models: TinyModels, name: str, streams_off: str
) -> None:
    if not knows(server, name):
        pytest.skip(f"this ComfyUI has no {name}")
    recipe = Recipe(steps=6, frames=25, streams_off=streams_off)
    assert_acts(sampled(server, models, "2.3", recipe, node(name, **NODES[name])))


@pytest.mark.parametrize("name", ["passing", "setter"])
def test_what_newer_hosts_added_acts_as_on_core(
    server: Server, models: TinyModels, name: str, comfy_dir: Path, streams_off: str
) -> None:
    if host_version(comfy_dir) < (0, 32):
        pytest.skip("this way in came with ComfyUI 0.32")
    assert_acts(sampled(server, models, "2.3", Recipe(streams_off=streams_off), way(name)))


def test_a_block_that_is_wrapped_and_not_changed_gives_the_same_bits(
    server: Server, models: TinyModels
) -> None:
    found = sampled(server, models, "2.3", GUIDES, way("block_untouched"))
    assert distance(found["ours plain"], found["ours"]) == 0


@pytest.mark.parametrize("what", ["blocks", "network"])
def test_a_network_that_is_compiled_gives_the_same(
    server: Server, models: TinyModels, what: str, streams_off: str
) -> None:
    found = sampled(server, models, "2.3", replace(GUIDES, streams_off=streams_off), way(f"compiled {what}"))
    assert distance(found["core"], found["ours"]) < TOLERANCE
    assert distance(found["ours plain"], found["ours"]) < TOLERANCE


def test_a_change_ends_with_its_graph(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours", vae="core")
    before = sample(g, loaded, PLAIN)
    g.dump("before", latent=before)
    changed = replace(loaded, model=way("forward attn2")(g, loaded))
    g.dump("changed", latent=sample(g, changed, PLAIN))
    first = server.run(g.prompt)
    # Another seed, so that the host samples again with the same network.
    again = Graph()
    loaded = load(again, models, "2.3", model="ours", vae="core")
    again.dump("after", latent=sample(again, loaded, replace(PLAIN, steps=3)))
    again.dump("last", latent=sample(again, loaded, PLAIN))
    last = server.run(again.prompt).tensors("last")
    assert distance(first.tensors("before"), last) == 0
    assert distance(first.tensors("before"), first.tensors("changed")) > EFFECT


@pytest.mark.parametrize(
    "part",
    [
        "_process_transformer_blocks",
        "adaln_single.forward",
        "transformer_blocks.0.get_ada_values",
        "video_embeddings_connector.forward",
        "norm_out",
    ],
)
def test_a_change_that_would_have_no_effect_is_refused_by_name(
    server: Server, models: TinyModels, part: str
) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours", vae="core")
    changed = replace(loaded, model=way(f"attribute {part}")(g, loaded))
    g.dump("latent", latent=sample(g, changed, PLAIN))
    loads = server.log().count(LOADING)
    pattern = rf"ltx2_host_probe \(attribute\) replaces diffusion_model\.{part}, .* set network to ComfyUI"
    with pytest.raises(GraphError, match=pattern):
        server.run(g.prompt)
    assert server.log().count(LOADING) == loads, "the network was loaded before the refusal"


def test_an_attribute_that_cores_network_does_not_have_changes_nothing(
    server: Server, models: TinyModels
) -> None:
    """As nodes for other models leave it in any MODEL, such as that for the caches of Flux."""
    found = sampled(server, models, "2.3", PLAIN, way("attribute default_ref_method"))
    for whose in ("core", "ours"):
        assert distance(found[f"{whose} plain"], found[whose]) == 0


def test_conditioning_without_effect_is_named_once(server: Server, models: TinyModels) -> None:
    g = Graph()
    loaded = load(g, models, "2.3", model="ours", vae="core")
    for seed in (1, 2):
        latent = sample(g, loaded, replace(PLAIN, steps=seed))
        guider = next(n["inputs"] for n in reversed(g.prompt.values()) if n["class_type"] == "CFGGuider")
        # The host passes it to every network; those of LTX-2 do not read it.
        positive = g.add(
            "LTX2ProbeConditioning", conditioning=Link(*guider["positive"]), key="cross_attn_controlnet"
        )
        guider["positive"] = [positive.node, positive.slot]
        g.dump(f"latent {seed}", latent=latent)
    server.run(g.prompt)
    assert server.log().count("the conditioning has crossattn_controlnet, which has no effect") == 1


def test_a_pack_that_changes_the_hosts_classes_is_named(server: Server, models: TinyModels) -> None:
    notice = "ltx2_host_probe (hosts_class) replaces LTXAVModel._process_output of ComfyUI"
    g = Graph()
    loaded = load(g, models, "2.3", model="ours", vae="core")
    g.dump("plain", latent=sample(g, loaded, PLAIN))
    server.run(g.prompt)
    assert "which does not change this network" not in server.log()
    changed = replace(loaded, model=way("hosts_class")(g, loaded))
    g.dump("changed", latent=sample(g, changed, PLAIN))
    server.run(g.prompt)
    assert server.log().count(notice) == 1
