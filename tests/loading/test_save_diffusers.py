"""A checkpoint as a diffusers folder: read back equal, and refused where diffusers cannot express it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.save_diffusers import save_diffusers
from ltx2_core.tiny.settings import tiny_config

SMALL = {"width": 128, "height": 128, "num_frames": 9, "fps": 8.0, "steps": 1, "stages": 2, "seed": 3}


@pytest.fixture(params=["2.0", "2.3"])
def tiny(request, tiny20, tiny23):
    return tiny20 if request.param == "2.0" else tiny23


def test_a_saved_folder_gives_the_same_clip_bit_for_bit(tiny, tmp_path):
    files = {"text_encoder": tiny.text_encoder, "upscaler": tiny.upsampler}
    pipeline = LTX2Pipeline(tiny.checkpoint, **files, device="cpu", dtype=torch.float32)
    pipeline.save_diffusers(tmp_path / "folder")
    again = LTX2Pipeline(tmp_path / "folder", device="cpu", dtype=torch.float32)
    one, other = (p("a ball", **SMALL) for p in (pipeline, again))
    assert torch.equal(one.latents.video, other.latents.video)
    assert torch.equal(one.latents.audio, other.latents.audio)
    assert (one.array() == other.array()).all()
    assert torch.equal(one.audio()[0], other.audio()[0])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_saved_video_vae_states_how_much_it_compresses(tiny, tmp_path):
    save_diffusers(tmp_path / "folder", [open_checkpoint(tiny.checkpoint)])
    config = json.loads((tmp_path / "folder" / "vae" / "config.json").read_text())
    # Diffusers computes 64 from the four levels of LTX-2.3, of which one is of time and one of space alone.
    assert (config["spatial_compression_ratio"], config["temporal_compression_ratio"]) == (32, 8)


def test_every_tensor_has_the_name_of_diffusers(tiny, tmp_path):
    save_diffusers(tmp_path / "folder", [open_checkpoint(tiny.checkpoint)])
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["transformer"] == ["diffusers", "LTX2VideoTransformer3DModel"]
    assert "text_encoder" not in index
    names = {
        folder: set(load_file(tmp_path / "folder" / folder / "diffusion_pytorch_model.safetensors"))
        for folder in ("transformer", "connectors", "vae", "audio_vae", "vocoder")
    }
    assert "time_embed.emb.timestep_embedder.linear_1.weight" in names["transformer"]
    assert "transformer_blocks.0.attn1.norm_q.weight" in names["transformer"]
    assert any("text_proj_in" in name for name in names["connectors"])
    assert {"latents_mean", "latents_std"} <= names["vae"] & names["audio_vae"]
    assert any(name.startswith("encoder.mid_block.resnets.0.") for name in names["vae"])
    assert any(name.startswith("decoder.up_blocks.0.upsamplers.0.") for name in names["vae"])
    assert any("conv_in." in name for name in names["vocoder"])
    official = (
        "patchify",
        "adaln_single",
        "q_norm",
        "aggregate",
        "per_channel",
        "res_blocks",
        "ups.",
        "conv_pre",
    )
    assert not [name for held in names.values() for name in held if name.startswith(official)]


@pytest.mark.parametrize(
    ("generation", "channels", "factors"),
    [("2.0", [8, 16, 32], [2, 2, 2]), ("2.3", [8, 16, 16, 32], [2, 2, 1, 2])],
)
def test_the_widths_of_the_decoder_are_those_that_diffusers_counts(
    generation, channels, factors, tiny20, tiny23, tmp_path
):
    tiny = {"2.0": tiny20, "2.3": tiny23}[generation]
    save_diffusers(tmp_path / "folder", [open_checkpoint(tiny.checkpoint)])
    config = json.loads((tmp_path / "folder" / "vae" / "config.json").read_text())
    assert (config["decoder_block_out_channels"], config["upsample_factor"]) == (channels, factors)


def test_the_command_writes_a_folder_that_inspect_and_convert_read(tiny, tmp_path):
    folder, back = tmp_path / "folder", tmp_path / "back.safetensors"
    words = ["convert", str(tiny.checkpoint), str(folder), "--to", "diffusers"]
    ran = CliRunner().invoke(main, [*words, "--text-encoder", str(tiny.text_encoder)])
    assert ran.exit_code == 0, ran.output
    assert "diffusers pipeline" in CliRunner().invoke(main, ["inspect", str(folder)]).output
    assert CliRunner().invoke(main, ["convert", str(folder), str(back)]).exit_code == 0
    one, other = open_checkpoint(tiny.checkpoint), open_checkpoint(back)
    for component in one.components:
        assert one.shapes(component) == other.shapes(component)
    assert CliRunner().invoke(main, words).exit_code == 2, "the folder is not empty"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("gemma3", "Gemma3ForConditionalGeneration"),
        ("gemma3_text", "Gemma3ForCausalLM"),
        ("gemma4", "Gemma4ForConditionalGeneration"),
        ("gemma4_text", "Gemma4ForCausalLM"),
        ("gemma4_unified", "Gemma4UnifiedForConditionalGeneration"),
        ("gemma4_unified_text", "Gemma4UnifiedForCausalLM"),
    ],
)
def test_the_index_names_the_class_of_the_text_encoder(tiny23, kind, name, tmp_path):
    encoder = tmp_path / "encoder"
    shutil.copytree(tiny23.text_encoder, encoder)
    file = encoder / "config.json"
    config = json.loads(file.read_text())
    text = {} if kind.endswith("_text") else {"text_config": config}
    file.write_text(json.dumps({**config, **text, "model_type": kind}))
    save_diffusers(tmp_path / "folder", [open_checkpoint(tiny23.checkpoint)], encoder)
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["text_encoder"] == ["transformers", name]
    transformers = pytest.importorskip("transformers")
    assert kind.startswith("gemma4") or hasattr(transformers, name)


def test_quantised_and_half_models_are_refused_and_leave_nothing(tiny23, tmp_path):
    quantised, half = tmp_path / "fp8.safetensors", tmp_path / "half.safetensors"
    assert (
        CliRunner().invoke(main, ["convert", str(tiny23.checkpoint), str(quantised), "--fp8"]).exit_code == 0
    )
    checkpoint, tensors = open_checkpoint(tiny23.checkpoint), load_file(tiny23.checkpoint)
    names = [info.name for info in checkpoint.infos(Component.VIDEO_DECODER).values()]
    save_file({name: tensors[name] for name in names}, half, {"config": json.dumps(tiny_config("2.3"))})
    for path, message in ((quantised, "quantised weights"), (half, "also holds the video encoder")):
        with pytest.raises(ValueError, match=message):
            save_diffusers(tmp_path / "folder", [open_checkpoint(path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fp8.safetensors", "half.safetensors"]
