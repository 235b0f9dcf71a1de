"""Diffusers folders of LTX-Video load as the single files do, and compute what diffusers computes."""

from __future__ import annotations

import json

import pytest
import torch

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.video_vae import NoisyDecoding

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "AutoencoderKLLTXVideo"):
    pytest.skip("this diffusers has no LTX-Video", allow_module_level=True)

SMALL = {"in_channels": 3, "out_channels": 3, "latent_channels": 128, "patch_size": 4}
OLD = {
    "block_out_channels": (4, 8, 16, 16),
    "down_block_types": ("LTXVideoDownBlock3D",) * 4,
    "layers_per_block": (1, 1, 1, 1, 1),
    "spatio_temporal_scaling": (True, True, True, False),
    "downsample_type": ("conv",) * 4,
}
NEW_DECODER = {
    "decoder_block_out_channels": (8, 16, 32),
    "decoder_spatio_temporal_scaling": (True, True, True),
    "upsample_residual": (True, True, True),
    "upsample_factor": (2, 2, 2),
    "timestep_conditioning": True,
}
VAES = {
    "A": {
        **OLD,
        "decoder_block_out_channels": (4, 8, 16, 16),
        "decoder_layers_per_block": (1, 1, 1, 1, 1),
        "decoder_spatio_temporal_scaling": (True, True, True, False),
        "decoder_inject_noise": (False,) * 5,
        "upsample_residual": (False,) * 4,
        "upsample_factor": (1,) * 4,
        "timestep_conditioning": False,
    },
    "B": {
        **OLD,
        **NEW_DECODER,
        "decoder_layers_per_block": (1, 2, 1, 1),
        "decoder_inject_noise": (True, True, True, False),
    },
    "C": {
        **NEW_DECODER,
        "block_out_channels": (8, 16, 32, 64, 128),
        "down_block_types": ("LTXVideo095DownBlock3D",) * 4,
        "layers_per_block": (1, 1, 1, 1, 1),
        "spatio_temporal_scaling": (True,) * 4,
        "downsample_type": ("spatial", "temporal", "spatiotemporal", "spatiotemporal"),
        "decoder_layers_per_block": (1, 1, 1, 1),
        "decoder_inject_noise": (False,) * 4,
    },
}
SEED = 5


@pytest.fixture(params=VAES)
def vae(request):
    torch.manual_seed(SEED)
    made = diffusers.AutoencoderKLLTXVideo(
        **SMALL, **VAES[request.param], encoder_causal=True, decoder_causal=False
    )
    return request.param, made.eval().requires_grad_(False)


def test_a_video_vae_encodes_and_decodes_as_diffusers_does(vae, tmp_path):
    kind, theirs = vae
    theirs.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.generation == "0.9"
    encoder, decoder = (checkpoint.load(part) for part in (Component.VIDEO_ENCODER, Component.VIDEO_DECODER))
    frames, latent = torch.randn(1, 3, 9, 64, 64), torch.randn(1, 128, 2, 2, 2)
    with torch.inference_mode():
        torch.testing.assert_close(
            encoder.encode(frames), theirs.encode(frames).latent_dist.mode(), atol=1e-4, rtol=0
        )
        # Its noise is random; a scale of 0 compares the rest.
        for name, parameter in [*theirs.named_parameters(), *decoder.named_parameters()]:
            if "per_channel_scale" in name:
                parameter.zero_()
        decoder.noisy = NoisyDecoding(None if kind == "A" else 0.05)
        expected = theirs.decode(latent, None if kind == "A" else torch.tensor([0.05])).sample
        torch.testing.assert_close(decoder.decode(latent), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("kind", "causal"), [("A", False), ("C", True)])
def test_positions_follow_the_vae_of_the_folder(kind, causal, tmp_path):
    diffusers.AutoencoderKLLTXVideo(**SMALL, **VAES[kind]).save_pretrained(tmp_path / "vae")
    options = {"num_attention_heads": 4, "attention_head_dim": 16, "cross_attention_dim": 64, "num_layers": 2}
    diffusers.LTXVideoTransformer3DModel(**options, caption_channels=32).save_pretrained(
        tmp_path / "transformer"
    )
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LTXPipeline"}))
    checkpoint = open_checkpoint(tmp_path)
    network = checkpoint.load(Component.TRANSFORMER)
    assert network.config.causal_time is causal
    assert not network.config.has_audio
