"""The diffusion video VAE of LTX-2.5 gives what the official implementation gives, whole and in pieces."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.video_vae import VolumeNoise
from ltx2_core.video_vae.diffusion.attention import Masks, neighbourhood_attention
from ltx2_core.video_vae.diffusion.decoder import DiffusionVideoDecoder
from ltx2_core.video_vae.diffusion.windows import Axis, Span

from .test_video_vae import wave

DECODED = {"atol": 2e-4, "rtol": 0}
TRACED = {"atol": 1e-4, "rtol": 0}
ATTENDED = {"atol": 1e-5, "rtol": 0}
ONE_FRAME = 1
"""A piece limit in bytes below any frame, so that pieces are single rows in time."""


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def decoder_of(golden) -> DiffusionVideoDecoder:
    return open_checkpoint(golden.path).load(Component.VIDEO_DECODER, dtype=torch.float32)


def every_nth(frames: Tensor, steps: list[int]) -> Tensor:
    return frames[:, :, :: steps[0], :: steps[1], :: steps[2]]


@pytest.mark.golden("diffusion_vae")
@pytest.mark.parametrize("limit", [None, ONE_FRAME])
def test_decodes_like_the_reference(golden, limit: int | None) -> None:
    decoder, tensors, facts = decoder_of(golden), golden.tensors(), golden.sidecar
    tags = [m[1] for name in tensors if (m := re.fullmatch(r"golden\.decode\.(.+)\.latent", name))]
    assert tags
    for tag in tags:
        latent, seed = tensors[f"golden.decode.{tag}.latent"], facts["seeds"][tag]
        # ComfyUI seeds a generator, the official pipelines continue one: both draw the whole clip.
        going_on = VolumeNoise(start=torch.Generator().manual_seed(seed))
        noise = VolumeNoise(seed) if limit is None else going_on
        frames = decoder.decode(latent, noise=noise, max_piece_bytes=limit)
        assert tuple(frames.shape[3:]) == (32 * latent.shape[3], 32 * latent.shape[4])
        frames = every_nth(frames, facts["subsample_FHW"][tag])
        torch.testing.assert_close(frames, tensors[f"golden.decode.{tag}.video"], **DECODED)


@pytest.mark.golden("diffusion_vae")
@pytest.mark.parametrize("limit", [None, 60_000])
@pytest.mark.parametrize(
    ("name", "settings"), [("v3", {"prediction": "v", "steps": 3}), ("x0_2", {"steps": 2})]
)
def test_several_steps_are_those_of_the_reference(golden, name, settings, limit) -> None:
    tensors, decoder = golden.tensors(), decoder_of(golden)
    if f"golden.decode_{name}.video" not in tensors:
        pytest.skip("the fixture has no such case")
    decoder.decoder.config = replace(decoder.decoder.config, **settings)
    latent, seed = tensors["golden.decode.a.latent"], golden.sidecar["seeds"]["a"]
    frames = decoder.decode(latent, noise=VolumeNoise(seed), max_piece_bytes=limit)
    torch.testing.assert_close(
        every_nth(frames, [4, 7, 7]), tensors[f"golden.decode_{name}.video"], **DECODED
    )


@pytest.mark.golden("diffusion_vae")
def test_the_time_is_embedded_like_the_reference(golden) -> None:
    tensors, decoder = golden.tensors(), decoder_of(golden)
    embedded = decoder.decoder.t_embedder(1000.0, tensors["golden.decode.a.latent"])
    torch.testing.assert_close(embedded, tensors["golden.trace.t_emb"], **TRACED)


@pytest.mark.golden("diffusion_vae")
@pytest.mark.parametrize(("name", "window"), [("na", (3, 3, 5)), ("na_clamped", (11, 11, 11))])
def test_windows_attend_like_the_reference(golden, name, window) -> None:
    tensors = golden.tensors()
    if f"golden.{name}.q" not in tensors:
        pytest.skip("the fixture has no such case")
    q, k, v, out = (tensors[f"golden.{name}.{part}"] for part in ("q", "k", "v", "out"))
    axes = tuple(
        Axis(queries=Span(0, size), first_key=0, length=size, window=min(n, size))
        for size, n in zip(q.shape[1:4], window, strict=True)
    )
    torch.testing.assert_close(neighbourhood_attention(q, k, v, axes, Masks()), out, **ATTENDED)


@pytest.mark.golden("diffusion_vae")
def test_encodes_like_the_reference(golden) -> None:
    if not golden.sidecar.get("encode"):
        pytest.skip("the fixture has no such case")
    encoder = open_checkpoint(golden.path).load(Component.VIDEO_ENCODER, dtype=torch.float32)
    for tag, case in golden.sidecar["encode"].items():
        latent = encoder.encode(wave(case["shape"], case["formula_seed"]))
        torch.testing.assert_close(latent, golden.tensors()[f"golden.encode.{tag}.latent"], **DECODED)
