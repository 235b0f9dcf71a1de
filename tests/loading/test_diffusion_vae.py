"""The diffusion video VAE loads from every layout to the same network, and says what does not fit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.config import video_vae_config
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.convert import convert, single_parts
from ltx2_core.loading.describe import describe
from ltx2_core.loading.file_set import check_sources
from ltx2_core.loading.save_diffusers import WEIGHTS, save_diffusers
from ltx2_core.tiny.write import write_tiny_set
from ltx2_core.video_vae import DiffusionVideoDecoder


def _rewritten(path: Path, target: Path, change, metadata=None) -> Path:
    config = open_checkpoint(path).metadata["config"]
    known = {"config": json.dumps(config), "model_version": "2.5.0"} if metadata is None else metadata
    save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, target, metadata=known)
    return target


def _prefixed(tensors):
    return {f"vae.{name}": tensor for name, tensor in tensors.items()}


def _with_unused(tensors):
    extra = {"decoder.type_emb": torch.zeros(16), "decoder.coarse_head.weight": torch.zeros(2, 2)}
    return {**tensors, **extra}


def _divided_by_gates(tensors):
    """A file whose gates are 2: the layers that they are multiplied into are half as large."""
    halved = dict(tensors)
    for name in tensors:
        if m := re.match(r"(decoder\.diff_blocks\.\d+\.)(attn\.proj|mlp\.w_down|context_proj)\.", name):
            gate = {"attn.proj": "gate_msa", "mlp.w_down": "gate_mlp", "context_proj": "gate_ctx"}[m[2]]
            halved[name] = tensors[name] / 2
            halved[f"{m[1]}{gate}"] = torch.full(tensors[name].shape[:1], 2.0)
    return halved


LAYOUTS = {"prefixed": _prefixed, "unused tensors": _with_unused, "static gates": _divided_by_gates}


def equal(path: Path, diffusion_vae: Path) -> bool:
    one, other = (
        open_checkpoint(p).load(Component.VIDEO_DECODER, dtype=torch.float32) for p in (path, diffusion_vae)
    )
    assert isinstance(one, DiffusionVideoDecoder)
    known = other.state_dict()
    return all(torch.equal(tensor, known[name]) for name, tensor in one.state_dict().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_decoder(diffusion_vae, tmp_path, layout):
    assert equal(_rewritten(diffusion_vae, tmp_path / "x.safetensors", LAYOUTS[layout]), diffusion_vae)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_convert_writes_the_official_layout(diffusion_vae, tmp_path, layout):
    source = open_checkpoint(_rewritten(diffusion_vae, tmp_path / "x.safetensors", LAYOUTS[layout]))
    convert(tmp_path / "out.safetensors", [source], single_parts([source]), fp8=False)
    assert equal(tmp_path / "out.safetensors", diffusion_vae)
    assert not any("gate_" in n or "type_emb" in n for n in load_file(tmp_path / "out.safetensors"))


def _diffusers_name(name: str) -> str:
    name = name.replace(".attn.proj.", ".attn.to_out.0.")
    name = name.replace(".q_norm.", ".norm_q.").replace(".k_norm.", ".norm_k.")
    name = re.sub(
        r"t_embedder\.mlp\.([02])",
        lambda m: f"t_embedder.timestep_embedder.linear_{1 + int(m[1]) // 2}",
        name,
    )
    names = {"mean-of-means": "latents_mean", "std-of-means": "latents_std"}
    return names.get(name.removeprefix("per_channel_statistics."), name)


def _diffusers_folder(diffusion_vae: Path, folder: Path) -> Path:
    tensors = {}
    for name, tensor in load_file(diffusion_vae).items():
        if name.startswith("encoder."):
            continue
        if ".qkv." in name:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                tensors[name.replace(".qkv.", f".to_{part}.")] = rows.contiguous()
        else:
            tensors[_diffusers_name(name)] = tensor
    c = open_checkpoint(diffusion_vae).config["vae"]["decoder"]
    config = {
        "_class_name": "LTX2VideoDiffusionDecoderModel",
        "latent_channels": c["in_channels"],
        "decoder_head_dim": c["head_dim"],
        "decoder_stage_channels": c["stage_channels"],
        "decoder_stage_depths": c["stage_depths"],
        "decoder_stage_kernels": c["stage_kernels"][:4],
        "decoder_upsample_strides": [strides for strides, _ in c["upsamples"]],
        "decoder_upsample_channel_reductions": [reduction for _, reduction in c["upsamples"]],
        "decoder_stage5_kernel": c["stage5_kernel"],
        "decoder_t_emb_dim": c["t_emb_dim"],
    }
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    return folder


def test_a_diffusers_folder_gives_the_same_decoder(diffusion_vae, tmp_path):
    folder = _diffusers_folder(diffusion_vae, tmp_path / "diffusion_decoder")
    assert equal(folder, diffusion_vae)
    source = open_checkpoint(folder)
    convert(tmp_path / "out.safetensors", [source], single_parts([source]), fp8=False)
    assert equal(tmp_path / "out.safetensors", diffusion_vae)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_diffusers_folder_has_both_decoders(diffusion_vae, tiny_set, tmp_path, layout):
    source = _rewritten(diffusion_vae, tmp_path / "x.safetensors", LAYOUTS[layout])
    folder = tmp_path / "folder"
    parts = save_diffusers(folder, [open_checkpoint(tiny_set.checkpoint), open_checkpoint(source)])
    assert {"vae", "diffusion_decoder"} <= set(parts)
    names = set(load_file(folder / "diffusion_decoder" / "diffusion_pytorch_model.safetensors"))
    assert names == {*load_file(_diffusers_folder(diffusion_vae, tmp_path / "by hand") / WEIGHTS)}
    assert equal(folder / "diffusion_decoder", diffusion_vae)
    assert equal(folder, diffusion_vae)
    with pytest.raises(ValueError, match="also holds the convolutional video decoder: add its file"):
        save_diffusers(tmp_path / "other", [open_checkpoint(source)])


@pytest.mark.parametrize(
    ("order", "both_decoders", "refused"),
    [
        (("whole", "diffusion"), True, None),
        (("diffusion", "whole"), True, None),
        (("whole", "diffusion"), False, "diffusion"),
        (("diffusion", "whole"), False, None),
        (("whole", "diffusion", "diffusion"), True, "diffusion"),
        (("whole", "diffusion", "whole"), True, "whole"),
    ],
)
def test_a_second_video_decoder_adds_something_to_a_diffusers_pipeline_alone(
    diffusion_vae, tiny_set, order, both_decoders, refused
):
    paths = {"whole": tiny_set.checkpoint, "diffusion": diffusion_vae}
    files = [open_checkpoint(paths[name]) for name in order]
    if refused is None:
        check_sources(files, both_decoders=both_decoders)
        return
    with pytest.raises(ValueError, match="adds nothing") as raised:
        check_sources(files, both_decoders=both_decoders)
    assert str(raised.value).startswith(str(paths[refused]))


def test_tensors_tell_the_decoder_whatever_the_header_calls_it(diffusion_vae, tmp_path):
    config = json.loads(json.dumps(open_checkpoint(diffusion_vae).metadata["config"]))
    config["vae"].pop("_class_name")
    named = _rewritten(diffusion_vae, tmp_path / "x.safetensors", dict, {"config": json.dumps(config)})
    assert equal(named, diffusion_vae)
    assert open_checkpoint(named).generation == "2.5"


def test_it_is_described_and_refused_with_a_model_of_another_generation(diffusion_vae, tiny_set, tmp_path):
    report = describe(diffusion_vae)
    assert [part["name"] for part in report["components"]] == ["video encoder", "video decoder"]
    assert all(part["problem"] is None for part in report["components"])
    old = write_tiny_set(tmp_path, generation="2.0")
    with pytest.raises(ValueError, match=r"two generations: .*LTX-2\.0.*LTX-2\.5"):
        LTX2Pipeline(old.checkpoint, video_decoder=diffusion_vae, device="cpu")
    with pytest.raises(ValueError, match="has no video decoder"):
        LTX2Pipeline(tiny_set.checkpoint, video_decoder=tiny_set.upsampler, device="cpu")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage_kernels", [[2, 7, 7]] * 4),
        ("stage5_kernel", [11, 11]),
        ("head_dim", 8),
        ("stage_channels", [2048, 1000, 512, 512, 256]),
        ("upsamples", [[[3, 1, 1], 2]] * 4),
        ("default_num_inference_steps", 0),
        ("_class_name", "AnotherDecoder"),
        ("resampler_kind", "conv"),
    ],
)
def test_settings_that_are_not_supported_are_named(key, value):
    with pytest.raises(ValueError, match=key):
        video_vae_config({"vae": {"_class_name": "CausalDiffusionVAE", "decoder": {key: value}}})


def test_frames_of_a_pipeline_are_those_of_the_decoder(diffusion_vae, tiny_set):
    pipe = LTX2Pipeline(tiny_set.checkpoint, video_decoder=diffusion_vae, device="cpu")
    latent = torch.randn(1, 128, 3, 3, 5, generator=torch.Generator().manual_seed(1))
    frames = torch.cat(list(pipe.decode_video(latent)))
    with torch.inference_mode():
        expected = open_checkpoint(diffusion_vae).load(Component.VIDEO_DECODER).decode(latent)
    torch.testing.assert_close(frames, expected[0].transpose(0, 1), atol=1e-5, rtol=1e-5)
