"""The video autoencoder gives what the official implementation gives: whole, streamed, causal and tiled."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor

from ltx2_core.config import video_vae_config
from ltx2_core.video_vae import Tile, Tiling, VideoVAE, tiled_decode, tiled_encode
from ltx2_core.video_vae.streaming import Stream, run_stages

TOLERANCE = {"atol": 2e-4, "rtol": 0}
ONE_FRAME = 1
"""A piece limit in bytes below any frame, so that pieces are single frames."""


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def load(golden) -> tuple[VideoVAE, dict[str, Tensor]]:
    tensors = golden.tensors()
    vae = VideoVAE(video_vae_config(golden.config), device="meta")
    weights = {name.removeprefix("vae."): t for name, t in tensors.items() if name.startswith("vae.")}
    vae.load_state_dict(weights, strict=True, assign=True)
    return vae, tensors


def wave(shape: list[int], seed: int) -> Tensor:
    """The formula of the fixtures for clips that they do not store."""
    b, c, f, h, w = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
    slow = torch.sin(0.9 * b + 1.7 * c + 0.31 * f + 0.113 * h + 0.071 * w + 0.5 * seed)
    fast = torch.cos(0.7 * c - 0.19 * f + 0.37 * h - 0.29 * w + 0.3 * seed)
    return (0.6 * slow + 0.4 * fast).float()


def every_nth_pixel(frames: Tensor, name: str) -> Tensor:
    """What a fixture stores of large frames: ``..._sub3`` is every third row and column."""
    match = re.search(r"_sub(\d+)$", name)
    step = int(match[1]) if match else 1
    return frames[..., ::step, ::step]


def tiling(settings: dict[str, list[int]]) -> Tiling:
    return Tiling(**{axis: Tile(*settings[axis]) for axis in ("frames", "height", "width")})


@pytest.mark.golden("video_vae")
@pytest.mark.parametrize("limit", [ONE_FRAME, 2**30])
def test_encodes_like_the_reference(golden, limit: int) -> None:
    vae, tensors = load(golden)
    inputs = golden.metadata["golden"]["encode_inputs"]
    assert inputs
    for tag, clip in inputs.items():
        name = f"golden.encode.{tag}"
        frames = tensors[f"{name}.video"] if clip["stored"] else wave(clip["shape"], clip["seed"])
        stages = vae.encoder.stages()
        moments = torch.cat([*run_stages(stages, frames, Stream(causal=True), True, limit)], dim=2)
        torch.testing.assert_close(moments[:, -1:], tensors[f"{name}.logvar"], **TOLERANCE)
        latent = vae.encode(frames, max_piece_bytes=limit)
        torch.testing.assert_close(latent, tensors[f"{name}.latent"], **TOLERANCE)


@pytest.mark.golden("video_vae")
@pytest.mark.parametrize("limit", [ONE_FRAME, 2**30])
def test_decodes_like_the_reference(golden, limit: int) -> None:
    vae, tensors = load(golden)
    wanted = [n for n in tensors if n.startswith("golden.decode.") and not n.endswith(".latent")]
    assert wanted
    for name in wanted:
        stem, kind = name.rsplit(".", 1)
        frames = vae.decode(tensors[f"{stem}.latent"], causal="causal" in kind, max_piece_bytes=limit)
        frames = every_nth_pixel(frames, kind)
        torch.testing.assert_close(frames, tensors[name], **TOLERANCE)


@pytest.mark.golden("video_vae")
def test_tiles_like_the_reference(golden) -> None:
    vae, tensors = load(golden)
    settings = golden.metadata["golden"]
    decoded, encoded = settings.get("tiled"), settings.get("tiled_encode")
    stored = {name.split(".")[1] for name in tensors if "tiled" in name}
    assert stored == {f"{what}_tiled" for what, case in (("decode", decoded), ("encode", encoded)) if case}
    if not stored:
        pytest.skip("the fixture has no tiled case")
    if decoded:
        chunks = list(tiled_decode(vae, tensors["golden.decode_tiled.latent"], tiling(decoded)))
        assert [chunk.shape[2] for chunk in chunks] == tensors["golden.decode_tiled.chunk_frames"].tolist()
        (name,) = (n for n in tensors if n.startswith("golden.decode_tiled.video"))
        frames = every_nth_pixel(torch.cat(chunks, dim=2), name)
        torch.testing.assert_close(frames, tensors[name], **TOLERANCE)
    if encoded:
        latent = tiled_encode(vae, wave(encoded["shape"], seed=encoded.get("seed", 1)), tiling(encoded))
        torch.testing.assert_close(latent, tensors["golden.encode_tiled.latent"], **TOLERANCE)
