"""Graphs in which several packs and core's less usual nodes meet: the same on our MODEL and VAE as on core's.

``COMFYUI_PACKS`` names a folder with packs; a graph is skipped where its pack is not in it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from foreign_changes import TOLERANCE
from host_graph import Link
from host_server import Server
from node_graphs import stage
from test_named_packs import multimodal, stg
from test_packs_ltx import FRAMES, SIDE, Build, LTXBench, assert_as_on_core
from tiny_models import TinyModels

GRAPHS: dict[str, Build] = {}
SIGMAS = "1, 0.9, 0.5, 0"


def graph(build: Build) -> Build:
    GRAPHS[build.__name__] = build
    return build


def with_lora(b: LTXBench, strength: float = 0.7) -> Link:
    return b.add("LoraLoaderModelOnly", model=b.model, lora_name=b.models.lora, strength_model=strength)


def with_nag(b: LTXBench) -> Link:
    negative = {"nag_cond_video": b.text[1], "nag_cond_audio": b.text[1]}
    return b.add("LTX2_NAG", model=b.model, nag_scale=5.0, nag_alpha=0.5, **negative)


def with_tuner(b: LTXBench, blocks: str) -> Link:
    scales = {"video_scale": 0.8, "audio_scale": 1.3, "audio_to_video_scale": 0.5 if b.crosses else 1.0}
    return b.add("LTX2AttentionTunerPatch", model=b.model, blocks=blocks, triton_kernels=False, **scales)


def with_voice(b: LTXBench) -> Link:
    return b.g.add("LTX2ProbeAudio", samples=8000, sample_rate=16000, channels=2)


def sampled(b: LTXBench, guider: Link, sigmas: str = SIGMAS) -> Link:
    return b.sample(guider, b.core("euler"), sigmas)


def sampled_for(b: LTXBench, positive: Link) -> Link:
    ends = {"positive": positive, "negative": b.text[1]}
    return sampled(b, b.g.add("CFGGuider", model=b.model, cfg=3.0, **ends))


# Core


@graph
def merged_by_layers(b: LTXBench) -> Link:
    layers = {"transformer_blocks.1.": 0.3}
    return b.with_model(b.add("ModelMergeLTXV", model1=b.model, model2=with_lora(b), **layers))


@graph
def difference_of_models_added(b: LTXBench) -> Link:
    difference = b.add("ModelMergeSubtract", model1=with_lora(b), model2=b.model, multiplier=1.5)
    return b.with_model(b.add("ModelMergeAdd", model1=b.model, model2=difference))


@graph
def lora_that_fades_with_hooks(b: LTXBench) -> Link:
    hooks = b.add("CreateHookLora", lora_name=b.models.lora, strength_model=0.8, strength_clip=0.0)
    strengths = {"strength_start": 1.0, "strength_end": 0.1, "keyframes_count": 3}
    hooks = b.add(
        "SetHookKeyframes", hooks=hooks, hook_kf=b.add("CreateHookKeyframesInterpolated", **strengths)
    )
    return sampled_for(b, b.add("ConditioningSetProperties", cond_NEW=b.text, hooks=hooks))


@graph
def lora_beside_the_weights(b: LTXBench) -> Link:
    """The LoRA is computed next to each layer, on a network whose attention to the text is replaced."""
    one = {"lora_name": b.models.lora, "strength_model": 0.8}
    b.model = b.add("LoraLoaderBypassModelOnly", model=b.model, **one)
    return b.with_model(with_nag(b))


@graph
def texts_by_time(b: LTXBench) -> Link:
    nothing = b.g.add("ConditioningZeroOut", conditioning=b.text)
    parts = [
        b.g.add("ConditioningSetTimestepRange", conditioning=text, start=start, end=start + 0.5)
        for text, start in ((b.text, 0.0), (nothing, 0.5))
    ]
    return sampled_for(b, b.g.add("ConditioningCombine", conditioning_1=parts[0], conditioning_2=parts[1]))


@graph
def texts_averaged(b: LTXBench) -> Link:
    ends = {"conditioning_to": b.text, "conditioning_from": b.text[1]}
    return sampled_for(b, b.g.add("ConditioningAverage", conditioning_to_strength=0.6, **ends))


@graph
def perpendicular_negative(b: LTXBench) -> Link:
    nothing = b.g.add("ConditioningZeroOut", conditioning=b.text)
    ends = {"positive": b.text, "negative": b.text[1], "empty_conditioning": nothing}
    return sampled(b, b.add("PerpNegGuider", model=b.model, **ends))


@graph
def two_texts_nested(b: LTXBench) -> Link:
    nothing = b.g.add("ConditioningZeroOut", conditioning=b.text)
    ends = {"cond1": b.text, "cond2": nothing, "negative": b.text[1], "style": "nested"}
    return sampled(b, b.add("DualCFGGuider", model=b.model, **ends))


@graph
def another_model_for_the_negative(b: LTXBench) -> Link:
    ends = {"positive": b.text, "negative": b.text[1]}
    return sampled(b, b.add("DualModelGuider", model=b.model, model_negative=with_lora(b), **ends))


@graph
def layers_skipped_and_scores_rescaled(b: LTXBench) -> Link:
    share = {"layers": "1", "start_percent": 0.0, "end_percent": 1.0}
    b.model = b.add("SkipLayerGuidanceSD3", model=b.model, **share)
    b.model = b.add("Epsilon Scaling", model=b.model, scaling_factor=1.05)
    return b.with_model(b.add("TemporalScoreRescaling", model=b.model))


@graph
def windows_over_time_by_hand(b: LTXBench) -> Link:
    windows = {"context_length": 2, "context_overlap": 1, "dim": 2}
    return b.with_model(b.add("ContextWindowsManual", model=b.model, **windows))


@graph
def two_guiders_share_a_schedule(b: LTXBench) -> Link:
    """Core's guider and sampler for the first steps, ours for the rest."""
    sigmas = b.g.add("BasicScheduler", model=b.model, scheduler="beta", steps=4, denoise=1.0)
    parts = b.g.add("SplitSigmas", sigmas=sigmas, step=2)
    begun = b.g.add(
        "SamplerCustomAdvanced",
        noise=b.g.add("RandomNoise", noise_seed=4),
        guider=b.cfg_guider(),
        sampler=b.core("dpmpp_2m"),
        sigmas=parts,
        latent_image=b.latent,
    )
    return b.g.add(
        "SamplerCustomAdvanced",
        noise=b.g.add("DisableNoise"),
        guider=b.guider({"cfg": 2.0, "rescale": 0.5}),
        sampler=b.ours("euler"),
        sigmas=parts[1],
        latent_image=begun,
    )


@graph
def inpainted_by_core(b: LTXBench) -> Link:
    pixels = {"pixels": b.images(FRAMES), "mask": b.mask(FRAMES)}
    return b.with_video(b.g.add("VAEEncodeForInpaint", vae=b.vae, grow_mask_by=2, **pixels))


# Several changes of one MODEL


@graph
def stg_over_nag(b: LTXBench) -> Link:
    b.model = with_nag(b)
    return sampled(b, stg(b))


@graph
def stg_over_tuned_attention(b: LTXBench) -> Link:
    b.model = with_tuner(b, "0")
    return sampled(b, stg(b))


@graph
def stg_in_windows(b: LTXBench) -> Link:
    b.model = b.add("LTXVContextWindows", model=b.model, context_length=9, context_overlap=0)
    return sampled(b, stg(b))


@graph
def enhanced_in_chunks_with_a_cache(b: LTXBench) -> Link:
    b.model = b.add("LTXVEnhanceAVideoKJ", model=b.model, latent=b.video, weight=40.0)
    b.model = b.add("LTXVChunkFeedForward", model=b.model, chunks=2, dim_threshold=0)
    return b.with_model(
        b.add("EasyCache", model=b.model, reuse_threshold=3.0, start_percent=0.0, end_percent=1.0)
    )


@graph
def our_lora_under_a_tuner_of_res4lyf(b: LTXBench) -> Link:
    b.model = b.g.add("LTX2AVLoadLora", model=b.model, lora=b.models.lora, strength=0.6)
    b.model = with_tuner(b, "1")
    ends = {"positive": b.text, "negative": b.text[1], "latent_image": b.latent}
    values = {"sampler_name": "multistep/deis_2m", "scheduler": "beta57", "steps": 3, "cfg": 3.0}
    return b.add("ClownsharKSampler_Beta", model=b.model, **ends, **values)


@graph
def our_stage_on_nag(b: LTXBench) -> Link:
    return stage(b.g, with_nag(b), b.text, b.latent)


@graph
def voice_of_core_with_stg(b: LTXBench) -> Link:
    voice = {"reference_audio": with_voice(b), "audio_vae": b.audio_vae}
    ends = {"positive": b.text, "negative": b.text[1]}
    heard = b.add("LTXVReferenceAudio", model=b.model, **ends, **voice)
    b.model, b.text = heard, heard[1]
    return sampled(b, stg(b))


@graph
def voice_tokens_with_the_multimodal_guider(b: LTXBench) -> Link:
    voice = b.g.add("LTXVAudioVAEEncode", audio=with_voice(b), audio_vae=b.audio_vae)
    b.text = b.add("LTXVSetAudioRefTokens", positive=b.text, negative=b.text[1], audio_latent=voice)
    return sampled(b, multimodal(b))


@graph
def video_alone_with_our_guider(b: LTXBench) -> Link:
    b.latent = b.video
    return sampled(b, b.guider({"cfg": 3.0, "stg": 1.0}, stg_blocks="1"))


# Samplers of LTXVideo


@graph
def loop_with_every_option(b: LTXBench) -> Link:
    large = 2 * SIDE
    options = {
        "optional_cond_images": b.images(),
        "optional_negative_index_latents": b.encoded(1, large),
        "optional_normalizing_latents": b.encoded(41, large),
        "optional_guiding_latents": b.encoded(41, large),
        "horizontal_tiles": 2,
        "adain_factor": 0.3,
    }
    times = {"temporal_tile_size": 24, "temporal_overlap": 16}
    latents = b.encoded(41, large)
    return b.add("LTXVLoopingSampler", model=b.model, latents=latents, **b.sampling(), **options, **times)


@graph
def loop_with_a_prompt_for_each_part(b: LTXBench) -> Link:
    files = {"text_encoder": b.models.text_encoder, "ckpt_name": b.models.checkpoints["2.3"]}
    clip = b.g.add("LTX2AVLoadTextEncoder", **files)
    prompts = b.add("LTXVMultiPromptProvider", prompts="a red ball|a blue square", clip=clip)
    options = {"optional_positive_conditionings": prompts, "adain_factor": 0.1}
    times = {"temporal_tile_size": 24, "temporal_overlap": 16}
    given = {**b.sampling(), "sampler": b.ours("euler_ancestral")}
    return b.add("LTXVLoopingSampler", model=b.model, latents=b.encoded(41), **given, **options, **times)


@graph
def our_guider_in_their_sampler(b: LTXBench) -> Link:
    given = {**b.sampling(), "guider": b.guider({"cfg": 3.0, "stg": 1.0}, stg_blocks="1")}
    size = {"width": SIDE, "height": SIDE, "num_frames": FRAMES}
    return b.add("LTXVBaseSampler", model=b.model, **given, **size)


@graph
def our_next_stage_before_theirs(b: LTXBench) -> Link:
    upscaler = b.g.add("LTX2AVLoadUpscaler", upscaler=b.models.upsampler)
    ends = {"positive": b.text, "negative": b.text[1], "video_vae": b.vae}
    b.text = b.g.add("LTX2AVNextStage", latent=b.plain(), upscale_model=upscaler, **ends)
    b.latent = b.text[2]
    return sampled(b, stg(b), "0.85, 0.5, 0")


@graph
def attention_perturbed_in_video_alone(b: LTXBench) -> Link:
    b.latent = b.encoded()
    layers = b.add("LTXAttnOverride", layers="1")
    return b.with_model(b.add("LTXPerturbedAttention", model=b.model, attn_override=layers))


# RES4LYF and LTX Director


@graph
def guided_by_a_clip_of_res4lyf(b: LTXBench) -> Link:
    guide = b.add("ClownGuide_Beta", guide=b.encoded(), guide_mode="sync", weight=0.5)
    ends = {"positive": b.text, "negative": b.text[1], "latent_image": b.encoded()}
    values = {"sampler_name": "exponential/res_2s", "scheduler": "beta57", "steps": 3, "cfg": 1.0}
    return b.add("ClownsharKSampler_Beta", model=b.model, guides=guide, **ends, **values)


def director(b: LTXBench) -> Link:
    """A timeline of two prompts: MODEL, conditioning, latents of video and audio, guides, and more."""
    files = {"text_encoder": b.models.text_encoder, "ckpt_name": b.models.checkpoints["2.3"]}
    seconds = {"start_second": 0.0, "end_second": 0.7, "duration_seconds": 0.7}
    frames = {"start_frame": 0, "end_frame": FRAMES, "duration_frames": FRAMES}
    texts = {"local_prompts": "a red ball | a blue square", "segment_lengths": "9,8"}
    return b.add(
        "LTXDirector",
        model=b.model,
        clip=b.g.add("LTX2AVLoadTextEncoder", **files),
        audio_vae=b.audio_vae,
        frame_rate=24.0,
        custom_width=SIDE,
        custom_height=SIDE,
        **seconds,
        **frames,
        **texts,
    )


@graph
def timeline_with_its_guides(b: LTXBench) -> Link:
    made = director(b)
    ends = {"positive": made[1], "negative": b.text[1], "latent": made[2]}
    lists = {"guide_data": made[4], "motion_guide_data": made[5]}
    guided = b.add("LTXDirectorGuide", vae=b.vae, model=made, **ends, **lists)
    b.latent = b.g.add("LTXVConcatAVLatent", video_latent=guided[2], audio_latent=made[3])
    guider = b.g.add("CFGGuider", model=guided[3], positive=guided, negative=guided[1], cfg=3.0)
    parts = b.g.add("LTXVSeparateAVLatent", av_latent=sampled(b, guider))
    return b.add("LTXDirectorCropGuides", positive=guided, negative=guided[1], latent=parts)[2]


@graph
def timeline_in_our_stage(b: LTXBench) -> Link:
    made = director(b)
    latent = b.g.add("LTXVConcatAVLatent", video_latent=made[2], audio_latent=made[3])
    text = b.g.add("LTXVConditioning", positive=made[1], negative=b.text[1], frame_rate=24.0)
    return stage(b.g, made, text, latent)


@graph
def timeline_with_stg(b: LTXBench) -> Link:
    made = director(b)
    b.latent = b.g.add("LTXVConcatAVLatent", video_latent=made[2], audio_latent=made[3])
    model = b.add("LTXVApplySTG", model=made, block_indices="1")
    ends = {"positive": made[1], "negative": b.text[1]}
    return sampled(b, b.add("STGGuider", model=model, cfg=3.0, stg=1.0, rescale=0.7, **ends))


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_of_several_packs_gives_what_it_gives_on_cores_model(
    server: Server, models: TinyModels, name: str, streams_off: str
) -> None:
    assert_as_on_core(server, models, GRAPHS[name], streams_off)


DECODERS: dict[str, Callable[[LTXBench], Link]] = {
    "LTXVTiledVAEDecode": lambda b: b.add(
        "LTXVTiledVAEDecode", vae=b.vae, latents=b.encoded(side=2 * SIDE), horizontal_tiles=2
    ),
    "LTXVSpatioTemporalTiledVAEDecode": lambda b: b.add(
        "LTXVSpatioTemporalTiledVAEDecode",
        vae=b.vae,
        latents=b.encoded(33, 2 * SIDE),
        spatial_tiles=2,
        temporal_tile_length=3,
    ),
    "Set VAE Decoder Noise": lambda b: b.g.add(
        "VAEDecode", vae=b.add("Set VAE Decoder Noise", vae=b.vae), samples=b.encoded()
    ),
    "VAEDecodeLoopKJ": lambda b: b.add("VAEDecodeLoopKJ", vae=b.vae, samples=b.encoded(33)),
    "VHS_VAEDecodeBatched": lambda b: b.add(
        "VHS_VAEDecodeBatched",
        vae=b.vae,
        samples=b.add("VHS_VAEEncodeBatched", vae=b.vae, pixels=b.images(9)),
        per_batch=16,
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_a_pack_decodes_by_our_vae_what_it_decodes_by_cores(
    server: Server, models: TinyModels, name: str
) -> None:
    definitions, found = server.get("/object_info"), {}
    if name not in definitions:
        pytest.skip(f"set COMFYUI_PACKS to a folder with the pack of {name}")
    for ours in (True, False):
        bench = LTXBench(models, definitions, ours, "")
        bench.g.dump("frames", image=DECODERS[name](bench))
        found[ours] = server.run(bench.g.prompt).tensors("frames")["image"]
    assert (found[True] - found[False]).norm() < TOLERANCE * found[False].norm()
