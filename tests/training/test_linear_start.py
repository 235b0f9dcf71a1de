"""Encoder and decoder of the video autoencoder start as linear networks that fit the code."""

from __future__ import annotations

import itertools

import pytest
import torch

from ltx2_core import config as cfg
from ltx2_core.training.autoencoders import video_vae
from ltx2_core.training.autoencoders.layerwise import fit_decoder
from ltx2_core.training.autoencoders.linear_decoder import start_linear_decoder
from ltx2_core.training.autoencoders.linear_diffusion import start_linear_diffusion
from ltx2_core.training.autoencoders.linear_encoder import least_squares, start_linear_encoder
from ltx2_core.training.autoencoders.video_code import VideoCode, principal_code
from ltx2_core.training.data import psnr
from ltx2_core.training.tiny.recipe import trained_config, trained_diffusion_vae_config
from ltx2_core.training.world.batches import HELD_OUT, ClipSize, video_batch
from ltx2_core.video_vae import DiffusionVAE, VideoVAE

SIZES = (
    ClipSize(batch=60, frames=17, width=64, height=64),
    ClipSize(batch=24, frames=17, width=96, height=96),
)
HELD_OUT_CLIPS = {"clips": 3, "frames": 17, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def code():
    return principal_code(128, sizes=SIZES)


@pytest.fixture
def vae(code):
    return video_vae.new_video_vae(cfg.video_vae_config(trained_config()), code, 0)


class Counting:
    """A code that counts the clips it has encoded."""

    def __init__(self, code: VideoCode) -> None:
        self.code, self.clips = code, 0
        self.per_channel_statistics = code.per_channel_statistics

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        self.clips += len(frames)
        return self.code.encode(frames)


def test_the_decoder_starts_as_the_inverse_of_the_code(vae, code):
    before = video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS)
    start_linear_decoder(vae.decoder, code, sizes=SIZES)
    assert before < 10
    assert video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS) > 20


def test_the_diffusion_decoder_starts_as_the_inverse_of_an_encoder(code):
    vae = diffusion_vae(trained_diffusion_vae_config(), code)
    before = video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS)
    start_linear_diffusion(vae.decoder, code, sizes=SIZES)
    assert before < 10
    assert video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS) > 20


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([64, 64, 32, 32, 32], "stage_channels begins with 64; latents need more"),
        ([128, 128, 64, 64, 16], "stage_channels ends with 16; patches of 12 values need 20"),
    ],
)
def test_a_diffusion_decoder_that_is_too_narrow_for_its_start_is_refused(code, channels, message):
    config = trained_diffusion_vae_config()
    reductions = [a // b for a, b in itertools.pairwise(channels)]
    decoder = config["vae"]["decoder"]
    upsamples = [[strides, r] for (strides, _), r in zip(decoder["upsamples"], reductions, strict=True)]
    decoder |= {"stage_channels": channels, "upsamples": upsamples}
    with pytest.raises(ValueError, match=message):
        start_linear_diffusion(diffusion_vae(config, code).decoder, code, sizes=SIZES[1:])


def diffusion_vae(config, code) -> DiffusionVAE:
    vae = DiffusionVAE(cfg.video_vae_config(config)).requires_grad_(False)
    vae.per_channel_statistics = code.per_channel_statistics
    return vae


@pytest.mark.slow
def test_fitting_layer_by_layer_improves_on_the_linear_decoder(code):
    config = trained_config()
    config["vae"]["decoder_base_channels"] = 16
    vae = video_vae.new_video_vae(cfg.video_vae_config(config), code, 0)
    levels = start_linear_decoder(vae.decoder, code, sizes=SIZES)
    linear = video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS)
    reported: list[tuple[str, float]] = []
    other = Counting(code)
    fit_decoder(
        vae.decoder,
        levels,
        (code, other),
        sizes=(ClipSize(batch=600, frames=9, width=64, height=64),),
        noise=0.1,
        on_layer=lambda name, error: reported.append((name, error)),
    )
    assert video_vae.held_out_psnr(vae, code, **HELD_OUT_CLIPS) > linear + 0.3
    assert reported[-1][0] == "conv_out"
    assert len(reported) == len(vae.decoder.up_blocks) + 1
    assert all(0 < error < 1 for _, error in reported)
    assert other.clips == 300
    assert bleeding(vae, code) < 3


def bleeding(vae: VideoVAE, code: VideoCode) -> float:
    """Loss of PSNR, in dB, of the first frame if another scene follows it."""
    one, other = (video_batch([HELD_OUT + seed], frames=17, width=64, height=64) for seed in (3, 4))
    latent, follows = code.encode(one), code.encode(other)
    with torch.no_grad():
        own, cut = (
            psnr(vae.decode(torch.cat((latent[:, :, :1], rest), dim=2))[:, :, :1], one[:, :, :1])
            for rest in (latent[:, :, 1:], follows[:, :, 1:])
        )
    return float(own - cut)


@pytest.mark.slow
def test_the_encoder_starts_near_its_code(vae, code):
    before = video_vae.held_out_code_error(vae, code, clips=2)
    reported = []
    error = start_linear_encoder(
        vae.encoder, code, sizes=SIZES, steps=30, on_step=lambda step, error: reported.append((step, error))
    )
    assert error < 0.25
    assert reported[-1] == (30, pytest.approx(error))
    assert before > 0.5
    assert video_vae.held_out_code_error(vae, code, clips=2) < 0.2


def test_least_squares_are_the_same_bit_for_bit_wherever_the_values_are_in_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    values, target = (torch.randn(239, width, generator=generator) for width in (65, 128))
    values[:, 1] = values[:, 0]
    expected = least_squares(values, target)
    torch.testing.assert_close(
        values @ expected, values @ torch.linalg.pinv(values) @ target, atol=1e-4, rtol=1e-4
    )
    junk = []
    for offset in range(1, 17):
        moved = torch.empty(values.numel() + offset)[offset:].view_as(values).copy_(values)
        junk.append(torch.empty(offset * 7))
        assert torch.equal(least_squares(moved, target), expected), offset
