"""A two-stage image-to-video graph of our nodes gives what the same graph of the host's own nodes gives."""

from __future__ import annotations

import pytest
import torch
from host_graph import Graph
from host_server import Result, Server
from tiny_models import GENERATIONS, TinyModels

TOLERANCE = 1e-5
"""Relative L2 after two stages and both decoders."""

POSITIVE, NEGATIVE = "a green ring turns slowly, water", "blurry"
FRAMES, SIZE, FPS, STEPS, CFG = 17, 64, 24, 3, 3.0
SECOND_STAGE = "0.909375, 0.725, 0.421875, 0.0"


def image(g: Graph, size: int) -> object:
    return g.add("LTX2ProbeImage", seed=9, frames=1, width=size, height=size)


def of_our_nodes(models: TinyModels, generation: str, streams_off: str) -> Graph:
    g, name = Graph(), models.checkpoints[generation]
    files = {"ckpt_name": name, "text_encoder": models.text_encoder, "upscaler": models.upsampler}
    loaded = g.add("LTX2AVLoadAll", **files, network="LTX-2, as this ComfyUI")
    model, clip, vae, audio_vae, upscaler = (loaded[slot] for slot in range(5))
    model = g.add("LTX2AVLoadLora", model=model, lora=models.lora, strength=0.5)
    if streams_off:
        model = g.add("LTX2ProbeStreams", model=model, off=streams_off)
    prompt = g.add("LTX2AVPrompt", clip=clip, positive=POSITIVE, negative=NEGATIVE, fps=FPS)
    sample = {"model": model, "positive": prompt, "negative": prompt[1], "steps": STEPS, "audio_cfg": 0.0}
    sample |= {"schedule": "LTX-2 scheduler", "sampler": "euler"}
    latent = g.add("LTX2AVEmptyLatent", width=SIZE, height=SIZE, frames=FRAMES, fps=FPS, batch_size=1)
    first_image = {"video_vae": vae, "strength": 0.8, "crf": 0}
    latent = g.add("LTX2AVImgToVideoInplace", latent=latent, image=image(g, SIZE), **first_image)
    latent = g.add("LTX2AVSampleStage", latent=latent, seed=42, cfg=CFG, **sample)
    latent = g.add("LTX2AVLatentUpscale", latent=latent, upscale_model=upscaler, video_vae=vae)
    latent = g.add("LTX2AVImgToVideoInplace", latent=latent, image=image(g, 2 * SIZE), **first_image)
    sigmas = g.add("ManualSigmas", sigmas=SECOND_STAGE)
    latent = g.add("LTX2AVSampleStage", latent=latent, seed=43, cfg=1.0, sigmas=sigmas, **sample)
    g.dump("latent", latent=latent)
    g.dump("frames", image=g.add("LTX2AVDecodeVideo", video_vae=vae, latent=latent))
    g.dump("audio", audio=g.add("LTX2AVDecodeAudio", audio_vae=audio_vae, latent=latent))
    return g


def of_the_hosts_nodes(models: TinyModels, generation: str, streams_off: str) -> Graph:
    g, name = Graph(), models.checkpoints[generation]
    checkpoint = g.add("CheckpointLoaderSimple", ckpt_name=name)
    vae, audio_vae = checkpoint[2], g.add("LTXVAudioVAELoader", ckpt_name=name)
    upscaler = g.add("LatentUpscaleModelLoader", model_name=models.upsampler)
    model = g.add("LoraLoaderModelOnly", model=checkpoint, lora_name=models.lora, strength_model=0.5)
    if streams_off:
        model = g.add("LTX2ProbeStreams", model=model, off=streams_off)
    clip = g.add("LTX2AVLoadTextEncoder", text_encoder=models.text_encoder, ckpt_name=name)
    positive, negative = (g.add("CLIPTextEncode", clip=clip, text=text) for text in (POSITIVE, NEGATIVE))
    prompt = g.add("LTXVConditioning", positive=positive, negative=negative, frame_rate=FPS)
    video = g.add("EmptyLTXVLatentVideo", width=SIZE, height=SIZE, length=FRAMES, batch_size=1)
    audio = g.add(
        "LTXVEmptyLatentAudio", frames_number=FRAMES, frame_rate=FPS, batch_size=1, audio_vae=audio_vae
    )

    def stage(
        video: object, audio: object, size: int, seed: int, cfg: float, sigmas: object = None
    ) -> object:
        video = g.add(
            "LTXVImgToVideoInplace", vae=vae, image=image(g, size), latent=video, strength=0.8, bypass=False
        )
        latent = g.add("LTXVConcatAVLatent", video_latent=video, audio_latent=audio)
        if sigmas is None:
            shift = {"max_shift": 2.05, "base_shift": 0.95, "stretch": True, "terminal": 0.1}
            sigmas = g.add("LTXVScheduler", steps=STEPS, latent=latent, **shift)
        guider = g.add("CFGGuider", model=model, positive=prompt[0], negative=prompt[1], cfg=cfg)
        return g.add(
            "SamplerCustomAdvanced",
            noise=g.add("RandomNoise", noise_seed=seed),
            guider=guider,
            sampler=g.add("KSamplerSelect", sampler_name="euler"),
            sigmas=sigmas,
            latent_image=latent,
        )

    first = g.add("LTXVSeparateAVLatent", av_latent=stage(video, audio, SIZE, 42, CFG))
    larger = g.add("LTXVLatentUpsampler", samples=first, upscale_model=upscaler, vae=vae)
    latent = stage(larger, first[1], 2 * SIZE, 43, 1.0, g.add("ManualSigmas", sigmas=SECOND_STAGE))
    parts = g.add("LTXVSeparateAVLatent", av_latent=latent)
    g.dump("latent", latent=latent)
    g.dump("frames", image=g.add("VAEDecode", samples=parts[0], vae=vae))
    g.dump("audio", audio=g.add("LTXVAudioVAEDecode", samples=parts[1], audio_vae=audio_vae))
    return g


@pytest.mark.parametrize("generation", GENERATIONS)
def test_two_stages_of_our_nodes_give_what_the_hosts_give(
    server: Server, models: TinyModels, generation: str, streams_off: str
) -> None:
    core: Result = server.run(of_the_hosts_nodes(models, generation, streams_off).prompt)
    ours: Result = server.run(of_our_nodes(models, generation, streams_off).prompt)
    for name, keys in (
        ("latent", ("latent/video", "latent/audio")),
        ("frames", ("image",)),
        ("audio", ("waveform",)),
    ):
        for key in keys:
            a, b = core.tensors(name)[key], ours.tensors(name)[key]
            assert a.shape == b.shape, (key, a.shape, b.shape)
            assert torch.isfinite(a).all()
            distance = ((a - b).norm() / a.norm()).item()
            assert distance < TOLERANCE, f"{key}: {distance:.1e}"
