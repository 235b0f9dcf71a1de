"""Our nodes act on the host's own network as on ours, or are refused by name."""

from __future__ import annotations

from dataclasses import replace

import pytest
from foreign_changes import EFFECT, GUIDES, TOLERANCE, distance
from host_graph import Graph, load, sample
from host_server import GraphError, Server
from node_graphs import image, our_latent, prompt, stage
from test_ab_samplers import NEUTRAL, WHOLE, Bench
from tiny_models import TinyModels

GUIDANCE = {
    "stg": ({"cfg": 3.0, "stg": 1.0}, {"stg_blocks": "1"}),
    "modality": ({"cfg": 3.0, "modality": 3.0}, {}),
    "nag": ({}, {"nag_scale": 5.0}),
    "all": ({"cfg": 3.0, "stg": 1.0, "modality": 2.0, "rescale": 0.5}, {"stg_blocks": "0, 1"}),
}


@pytest.mark.parametrize("name", GUIDANCE)
def test_our_guidance_acts_on_the_hosts_network_as_on_ours(
    server: Server, models: TinyModels, name: str, streams_off: str
) -> None:
    scales, changes = GUIDANCE[name]
    if name in ("modality", "all") and streams_off:
        pytest.skip("core of this version is no oracle for attention between the streams")
    found = {}
    for ours in (True, False):
        bench = Bench(models, ours=ours)
        if streams_off:
            bench.model = bench.g.add("LTX2ProbeStreams", model=bench.model, off=streams_off)
        euler = bench.core("euler")
        both = {
            "guided": bench.guider(scales, **changes),
            "plain": bench.guider({"cfg": scales.get("cfg", 1.0)}),
        }
        samplings = {which: bench.sample(guider, euler) for which, guider in both.items()}
        found[ours] = bench.run(server, **samplings)
    assert distance(found[True]["guided"], found[False]["guided"]) < TOLERANCE
    assert distance(found[False]["plain"], found[False]["guided"]) > EFFECT


@pytest.mark.parametrize("ours", [True, False], ids=["LTX-2", "ComfyUI"])
@pytest.mark.parametrize(
    ("way_in", "scales", "changes", "named"),
    [
        ("rewritten attn1", {"stg": 1.0}, {}, "stg"),
        ("whole_block", {"modality": 3.0}, {}, "modality"),
        ("relay audio_attn2", {}, {"nag_scale": 5.0}, "nag"),
    ],
)
def test_guidance_that_another_node_would_undo_is_refused(
    server: Server, models: TinyModels, way_in: str, scales: dict, changes: dict, named: str, ours: bool
) -> None:
    bench = Bench(models, ours=ours)
    bench.model = bench.g.add("LTX2ProbeWayIn", model=bench.model, way=way_in)
    latent = bench.sample(bench.guider(scales, **changes), bench.core("euler"))
    with pytest.raises(GraphError, match=rf"{named} and ltx2_host_probe \(\w+\) both change"):
        bench.run(server, latent=latent)


@pytest.mark.parametrize("way_in", ["forward attn2", "block_edited", "override", "swapped"])
def test_our_guider_goes_with_other_changes(
    server: Server, models: TinyModels, way_in: str, streams_off: str
) -> None:
    found = {}
    for ours in (True, False):
        bench = Bench(models, ours=ours)
        if streams_off:
            bench.model = bench.g.add("LTX2ProbeStreams", model=bench.model, off=streams_off)
        bench.model = bench.g.add("LTX2ProbeWayIn", model=bench.model, way=way_in)
        guider = bench.guider({"cfg": 3.0, "stg": 1.0}, stg_blocks="1")
        found[ours] = bench.run(server, latent=bench.sample(guider, bench.core("euler")))["latent"]
    assert distance(found[True], found[False]) < TOLERANCE


@pytest.mark.parametrize("name", ["2.0", "2.3"])
def test_network_comfyui_is_that_of_the_hosts_loader(server: Server, models: TinyModels, name: str) -> None:
    """Bit equal on every version, which is what makes it the choice for the host's own results."""
    found = {}
    for which in ("host", "widget"):
        g = Graph()
        loaded = load(g, models, name, model="core", vae="core")
        if which == "widget":
            checkpoint = models.checkpoints[name]
            chosen = g.add("LTX2AVLoadCheckpoint", ckpt_name=checkpoint, network="ComfyUI")
            loaded = replace(loaded, model=chosen)
        g.dump("latent", latent=sample(g, loaded, GUIDES))
        found[which] = server.run(g.prompt).tensors("latent")
    assert distance(found["host"], found["widget"]) == 0


def test_our_nodes_act_on_both_networks(server: Server, models: TinyModels, streams_off: str) -> None:
    """A LoRA, an image in place, a guide, a time mask and a preset with stg."""
    found = {}
    for network in ("LTX-2, as this ComfyUI", "ComfyUI"):
        g = Graph()
        names = {"ckpt_name": models.checkpoints["2.3"], "text_encoder": models.text_encoder}
        loaded = g.add("LTX2AVLoadAll", **names, upscaler="none", network=network)
        model = g.add("LTX2AVLoadLora", model=loaded, lora=models.lora, strength=0.7)
        if streams_off:
            model = g.add("LTX2ProbeStreams", model=model, off=streams_off)
        text = prompt(g, loaded[1])
        first, last = image(g), image(g, width=64)
        latent = our_latent(g, 17)
        changes = {"strength": 0.8, "crf": 0}
        latent = g.add("LTX2AVImgToVideoInplace", latent=latent, image=first, video_vae=loaded[2], **changes)
        text = g.add(
            "LTX2AVAddGuide",
            positive=text,
            negative=text[1],
            video_vae=loaded[2],
            latent=latent,
            image=last,
            frame=-1,
            attention_strength=0.5,
            downscale=0,
            **changes,
        )
        guider = g.add(
            "LTX2AVGuider",
            model=model,
            positive=text,
            negative=text[1],
            video=g.add("LTX2AVStreamGuidance", **{**NEUTRAL, "cfg": 2.0, "stg": 1.0}),
            **{**WHOLE, "stg_blocks": "1"},
        )
        sampled = g.add(
            "SamplerCustomAdvanced",
            noise=g.add("RandomNoise", noise_seed=42),
            guider=guider,
            sampler=g.add("LTX2AVSampler", sampler="euler", eta=-1.0),
            sigmas=g.add("ManualSigmas", sigmas="1, 0.8, 0.4, 0"),
            latent_image=text[2],
        )
        g.dump("latent", latent=sampled)
        g.dump("stage", latent=stage(g, model, text, text[2], cfg=2.0))
        found[network] = server.run(g.prompt)
    for name in ("latent", "stage"):
        both = [found[network].tensors(name) for network in ("LTX-2, as this ComfyUI", "ComfyUI")]
        assert distance(*both) < TOLERANCE, name


def test_network_comfyui_refuses_what_only_ours_can(server: Server, models: TinyModels) -> None:
    g = Graph()
    name = models.checkpoints["2.3"]
    model = g.add("LTX2AVLoadCheckpoint", ckpt_name=name, network="ComfyUI")
    g.add("PreviewAny", source=g.add("LTX2AVSpeed", model=model, fused=True))
    with pytest.raises(GraphError, match=r"fused kernels need the model of .* with its network set to LTX-2"):
        server.run(g.prompt)
