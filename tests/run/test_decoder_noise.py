"""The noise that the diffusion video decoder starts from is the one that the run names."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.options import Chosen
from ltx2_core.cli.values import execution_of
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.run.saved_latents import resume, save_latents
from ltx2_core.sampling.noise import make_noise
from ltx2_core.types import Numerics
from ltx2_core.video_vae import FrameNoise, VolumeNoise

EXACT = {"atol": 1e-5, "rtol": 1e-5}
LATENT = torch.randn(1, 128, 3, 3, 5, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def pipeline_of(tiny_set, diffusion_vae):
    def opened(**options):
        files = {"text_encoder": tiny_set.text_encoder, "video_decoder": diffusion_vae}
        return LTX2Pipeline(tiny_set.checkpoint, **files, device="cpu", **options)

    return opened


def decoded(diffusion_vae, latent, noise, numerics=Numerics.OFFICIAL):
    with torch.inference_mode():
        decoder = open_checkpoint(diffusion_vae).load(Component.VIDEO_DECODER, numerics=numerics)
        return decoder.decode(latent, noise=noise)[0].transpose(0, 1)


def frames_of(pieces):
    return torch.cat(list(pieces))


@pytest.mark.parametrize(
    ("options", "noise"),
    [
        ({}, FrameNoise(0)),
        ({"decoder_seed": 7}, FrameNoise(7)),
        ({"decoder_noise": "comfy", "decoder_seed": 7}, VolumeNoise(7)),
        ({"numerics": Numerics.COMFY}, VolumeNoise(0)),
        ({"numerics": Numerics.COMFY, "decoder_seed": 7}, VolumeNoise(7)),
        ({"numerics": Numerics.COMFY_033}, VolumeNoise(0)),
        ({"numerics": Numerics.COMFY_033, "decoder_noise": "frame"}, FrameNoise(0)),
    ],
)
def test_a_latent_is_decoded_from_the_noise_of_the_numerics_or_the_named_one(
    pipeline_of, diffusion_vae, options, noise
):
    numerics = options.get("numerics", Numerics.OFFICIAL)
    frames = frames_of(pipeline_of(**options).decode_video(LATENT))
    torch.testing.assert_close(frames, decoded(diffusion_vae, LATENT, noise, numerics), **EXACT)


@pytest.mark.parametrize("numerics", [Numerics.COMFY, Numerics.COMFY_033])
def test_comfy_numerics_cut_windows_where_official_ones_pad_the_latent(diffusion_vae, numerics):
    latent = LATENT[:, :, :1, :2, :3]
    official = decoded(diffusion_vae, latent, VolumeNoise(0))
    assert (decoded(diffusion_vae, latent, VolumeNoise(0), numerics) - official).abs().max() > 0.1


def test_latents_in_pieces_have_noise_frame_by_frame(pipeline_of, diffusion_vae):
    frames = frames_of(pipeline_of(numerics=Numerics.COMFY_033).decode_video(LATENT.split(2, dim=2)))
    expected = decoded(diffusion_vae, LATENT, FrameNoise(0), Numerics.COMFY_033)
    torch.testing.assert_close(frames, expected, **EXACT)


def test_official_noise_goes_on_where_the_noise_of_the_run_ends(pipeline_of, diffusion_vae, tmp_path):
    pipe = pipeline_of(decoder_noise="official")
    made = pipe("a red circle", width=160, height=96, num_frames=9, steps=1, cfg=1.0, seed=5)
    generator = torch.Generator().manual_seed(5)
    make_noise(made.latents, generator)
    expected = decoded(diffusion_vae, made.latents.video, VolumeNoise(start=generator))
    torch.testing.assert_close(frames_of(made.frames()), expected, **EXACT)
    assert made.settings()["decoder_noise"] == "official"
    again = resume(save_latents(made, tmp_path / "x.mp4", folder=tmp_path), pipe)
    torch.testing.assert_close(frames_of(again.frames()), expected, **EXACT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decoder_seed": 7}, "decoder_seed=7 is for the diffusion decoder"),
        ({"decoder_noise": "comfy"}, "decoder_noise=comfy is for the diffusion decoder"),
        ({"decoder_noise": "official", "decoder_seed": 7}, "decoder_seed=7 has no effect with decoder_noise"),
        ({"decoder_noise": "official "}, "decoder_noise='official '.* must be one of"),
    ],
)
def test_noise_that_the_decoder_does_not_use_is_refused(tiny_set, options, message):
    with pytest.raises(ValueError, match=message):
        LTX2Pipeline(tiny_set.checkpoint, device="cpu", **options)


def test_official_noise_needs_a_run(pipeline_of):
    with pytest.raises(ValueError, match="these latents are of no run"):
        next(pipeline_of(decoder_noise="official").decode_video(LATENT))


@pytest.mark.parametrize(
    ("written", "recorded", "expected"),
    [
        ({}, {}, (0, "auto")),
        ({}, {"decoder_seed": 7, "decoder_noise": "frame"}, (7, "frame")),
        ({"decoder_seed": 3}, {"decoder_seed": 7}, (3, "auto")),
        ({"decoder_noise": "comfy"}, {"decoder_seed": 7, "decoder_noise": "frame"}, (7, "comfy")),
    ],
)
def test_a_repeated_clip_has_the_recorded_noise_unless_another_is_named(written, recorded, expected):
    execution = execution_of(Chosen("generate", written), recorded=recorded)
    assert (execution.decoder_seed, execution.decoder_noise) == expected
