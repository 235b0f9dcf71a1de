"""Whole runs as ComfyUI core computes them, reproduced by the library alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.audio import decode_audio
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace, InputAudio
from ltx2_core.conditioning.state import empty_state
from ltx2_core.config import vocoder_config
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.sampling.denoiser import Denoiser
from ltx2_core.sampling.guidance import CFG
from ltx2_core.sampling.noise import initial_state, make_noise
from ltx2_core.sampling.samplers import SAMPLERS
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS, ltxv_sigmas
from ltx2_core.shapes import frames_of, plan_clip
from ltx2_core.types import AVLatent, LatentState, Numerics, TextContext, TextFeatures
from ltx2_core.upsampler import upsample_latent

TOLERANCE = 1e-5


def relative(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return ((actual - expected).norm() / expected.norm()).item()


def context(checkpoint, features: Tensor) -> TextContext:
    connectors = checkpoint.load(Component.TEXT_CONNECTORS, numerics=Numerics.COMFY)
    mask = torch.ones(features.shape[:2])
    if checkpoint.generation == "2.0":
        return connectors(TextFeatures(features, features, mask))
    width = connectors.video_embeddings_connector.config.dim
    return connectors(TextFeatures(features[..., :width], features[..., width:], mask))


def conditioned(case: dict, tensors: dict[str, Tensor]) -> LatentState:
    """The state of the case, built with the library's own items from the stored latents."""
    plan = plan_clip(
        case["width"], case["height"], frames=case["frames"], fps=case["fps"], numerics=Numerics.COMFY
    )
    assert not plan.changes
    state = empty_state(plan)
    video, audio = tensors["in/video_latent"], tensors["in/audio_latent"]
    start = plan.latent_frames
    if "in_place_strength" not in case:
        # A second stage starts from latents; where there are none, these are zeros.
        state = replace(state, latent=AVLatent(video[:, :, :start], audio))
    audio_mask = tensors.get("in/audio_mask")
    if audio_mask is not None and not audio_mask.any():
        state = InputAudio(latent=audio).apply(state)
    elif audio_mask is not None:
        state = replace(
            state, mask=AVLatent(state.mask.video, audio_mask[:, :1, :, :1].expand_as(state.mask.audio))
        )
    if case.get("in_place_strength") is not None:
        image = video[:, :, : (len(tensors["in/image"]) - 1) // 8 + 1]
        state = ImageInPlace(latent=image, strength=case["in_place_strength"]).apply(state)
    for placed, guide in zip(case.get("add_guide", []), case.get("guides", []), strict=True):
        frames, at = guide["latent_shape"][0], placed["frame_idx"]
        state = GuideFrames(
            latent=video[:, :, start : start + frames],
            frame=frames_of(plan.latent_frames) + at if at < 0 else at,
            strength=guide["strength"],
            attention=guide["strength"],
        ).apply(state)
        start += frames
    return state


def schedules(steps: int, tokens: int) -> list[Tensor]:
    """The schedules of ``steps`` steps that a graph of the host may have used."""
    fixed = [sigmas for sigmas in (DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS) if len(sigmas) == steps + 1]
    return [ltxv_sigmas(steps, tokens), ltxv_sigmas(steps), *fixed]


@pytest.mark.golden("core")
def test_a_run_gives_what_the_host_gives(golden) -> None:
    tensors, case = golden.tensors(), golden.metadata["case"]
    checkpoint = open_checkpoint(golden.model(case["checkpoint"]))
    strength = case["lora_strength"]
    loras = [open_lora(golden.model(case.get("lora", "tiny_lora")), strength)] if strength else []

    state = conditioned(case, tensors)
    torch.testing.assert_close(state.latent.video, tensors["in/video_latent"], atol=0, rtol=0)
    torch.testing.assert_close(state.latent.audio, tensors["in/audio_latent"], atol=0, rtol=0)
    for kind, mask in (("video", state.mask.video), ("audio", state.mask.audio)):
        if f"in/{kind}_mask" in tensors:
            expected = tensors[f"in/{kind}_mask"].expand_as(getattr(state.latent, kind))
            torch.testing.assert_close(mask.expand_as(expected), expected, atol=1e-7, rtol=0)
    if state.guides:
        positions = torch.cat([guide.positions for guide in state.guides], dim=2)
        stored = tensors["in/keyframe_idxs"].clone()
        stored[:, 0] /= case["fps"]
        torch.testing.assert_close(positions, stored)

    noise = make_noise(state.latent, case["seed"])
    torch.testing.assert_close(noise.video, tensors["in/noise_video"], atol=0, rtol=0)
    torch.testing.assert_close(noise.audio, tensors["in/noise_audio"], atol=0, rtol=0)

    sigmas = tensors["in/sigmas"]
    assert any(
        torch.allclose(own, sigmas, atol=1e-6, rtol=0)
        for own in schedules(len(sigmas) - 1, state.latent.video[0, 0].numel())
    ), f"{sigmas.tolist()} are of no schedule"

    with torch.inference_mode():
        denoise = Denoiser(
            checkpoint.load(Component.TRANSFORMER, loras=loras, numerics=Numerics.COMFY),
            state,
            context(checkpoint, tensors["in/positive_features"]),
            context(checkpoint, tensors["in/negative_features"]),
            guidance=CFG(video=case["cfg"], audio=case["cfg"]),
            numerics=Numerics.COMFY,
        )
        x = initial_state(state, noise, sigmas[0].item(), Numerics.COMFY)
        out = SAMPLERS[case["sampler"]](denoise, x, sigmas)

    assert relative(out.video, tensors["out/video"]) < TOLERANCE
    assert relative(out.audio, tensors["out/audio"]) < TOLERANCE


@pytest.mark.golden("core_decode")
def test_upscaled_latents_frames_and_audio_are_what_the_host_gives(golden) -> None:
    tensors, case = golden.tensors(), golden.metadata["case"]
    named = case.get("checkpoint", f"tiny_ltx{case['generation'].replace('.', '')}")
    checkpoint = open_checkpoint(golden.model(named))
    upscaler = open_checkpoint(golden.model(case.get("upscaler", "tiny_upsampler")))
    latent = tensors["in/video_latent"]

    with torch.inference_mode():
        decoder = checkpoint.load(Component.VIDEO_DECODER)
        upsampled = upsample_latent(
            upscaler.load(Component.UPSAMPLER), latent, decoder.per_channel_statistics
        )
        frames = rearrange(decoder.decode(latent), "b c f h w -> b f h w c")
        waveform, rate = decode_audio(
            checkpoint.load(Component.AUDIO_DECODER),
            checkpoint.load(Component.VOCODER),
            tensors["in/audio_latent"],
        )

    assert relative(upsampled, tensors["out/upsampled"]) < TOLERANCE
    assert relative((frames / 2 + 0.5).clamp(0, 1), tensors["out/frames"]) < TOLERANCE
    assert relative(waveform, tensors["out/waveform"]) < TOLERANCE
    assert rate == vocoder_config(checkpoint.config).sample_rate
