"""Ten further crossings of packs and of core's nodes: the same on our MODEL and VAE as on core's.

They were made up after the nodes that they cross had passed one by one.
"""

from __future__ import annotations

import pytest
from host_graph import Link
from host_server import Server
from node_graphs import stage
from test_named_packs import multimodal, stg
from test_packs_ltx import FRAMES, Build, LTXBench, assert_as_on_core
from test_packs_mixed import SIGMAS, director, sampled, sampled_for, with_lora, with_nag, with_tuner
from tiny_models import TinyModels

GRAPHS: dict[str, Build] = {}


def graph(build: Build) -> Build:
    GRAPHS[build.__name__] = build
    return build


def guided(b: LTXBench) -> Link:
    ends = {"positive": b.text, "negative": b.text[1]}
    return b.g.add("CFGGuider", model=b.model, cfg=3.0, **ends)


def in_steps(b: LTXBench, guider: Link, sampler: Link, sigmas: Link) -> Link:
    noise = b.g.add("RandomNoise", noise_seed=7)
    parts = {"guider": guider, "sampler": sampler, "sigmas": sigmas, "latent_image": b.latent}
    return b.g.add("SamplerCustomAdvanced", noise=noise, **parts)


@graph
def direction_and_norm_of_cfg_in_chunks(b: LTXBench) -> Link:
    b.model = b.add("Mahiro", model=b.add("CFGNorm", model=b.model, strength=0.8))
    return b.with_model(b.add("LTXVChunkFeedForward", model=b.model, chunks=3, dim_threshold=0))


@graph
def soft_mask_by_time_under_nag(b: LTXBench) -> Link:
    times = {"video_start_time": 0.2, "video_end_time": 0.5, "audio_start_time": 0.1, "audio_end_time": 0.4}
    masked = b.add(
        "LTXVAudioVideoMask", video_latent=b.encoded(), audio_latent=b.audio, video_fps=25.0, **times
    )
    b.audio = masked[1]
    b.model = b.add("DifferentialDiffusion", model=with_nag(b))
    return b.with_video(masked)


@graph
def sa_solver_on_a_tuned_lora_by_streams(b: LTXBench) -> Link:
    strengths = {"video": 0.4, "audio": 0.9, "audio_to_video": 0.1, "video_to_audio": 0.6}
    b.model = b.add("LTX2LoraLoaderAdvanced", model=b.model, lora_name=b.models.lora, **strengths)
    b.model = with_tuner(b, "0,1")
    sigmas = b.g.add("BasicScheduler", model=b.model, scheduler="sgm_uniform", steps=6, denoise=1.0)
    parts = b.g.add("SplitSigmasDenoise", sigmas=sigmas, denoise=0.5)
    return in_steps(b, guided(b), b.add("SamplerSASolver", model=b.model), parts[1])


@graph
def falling_cfg_over_the_frames_with_statistics(b: LTXBench) -> Link:
    b.model = b.add("VideoTriangleCFGGuidance", model=b.model, min_cfg=1.5)
    return b.with_model(b.add("LTXVPerStepStatNormPatcher", model=b.model))


@graph
def timeline_on_merged_models(b: LTXBench) -> Link:
    b.model = b.add("ModelMergeSimple", model1=b.model, model2=with_lora(b), ratio=0.4)
    made = director(b)
    b.model = made
    b.latent = b.g.add("LTXVConcatAVLatent", video_latent=made[2], audio_latent=made[3])
    return sampled_for(b, made[1])


@graph
def extended_schedule_with_our_guider(b: LTXBench) -> Link:
    sigmas = b.g.add("BasicScheduler", model=b.model, scheduler="simple", steps=3, denoise=1.0)
    sigmas = b.add("ExtendIntermediateSigmas", sigmas=sigmas, steps=2, end_at_sigma=0.3, spacing="cosine")
    sigmas = b.g.add("SetFirstSigma", sigmas=sigmas, sigma=0.97)
    guider = b.guider({"cfg": 3.0, "rescale": 0.3}, {"cfg": 5.0})
    return in_steps(b, guider, b.add("SamplerER_SDE"), sigmas)


@graph
def normalised_and_noised_again_for_stg(b: LTXBench) -> Link:
    parts = b.g.add("LTXVSeparateAVLatent", av_latent=b.plain())
    video = b.add("LTXVStatNormLatent", latents=parts, target_std=0.8)
    b.latent = b.g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=parts[1])
    return b.sample(stg(b), b.core("euler_ancestral"), "0.7, 0.4, 0")


@graph
def keyframes_of_kjnodes_on_a_power_lora_in_our_stage(b: LTXBench) -> Link:
    one = {"on": True, "lora": b.models.lora, "strength": 0.5}
    b.model = b.g.add("Power Lora Loader (rgthree)", model=b.model, lora_1=one)
    numbers = {
        f"num_guides.{key}_{number}": value
        for number, frame in ((1, 0), (2, -1))
        for key, value in (("image", b.images()), ("frame_idx", frame), ("strength", 0.8))
    }
    ends = {"positive": b.text, "negative": b.text[1], "vae": b.vae, "latent": b.encoded()}
    text = b.g.add("LTXVAddGuideMulti", num_guides="2", **ends, **numbers)
    latent = b.g.add("LTXVConcatAVLatent", video_latent=text[2], audio_latent=b.audio)
    return stage(b.g, b.model, text, latent)


@graph
def latent_guide_of_a_batch_with_the_multimodal_guider(b: LTXBench) -> Link:
    guide = b.add("VHS_VAEEncodeBatched", vae=b.vae, pixels=b.images(9), per_batch=9)
    ends = {"positive": b.text, "negative": b.text[1], "vae": b.vae}
    values = {"guiding_latent": guide, "latent_idx": 1, "strength": 0.5}
    b.text = b.add("LTXVAddLatentGuide", latent=b.video, **ends, **values)
    b.latent = b.g.add("LTXVConcatAVLatent", video_latent=b.text[2], audio_latent=b.audio)
    return sampled(b, multimodal(b))


@graph
def extended_by_theirs_with_our_sampler_and_enhanced(b: LTXBench) -> Link:
    b.model = b.add("LTXVEnhanceAVideoKJ", model=b.model, latent=b.video, weight=30.0)
    given = {**b.sampling(SIGMAS), "sampler": b.ours("res_2s")}
    lengths = {"num_new_frames": 16, "frame_overlap": 16}
    return b.add("LTXVExtendSampler", model=b.model, latents=b.encoded(FRAMES), **given, **lengths)


@pytest.mark.parametrize("name", GRAPHS)
def test_packs_that_cross_give_what_they_give_on_cores_model(
    server: Server, models: TinyModels, name: str, streams_off: str
) -> None:
    assert_as_on_core(server, models, GRAPHS[name], streams_off)
