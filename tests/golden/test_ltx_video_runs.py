"""Whole runs of LTX-Video against the official pipeline and against ComfyUI."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from einops import rearrange
from torch import Tensor

from ltx2_core.conditioning.clip_inside import ClipInside
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace
from ltx2_core.conditioning.state import drop_guides, empty_state
from ltx2_core.config import transformer_config
from ltx2_core.latent_filters import tone_map
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.sampling.denoiser import Denoiser, ImageNoise
from ltx2_core.sampling.guidance import Guidance, StreamGuidance
from ltx2_core.sampling.ltx_video import from_lists
from ltx2_core.sampling.noise import initial_state
from ltx2_core.sampling.samplers import get_sampler
from ltx2_core.sampling.schedules import finished
from ltx2_core.shapes import plan_clip
from ltx2_core.types import AVLatent, Guide, LatentState, Numerics, TextContext, TimeRule
from ltx2_core.upsampler import upsample_latent
from ltx2_core.video_vae import DrawnNoise

sys.path.insert(0, str(Path(__file__).parent))

from test_ltx_video import case_of, model_file

TOLERANCE = 1e-4
HOST_FPS = 25.0
"""What ComfyUI takes where a graph says nothing."""


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    error = (actual.double() - expected.double()).norm() / expected.double().norm()
    assert error < tolerance, f"relative error {error:.2e}"


def context(tensors: dict[str, Tensor], which: str) -> TextContext:
    """The valid states of a prompt; leaving padding out equals masking it."""
    states = tensors[f"in/{which}"][:, tensors[f"in/{which}_mask"][0].bool()]
    return TextContext(states, states[..., :0])


def network(golden, numerics=Numerics.OFFICIAL, loras=()):
    return open_checkpoint(model_file(golden)).load(
        Component.TRANSFORMER, dtype=torch.float32, numerics=numerics, loras=loras
    )


def state_of(golden, width: int, height: int) -> LatentState:
    case, config = case_of(golden), transformer_config(open_checkpoint(model_file(golden)).config)
    plan = plan_clip(width, height, frames=case["frames"], fps=float(case["fps"] or HOST_FPS))
    return empty_state(plan, audio=False, times=TimeRule(causal=config.causal_time, reciprocal=True))


def guidance_of(settings: dict):
    cfg, stg, rescale = (settings[n] for n in ("guidance_scale", "stg_scale", "rescaling_scale"))
    if isinstance(cfg, list):
        return from_lists(
            settings["guidance_timesteps"],
            cfg=cfg,
            stg=stg,
            rescale=rescale,
            stg_blocks=settings["skip_block_list"],
            cfg_star=settings["cfg_star_rescale"],
        )
    video = StreamGuidance(cfg=cfg, stg=stg, rescale=0.0 if rescale == 1 or not stg else rescale)
    return Guidance(video=video, stg_blocks=tuple(settings.get("skip_block_list", ())) if stg else ())


def conditioned(golden, state: LatentState, tensors: dict[str, Tensor]) -> LatentState:
    for number, item in enumerate(case_of(golden)["conditioning"]):
        latent, strength = tensors[f"in/media{number}_latent"], item["strength"]
        if item["frame"] == 0:
            state = ImageInPlace(latent=latent, strength=strength).apply(state)
        elif item["frames"] == 1:
            state = GuideFrames(latent=latent, frame=item["frame"], strength=strength).apply(state)
        else:
            state = ClipInside(latent=latent, frame=item["frame"], strength=strength).apply(state)
    return state


class StoredDraws:
    """The draws of a fixture in their order, as latents with the guides behind the clip."""

    def __init__(self, tensors: dict[str, Tensor], state: LatentState) -> None:
        count = sum(name.startswith("in/noise") for name in tensors)
        self._draws = iter([tensors[f"in/noise{n}"] for n in range(count)])
        video = state.latent.video
        assert video is not None
        self._grid, self._guides = video.shape[3:], state.guides
        self._extra = state.guide_frames * self._grid.numel()

    def _latent(self, tokens: Tensor) -> Tensor:
        h, w = self._grid
        return rearrange(tokens, "b (f h w) c -> b c f h w", h=h, w=w)

    def start(self) -> AVLatent:
        return AVLatent(
            torch.cat([self._latent(next(self._draws)), *(next(self._draws) for _ in self._guides)], 2), None
        )

    def step(self, like: AVLatent) -> AVLatent:
        # The reference has extra tokens in front of those of the clip.
        tokens = next(self._draws)
        return AVLatent(
            self._latent(torch.cat((tokens[:, self._extra :], tokens[:, : self._extra]), 1)), None
        )


@pytest.mark.golden("ltxv_pipe")
def test_official_runs_match(golden):
    case, tensors = case_of(golden), golden.tensors()
    if "second" in case["settings"]:
        check_two_passes(golden)
        return
    settings = case["settings"]
    state = conditioned(golden, state_of(golden, case["width"], case["height"]), tensors)
    latents = run(golden, state, tensors, settings, case["sigmas"], StoredDraws(tensors, state))
    assert_close(drop_guides(latents, state).video, tensors["out/latent"])


def run(golden, state, tensors, settings, sigmas, draws, start=None):
    scale = settings.get("image_cond_noise_scale", 0.0)
    sigmas = torch.tensor(finished(sigmas))
    denoise = Denoiser(
        network(golden),
        state,
        context(tensors, "positive"),
        context(tensors, "negative"),
        guidance=guidance_of(settings),
        sigmas=sigmas,
        image_noise=ImageNoise(scale, draws.step) if scale else None,
    )
    noise = draws.start() if start is None else start
    with torch.inference_mode():
        x = initial_state(state, noise, float(sigmas[0]))
        if not settings.get("stochastic_sampling"):
            return get_sampler("euler")(denoise, x, sigmas)
        return stochastic(denoise, x, sigmas, draws)


def stochastic(denoise, x, sigmas, draws):
    """The steps of the sampler ``lcm`` on stored noise."""
    from ltx2_core.sampling.samplers.base import History, SamplerRun

    class Stored(SamplerRun):
        def noise(self, x):
            return draws.step(x)

    sampler, made = get_sampler("lcm"), Stored(denoise, None, denoise.preserve, History())
    for sigma, following in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        x = sampler.step(made, x, sigma, following, eta=1.0).x
    return x


def check_two_passes(golden):
    case, tensors = case_of(golden), golden.tensors()
    (first_size, second_size), settings = case["settings"]["sizes"], case["settings"]
    state = state_of(golden, *first_size)
    draws = StoredDraws({"in/noise0": tensors["in/noise0"]}, state)
    first = run(golden, state, tensors, settings["first"], settings["first"]["timesteps"], draws)
    assert_close(first.video, tensors["out/first"])
    checkpoint = open_checkpoint(model_file(golden))
    upscaler = open_checkpoint(golden.model("tiny_ltxv_upscaler"))
    statistics = checkpoint.load(Component.VIDEO_ENCODER, dtype=torch.float32).per_channel_statistics
    with torch.inference_mode():
        network_ = upscaler.load(Component.UPSAMPLER, dtype=torch.float32)
        upsampled = upsample_latent(network_, first.video, statistics, adain=1.0)
    assert_close(upsampled, tensors["in/upsampled"])
    state = state_of(golden, *second_size)
    draws = StoredDraws({"in/noise0": tensors["in/noise1"]}, state)
    state = replace(state, latent=AVLatent(upsampled, None))
    second = run(golden, state, tensors, settings["second"], settings["second"]["timesteps"], draws)
    assert_close(second.video, tensors["out/second"])
    assert tone_map(second.video, settings["second"]["tone_map_compression_ratio"]).isfinite().all()


def host_guides(case: dict, tensors: dict[str, Tensor], fps: float):
    """The guides of a graph, each of one latent frame, as their conditioning describes them."""
    for number, guide in enumerate(case.get("add_guide", ())):
        cells = tensors["in/latent"].shape[3:].numel()
        positions = tensors["in/keyframe_idxs"][:, :, number * cells : (number + 1) * cells].float()
        positions[:, 0] *= 1 / fps
        yield Guide(frames=1, positions=positions, attention=guide["strength"])


@pytest.mark.golden("ltxv_core")
def test_runs_of_comfyui_match(golden):
    case, tensors = case_of(golden), golden.tensors()
    state = state_of(golden, case["width"], case["height"])
    latent = tensors["in/latent"]
    mask = tensors.get("in/mask", torch.ones(1, 1, 1, 1, 1)).expand(1, 1, *latent.shape[2:])
    guides = tuple(host_guides(case, tensors, state.fps))
    state = replace(state, latent=AVLatent(latent, None), mask=AVLatent(mask, None), guides=guides)
    loras = ()
    if "+" in case["model"]:
        name, strength = re.match(r"(\S+) at (\d+\.?\d*)", case["note"]).groups()
        loras = (open_lora(golden.model(name), strength=float(strength)),)
    cfg = StreamGuidance(cfg=case["cfg"])
    denoise = Denoiser(
        network(golden, Numerics.COMFY, loras),
        state,
        context(tensors, "positive"),
        context(tensors, "negative"),
        guidance=Guidance(video=cfg),
        numerics=Numerics.COMFY,
    )
    noise = AVLatent(tensors["in/noise"], None)
    with torch.inference_mode():
        x = initial_state(state, noise, float(tensors["in/sigmas"][0]), Numerics.COMFY)
        result = get_sampler("euler")(denoise, x, tensors["in/sigmas"])
    assert_close(result.video, tensors["out/latent"])


@pytest.mark.golden("ltxv_core")
def test_frames_of_comfyui_match(golden):
    tensors = golden.tensors()
    if "out/frames_sub3" not in tensors:
        pytest.skip("this graph does not decode")
    decoder = open_checkpoint(model_file(golden)).load(
        Component.VIDEO_DECODER, dtype=torch.float32, numerics=Numerics.COMFY
    )
    # The fixture seeds the host's global generator, from which its decoder draws.
    noise = DrawnNoise(torch.Generator().manual_seed(1234))
    decoder.noisy = replace(decoder.noisy, noise=noise)
    with torch.inference_mode():
        frames = decoder.decode(tensors["out/latent"])
    pixels = rearrange((frames + 1) / 2, "b c f h w -> b f h w c").clamp(0, 1)[:, :, ::3, ::3]
    torch.testing.assert_close(pixels, tensors["out/frames_sub3"], rtol=0, atol=1e-4)
