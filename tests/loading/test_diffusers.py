"""Models saved by diffusers load here and compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from ltx2_core.cli.main import main
from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.rename import table_for
from ltx2_core.transformer import Modality

diffusers = pytest.importorskip("diffusers")
if not hasattr(diffusers, "LTX2VideoTransformer3DModel"):
    pytest.skip("this release of diffusers has no LTX-2", allow_module_level=True)

TRANSFORMER = {
    "num_attention_heads": 4,
    "attention_head_dim": 16,
    "cross_attention_dim": 64,
    "audio_num_attention_heads": 4,
    "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 32,
    "num_layers": 2,
    "caption_channels": 48,
    "rope_type": "split",
}
LATE = {
    "gated_attn": True,
    "audio_gated_attn": True,
    "cross_attn_mod": True,
    "audio_cross_attn_mod": True,
    "use_prompt_embeddings": False,
}
GENERATIONS = {
    "2.0": {},
    "2.3": LATE,
    "2.5": {**LATE, "ff_bias": False, "use_keyframes_abs_pos_embedding": True},
}


def random_model(kind: type, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    model = kind(**options)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.endswith(("filter", "basis")):
                fan = tensor[0].numel() if tensor.ndim > 1 else 16
                tensor.normal_(std=fan**-0.5)
            if name.endswith(("norm_q.weight", "norm_k.weight", "latents_std")):
                tensor.abs_().add_(0.5)
    return model.eval()


def streams(text: tuple[int, int]) -> tuple[Modality, Modality]:
    generator, sigma = torch.Generator().manual_seed(1), torch.tensor([0.7])

    def stream(positions: Tensor, width: int) -> Modality:
        return Modality(
            tokens=torch.randn(1, positions.shape[2], 128, generator=generator),
            timesteps=sigma[:, None],
            sigma=sigma,
            positions=positions,
            context=torch.randn(1, 5, width, generator=generator),
        )

    return stream(video_positions(2, 2, 3, 24.0), text[0]), stream(audio_positions(4), text[1])


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("shards", ["one file", "shards"])
def test_a_saved_transformer_gives_the_same_velocity(generation, shards, tmp_path):
    options = {**TRANSFORMER, **GENERATIONS[generation]}
    try:
        theirs = random_model(diffusers.LTX2VideoTransformer3DModel, **options)
    except TypeError:
        pytest.skip(f"this release of diffusers has no LTX-{generation}")
    folder = tmp_path / "transformer"
    theirs.save_pretrained(folder, max_shard_size="300KB" if shards == "shards" else "1GB")
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards == "shards")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.generation == generation
    ours = checkpoint.load(Component.TRANSFORMER)
    video, audio = streams((48, 48) if generation == "2.0" else (64, 32))
    with torch.no_grad():
        expected = theirs(
            hidden_states=video.tokens,
            audio_hidden_states=audio.tokens,
            encoder_hidden_states=video.context,
            audio_encoder_hidden_states=audio.context,
            timestep=video.timesteps[:, 0] * 1000,
            audio_timestep=audio.timesteps[:, 0] * 1000,
            sigma=video.sigma * 1000,
            audio_sigma=audio.sigma * 1000,
            video_coords=video.positions,
            audio_coords=audio.positions,
            return_dict=False,
        )
        for a, b in zip(ours(video, audio), expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("late", [False, True], ids=["2.0", "2.3"])
def test_saved_connectors_give_the_same_context(late, tmp_path):
    from diffusers.pipelines.ltx2.connectors import LTX2TextConnectors

    sizes = {"num_attention_heads": 4, "attention_head_dim": 12, "num_layers": 1}
    options = {f"video_connector_{key}": value for key, value in sizes.items()}
    options |= {f"audio_connector_{key}": value for key, value in sizes.items()}
    options |= {"caption_channels": 48, "text_proj_in_factor": 5, "rope_type": "split"}
    if late:
        options |= {"audio_connector_attention_head_dim": 8, "video_gated_attn": True}
        options |= {"audio_gated_attn": True, "per_modality_projections": True, "proj_bias": True}
        options |= {"video_hidden_dim": 48, "audio_hidden_dim": 32}
    theirs = random_model(LTX2TextConnectors, **options)
    theirs.save_pretrained(tmp_path / "connectors")
    checkpoint = open_checkpoint(tmp_path / "connectors")
    assert checkpoint.components == {Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION}
    projection, connectors = (
        checkpoint.load(c) for c in (Component.TEXT_PROJECTION, Component.TEXT_CONNECTORS)
    )
    mask = torch.zeros(1, 128).long()
    mask[:, -7:] = 1
    states = torch.randn(1, 128, 48, 5)
    with torch.no_grad():
        video, audio, *_ = theirs(states, mask)
        ours = connectors(projection(states.unbind(-1), mask), length=128)
    torch.testing.assert_close(ours.video, video, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ours.audio, audio, atol=1e-5, rtol=1e-4)


VAE_LATE = {
    "latent_channels": 8,
    "block_out_channels": (16, 32, 64, 64),
    "layers_per_block": (1, 2, 1, 1, 1),
    "decoder_block_out_channels": (16, 32, 32, 64),
    "decoder_layers_per_block": (1, 2, 1, 1, 1),
    "upsample_factor": (2, 2, 1, 2),
    "upsample_type": ("spatiotemporal", "spatiotemporal", "temporal", "spatial"),
    "upsample_residual": (False,) * 4,
    "decoder_spatio_temporal_scaling": (True,) * 4,
    "decoder_inject_noise": (False,) * 5,
    "decoder_spatial_padding_mode": "zeros",
    "decoder_causal": False,
}
VAE_OLD = {
    "latent_channels": 8,
    "block_out_channels": (16, 32, 64, 128),
    "layers_per_block": (1, 2, 1, 1, 1),
    "decoder_block_out_channels": (16, 32, 64),
    "decoder_layers_per_block": (1, 2, 1, 1),
    "decoder_causal": False,
}


@pytest.mark.parametrize("options", [VAE_OLD, VAE_LATE], ids=["2.0", "2.3"])
def test_a_saved_video_vae_encodes_and_decodes_the_same(options, tmp_path):
    theirs = random_model(diffusers.AutoencoderKLLTX2Video, **options)
    theirs.save_pretrained(tmp_path / "vae")
    checkpoint = open_checkpoint(tmp_path / "vae")
    encoder, decoder = (checkpoint.load(c) for c in (Component.VIDEO_ENCODER, Component.VIDEO_DECODER))
    mean, std = theirs.latents_mean[:, None, None, None], theirs.latents_std[:, None, None, None]
    video = torch.rand(1, 3, 9, 64, 64) * 2 - 1
    with torch.no_grad():
        latent = theirs.encode(video).latent_dist.mode()
        torch.testing.assert_close(encoder.encode(video), (latent - mean) / std, atol=1e-4, rtol=1e-4)
        expected = theirs.decode(latent, causal=False).sample
        frames = torch.cat(list(decoder.decode_stream((latent - mean) / std)), dim=2)
    torch.testing.assert_close(frames, expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("bwe", [False, True], ids=["2.0", "2.3"])
def test_a_saved_vocoder_holds_the_same_tensors(bwe, tmp_path):
    from diffusers.pipelines.ltx2.vocoder import LTX2Vocoder, LTX2VocoderWithBWE

    if bwe:
        theirs = random_model(LTX2VocoderWithBWE, hidden_channels=64, bwe_hidden_channels=32)
    else:
        theirs = random_model(LTX2Vocoder, hidden_channels=32)
    theirs.save_pretrained(tmp_path / "vocoder")
    checkpoint = open_checkpoint(tmp_path / "vocoder")
    assert checkpoint.generation == ("2.3" if bwe else "2.0")
    ours = checkpoint.load(Component.VOCODER)
    rename = table_for(type(theirs).__name__).rename
    expected = {rename(n).removeprefix("vocoder."): tensor for n, tensor in theirs.state_dict().items()}
    state = ours.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    mel = torch.randn(1, 2, 6, 64)
    with torch.no_grad():
        if not bwe:  # the two differ by a clamp in 2.3, which diffusers leaves out
            torch.testing.assert_close(ours(mel), theirs(mel), atol=1e-5, rtol=1e-4)


def test_a_saved_audio_vae_and_an_upsampler_load(tmp_path):
    from diffusers.pipelines.ltx2.latent_upsampler import LTX2LatentUpsamplerModel

    audio = random_model(diffusers.AutoencoderKLLTX2Audio, num_res_blocks=1)
    audio.save_pretrained(tmp_path / "audio_vae")
    upsampler = random_model(LTX2LatentUpsamplerModel, mid_channels=32, num_blocks_per_stage=1)
    upsampler.save_pretrained(tmp_path / "latent_upsampler")
    for component in (Component.AUDIO_ENCODER, Component.AUDIO_DECODER):
        open_checkpoint(tmp_path / "audio_vae").load(component)
    ours = open_checkpoint(tmp_path / "latent_upsampler").load(Component.UPSAMPLER)
    latent = torch.randn(1, 128, 2, 3, 4)
    with torch.no_grad():
        torch.testing.assert_close(ours(latent), upsampler(latent), atol=1e-4, rtol=1e-4)


def test_a_pipeline_folder_is_one_checkpoint_and_says_which_shard_is_missing(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "LTX2Pipeline"}))
    options = {**TRANSFORMER, **LATE}
    random_model(diffusers.LTX2VideoTransformer3DModel, **options).save_pretrained(
        tmp_path / "transformer", max_shard_size="300KB"
    )
    random_model(diffusers.AutoencoderKLLTX2Video, **VAE_LATE).save_pretrained(tmp_path / "vae")
    for path in (tmp_path, tmp_path / "model_index.json"):
        checkpoint = open_checkpoint(path)
        assert checkpoint.components == {
            Component.TRANSFORMER,
            Component.VIDEO_ENCODER,
            Component.VIDEO_DECODER,
        }
        checkpoint.load(Component.TRANSFORMER)
    shard = sorted((tmp_path / "transformer").glob("*-00002-*.safetensors"))[0]
    shard.unlink()
    with pytest.raises(ValueError, match=rf"index\.json names .*{shard.name} .*missing"):
        open_checkpoint(tmp_path)


def test_a_pipeline_of_diffusers_becomes_one_official_file(tmp_path, velocities):
    folder, target = tmp_path / "pipeline", tmp_path / "one.safetensors"
    options = {**TRANSFORMER, **LATE}
    random_model(diffusers.LTX2VideoTransformer3DModel, **options).save_pretrained(folder / "transformer")
    random_model(diffusers.AutoencoderKLLTX2Video, **VAE_LATE).save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text('{"_class_name": "LTX2Pipeline"}')
    assert CliRunner().invoke(main, ["convert", str(folder), str(target)]).exit_code == 0
    theirs, ours = open_checkpoint(folder), open_checkpoint(target)
    assert ours.generation == "2.3"
    assert ours.components == theirs.components
    for component in ours.components:
        before, after = (c.load(component).state_dict() for c in (theirs, ours))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    for a, b in zip(*(velocities(c.load(Component.TRANSFORMER)) for c in (theirs, ours)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ("[]", "must hold a JSON object"),
        ("{", "is not JSON"),
        ('{"_class_name": "UNet2DConditionModel"}', "holds a UNet2DConditionModel; known are LTX2Video"),
        ('{"_class_name": "AutoencoderKLLTX2Video"}', "is not a configuration of a AutoencoderKLLTX2Video"),
        ('{"_class_name": "LTX2Vocoder"}', "no .safetensors weights"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(config: str, what: str, tmp_path: Path):
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError, match=what):
        open_checkpoint(tmp_path)
