"""Small autoencoders with the structure of each generation, in float64."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import VideoVAEConfig, video_vae_config
from ltx2_core.video_vae import VideoVAE

DOWN = ("compress_space_res", "compress_time_res", "compress_all_res", "compress_all_res")


def tiny_config(multipliers: tuple[int, ...], **rest: object) -> VideoVAEConfig:
    encoder_blocks: list[object] = [["res_x", 1]]
    for kind, multiplier in zip(DOWN, multipliers, strict=True):
        encoder_blocks += [[kind, {"multiplier": multiplier}], ["res_x", 1]]
    sizes = {"latent_channels": 3, "encoder_base_channels": 4, "decoder_base_channels": 4}
    return video_vae_config({"vae": {"encoder_blocks": encoder_blocks, **sizes, **rest}})


def config_20() -> VideoVAEConfig:
    """Residual upsampling of all axes, reflection in the decoder."""
    up = ["compress_all", {"residual": True, "multiplier": 2}]
    blocks = [["res_x", 2], up, ["res_x", 1], up, ["res_x", 1], up, ["res_x", 1]]
    return tiny_config((2, 2, 2, 2), decoder_blocks=blocks)


def config_23() -> VideoVAEConfig:
    """Plain upsampling, zero padding, steps of one axis, steps that do not change the width."""
    blocks: list[object] = [["res_x", 1]]
    for kind, multiplier in (("space", 2), ("time", 2), ("all", 1), ("all", 2)):
        blocks += [[f"compress_{kind}", {"multiplier": multiplier}], ["res_x", 1]]
    return tiny_config((2, 2, 2, 1), decoder_blocks=blocks, spatial_padding_mode="zeros")


def build(config: VideoVAEConfig) -> VideoVAE:
    torch.manual_seed(0)
    vae = VideoVAE(config, dtype=torch.float64).requires_grad_(False)
    for parameter in vae.parameters():
        parameter.mul_(2.0)
    vae.per_channel_statistics.get_buffer("mean-of-means").normal_()
    vae.per_channel_statistics.get_buffer("std-of-means").uniform_(0.5, 2.0)
    return vae


@pytest.fixture(scope="session")
def vaes() -> dict[str, VideoVAE]:
    return {"2.0": build(config_20()), "2.3": build(config_23())}
