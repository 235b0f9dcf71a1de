"""What nodes of other packs do to a MODEL acts on ours as on core's, or is refused by name before sampling.

Each row is one way in or one node: the same graph, seed and weights with core's MODEL and with ours, and
without the change. ``COMFYUI_PACKS`` names a folder with packs; their rows are skipped where it is not set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import host_version
from host_graph import Graph, Guide, Link, Recipe, load, sample
from host_server import GraphError, Server
from node_graphs import image, our_latent, prompt, stage
from test_ab_samplers import NEUTRAL, WHOLE, Bench
from tiny_models import GENERATIONS, TinyModels
from torch import Tensor

TOLERANCE = 1e-4
"""Relative L2 of the latents of ours from core's."""
EFFECT = 1e-3
"""Relative L2 from the run without the change that a change has at least."""

LOADING = "Requested to load LTX2Model"
"""What the host logs when it loads our network."""

PLAIN = Recipe()
GUIDES = Recipe(frames=17, image_strength=0.7, guides=(Guide(1, 0), Guide(1, -1, 0.5)))
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


def test_network_comfyui_refuses_what_only_ours_can(server: Server, models: TinyModels) -> None:
    g = Graph()
    name = models.checkpoints["2.3"]
    model = g.add("LTX2AVLoadCheckpoint", ckpt_name=name, network="ComfyUI")
    g.add("PreviewAny", source=g.add("LTX2AVSpeed", model=model, fused=True))
    with pytest.raises(GraphError, match=r"fused kernels need the model of .* with its network set to LTX-2"):
        server.run(g.prompt)


PACKS = {
    "LTX2_NAG": lambda g, bench: {
        "nag_scale": 5.0,
        "nag_alpha": 0.5,
        "nag_tau": 2.5,
        "nag_cond_video": bench.text[1],
        "nag_cond_audio": bench.text[1],
        "inplace": False,
    },
    "LTX2AttentionTunerPatch": lambda g, bench: {
        "blocks": "1",
        "video_scale": 0.8,
        "audio_scale": 1.3,
        "audio_to_video_scale": 0.5,
        "video_to_audio_scale": 1.5,
        "triton_kernels": False,
    },
    "LTXVEnhanceAVideoKJ": lambda g, bench: {"latent": bench.video, "weight": 40.0},
    "LTXVChunkFeedForward": lambda g, bench: {"chunks": 2, "dim_threshold": 0},
    "LTX2SamplingPreviewOverride": lambda g, bench: {"preview_rate": 8.0},
    "LTX2AudioLatentNormalizingSampling": lambda g, bench: {"audio_normalization_factors": "1,0.25,1"},
}
"""Nodes of KJNodes from MODEL to MODEL -> their inputs."""
SAME = ("LTXVChunkFeedForward", "LTX2SamplingPreviewOverride")
"""Those that must not change the result."""


class PackBench(Bench):
    """A bench with the LATENT of the video alone, and with audio and video apart where core is no oracle."""

    def __init__(self, models: TinyModels, ours: bool, streams_off: str) -> None:
        super().__init__(models, ours=ours)
        self.video = self.g.add("LTXVSeparateAVLatent", av_latent=self.latent)
        self.crosses = not streams_off
        if streams_off:
            self.model = self.g.add("LTX2ProbeStreams", model=self.model, off=streams_off)


@pytest.mark.parametrize("name", PACKS)
def test_nodes_of_kjnodes_act_as_on_cores_model(
    server: Server, models: TinyModels, name: str, streams_off: str
) -> None:
    if not knows(server, name):
        pytest.skip("set COMFYUI_PACKS to a folder with ComfyUI-KJNodes")
    found = {}
    for ours in (True, False):
        bench = PackBench(models, ours, streams_off)
        plain = bench.sample(bench.cfg_guider(1.0), bench.core("euler"))
        bench.model = bench.g.add(name, model=bench.model, **PACKS[name](bench.g, bench))
        changed = bench.sample(bench.cfg_guider(1.0), bench.core("euler"))
        found[ours] = bench.run(server, plain=plain, changed=changed)
    assert distance(found[False]["changed"], found[True]["changed"]) < TOLERANCE
    if name not in SAME:
        assert distance(found[False]["plain"], found[False]["changed"]) > EFFECT


def stg(bench: Bench) -> Link:
    model = bench.g.add("LTXVApplySTG", model=bench.model, block_indices="1")
    scales = {"cfg": 3.0, "stg": 1.0, "rescale": 0.7}
    return bench.g.add("STGGuider", model=model, positive=bench.text, negative=bench.text[1], **scales)


def stg_advanced(bench: Bench) -> Link:
    lists = {
        "sigmas": "1.0, 0.9, 0.5",
        "cfg_values": "4, 3, 1",
        "stg_scale_values": "2, 1, 0.5",
        "stg_rescale_values": "1, 0.7, 1",
        "stg_layers_indices": "[1], [0, 1], [1]",
    }
    switches = {"skip_steps_sigma_threshold": 2.0, "cfg_star_rescale": True}
    ends = {"positive": bench.text, "negative": bench.text[1]}
    return bench.g.add("STGGuiderAdvanced", model=bench.model, **ends, **switches, **lists)


def multimodal(bench: PackBench) -> Link:
    more: dict[str, Link] = {}
    for modality, skip in (("VIDEO", 0), ("AUDIO", 1)):
        values = {"cfg": 3.0, "stg": 1.0, "perturb_attn": True, "rescale": 0.7, "modality_scale": 1.0}
        # The guider sets the switches of attention between the streams itself.
        values |= {"skip_step": skip, "cross_attn": bench.crosses}
        more = {"parameters": bench.g.add("GuiderParameters", modality=modality, **values, **more)}
    ends = {"positive": bench.text, "negative": bench.text[1]}
    return bench.g.add("MultimodalGuider", model=bench.model, skip_blocks="1", **ends, **more)


@pytest.mark.parametrize("guider", [stg, stg_advanced, multimodal], ids=lambda guider: guider.__name__)
def test_guiders_of_ltxvideo_act_as_on_cores_model(
    server: Server, models: TinyModels, guider: Callable[[PackBench], Link], streams_off: str
) -> None:
    if not knows(server, "MultimodalGuider"):
        pytest.skip("set COMFYUI_PACKS to a folder with ComfyUI-LTXVideo")
    found = {}
    for ours in (True, False):
        bench = PackBench(models, ours, streams_off)
        guided = bench.sample(guider(bench), bench.core("euler"))
        found[ours] = bench.run(
            server, guided=guided, plain=bench.sample(bench.cfg_guider(), bench.core("euler"))
        )
    assert distance(found[False]["guided"], found[True]["guided"]) < TOLERANCE
    assert distance(found[False]["plain"], found[False]["guided"]) > EFFECT


def test_the_normalizing_sampler_of_ltxvideo_acts_as_on_cores_model(
    server: Server, models: TinyModels, streams_off: str
) -> None:
    if not knows(server, "LTXVNormalizingSampler"):
        pytest.skip("set COMFYUI_PACKS to a folder with ComfyUI-LTXVideo")
    found = {}
    for ours in (True, False):
        bench = PackBench(models, ours, streams_off)
        latent = bench.g.add(
            "LTXVNormalizingSampler",
            noise=bench.g.add("RandomNoise", noise_seed=42),
            guider=bench.cfg_guider(),
            sampler=bench.core("euler"),
            sigmas=bench.g.add("ManualSigmas", sigmas="1, 0.9, 0.5, 0"),
            latent_image=bench.latent,
            video_normalization_factors="1, 0.9, 1",
            audio_normalization_factors="0.5, 1, 1",
        )
        found[ours] = bench.run(server, latent=latent)["latent"]
    assert distance(found[False], found[True]) < TOLERANCE


def test_the_mask_by_time_of_ltxvideo_is_that_for_cores_model(server: Server, models: TinyModels) -> None:
    name = "LTXVSetAudioVideoMaskByTime"
    if not knows(server, name):
        pytest.skip("set COMFYUI_PACKS to a folder with ComfyUI-LTXVideo")
    found = {}
    for ours in (True, False):
        bench = PackBench(models, ours, "")
        checkpoint = models.checkpoints["2.3"]
        bench.latent = bench.g.add(
            name,
            av_latent=bench.latent,
            positive=bench.text,
            negative=bench.text[1],
            model=bench.model,
            vae=bench.g.add("CheckpointLoaderSimple", ckpt_name=checkpoint)[2],
            audio_vae=bench.g.add("LTXVAudioVAELoader", ckpt_name=checkpoint),
            start_time=0.2,
            end_time=0.8,
            video_fps=24.0,
            mask_video=True,
            mask_audio=True,
            mask_init_value_video=0.0,
            mask_init_value_audio=0.0,
            slope_len=1,
        )[2]
        found[ours] = bench.run(server, mask=bench.latent)["mask"]
    masks = [key for key in found[True] if key.startswith("mask/")]
    assert masks
    for key in masks:
        assert (found[True][key] == found[False][key]).all()
        assert found[True][key].unique().numel() > 1


def test_the_timeline_of_ltx_director_acts_as_on_cores_model(
    server: Server, models: TinyModels, streams_off: str
) -> None:
    """Two prompts on a timeline, which mask the text of video and audio by time."""
    if not knows(server, "LTXDirector"):
        pytest.skip("set COMFYUI_PACKS to a folder with WhatDreamsCost-ComfyUI")
    found = {}
    for ours in (True, False):
        bench = PackBench(models, ours, streams_off)
        loader = {"text_encoder": models.text_encoder, "ckpt_name": models.checkpoints["2.3"]}
        clip = bench.g.add("LTX2AVLoadTextEncoder", **loader)
        plain = bench.sample(bench.cfg_guider(1.0), bench.core("euler"))
        times = {"start_second": 0.0, "end_second": 0.7, "duration_seconds": 0.7}
        frames = {"start_frame": 0, "end_frame": 17, "duration_frames": 17}
        texts = {"local_prompts": "a red ball | a blue square", "segment_lengths": "9,8"}
        director = bench.g.add(
            "LTXDirector",
            model=bench.model,
            clip=clip,
            optional_latent=bench.video,
            timeline_data="",
            epsilon=0.001,
            guide_strength="",
            **times,
            **frames,
            **texts,
        )
        ends = {"positive": director[1], "negative": bench.text[1]}
        guider = bench.g.add("CFGGuider", model=director, cfg=1.0, **ends)
        unmasked = bench.g.add("CFGGuider", model=bench.model, cfg=1.0, **ends)
        found[ours] = bench.run(
            server,
            relayed=bench.sample(guider, bench.core("euler")),
            unmasked=bench.sample(unmasked, bench.core("euler")),
            plain=plain,
        )
    assert distance(found[False]["relayed"], found[True]["relayed"]) < TOLERANCE
    assert distance(found[False]["unmasked"], found[False]["relayed"]) > EFFECT
