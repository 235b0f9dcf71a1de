"""Nodes of KJNodes, LTXVideo and LTX Director act on our MODEL as on core's.

``COMFYUI_PACKS`` names a folder with the packs; without it these tests are skipped.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from foreign_changes import EFFECT, TOLERANCE, distance, knows
from host_graph import Link
from host_server import Server
from test_ab_samplers import Bench
from tiny_models import TinyModels

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

    def __init__(self, models: TinyModels, ours: bool, streams_off: str, *, mask: str = "") -> None:
        super().__init__(models, ours=ours, mask=mask)
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
