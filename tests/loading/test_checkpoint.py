"""Components are found by tensor names and loaded strictly."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.loading import Component, find_component, open_checkpoint
from ltx2_core.loading.convert import convert
from ltx2_core.types import Numerics

APART = (Component.UPSAMPLER, Component.LORA, Component.TEXT_ENCODER, Component.DURATION_HEAD)
PARTS = frozenset(Component) - frozenset(APART)
DIT = "model.diffusion_model."


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
def test_a_single_file_holds_every_part_and_each_loads_with_its_values(generation, tiny20, tiny23):
    path = (tiny20 if generation == "2.0" else tiny23).checkpoint
    checkpoint = open_checkpoint(path)
    assert checkpoint.components == PARTS
    assert checkpoint.generation == generation
    with safe_open(path, "pt") as file:
        for component in PARTS:
            network = checkpoint.load(component)
            assert not network.training
            state = network.state_dict()
            infos = checkpoint.infos(component)
            assert state.keys() == infos.keys()
            assert not any(p.requires_grad for p in network.parameters())
            for name, tensor in state.items():
                torch.testing.assert_close(tensor, file.get_tensor(infos[name].name), rtol=0, atol=0)


def test_loading_never_reads_tensors_of_other_components(tiny23, monkeypatch):
    from ltx2_core.storage import reading as module

    read = []

    class Spy:
        def __init__(self, path, **options):
            self.file = safe_open(path, **options)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def get_tensor(self, name):
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(module, "safe_open", Spy)
    checkpoint = open_checkpoint(tiny23.checkpoint)
    assert checkpoint.generation
    assert checkpoint.config
    assert not read
    checkpoint.load(Component.VOCODER)
    assert read
    assert all(name.startswith("vocoder.") for name in read)


def test_the_dtype_is_that_of_the_file_unless_one_is_passed(tiny23):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    unchanged = checkpoint.load(Component.VIDEO_ENCODER)
    cast = checkpoint.load(Component.VIDEO_ENCODER, dtype=torch.float32)
    assert {t.dtype for t in unchanged.state_dict().values()} == {torch.bfloat16}
    assert {t.dtype for t in cast.state_dict().values()} == {torch.float32}


def test_injected_layers_are_used(tiny23):
    class Linear(torch.nn.Linear):
        pass

    class Operations:
        def __getattr__(self, name):
            return Linear if name == "Linear" else getattr(torch.nn, name)

    network = open_checkpoint(tiny23.checkpoint).load(Component.TEXT_PROJECTION, operations=Operations())
    assert isinstance(network.video_aggregate_embed, Linear)


class LazyLinear(torch.nn.Linear):
    """Has no parameters until its state dict is loaded, like ComfyUI's layers when it streams weights."""

    def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features, self.weight, self.bias = in_features, out_features, None, None

    def _load_from_state_dict(self, state, prefix, *args):
        for name in ("weight", "bias"):
            if prefix + name in state:
                setattr(self, name, torch.nn.Parameter(state[prefix + name], requires_grad=False))


class LazyOperations:
    Linear = LazyLinear

    def __getattr__(self, name):
        return getattr(torch.nn, name)


@pytest.mark.parametrize("fp8", [False, True])
def test_layers_without_parameters_until_they_are_loaded_load_every_component(fp8, tiny23, tmp_path):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    if fp8:
        path = tmp_path / "fp8.safetensors"
        convert(path, [checkpoint], sorted(PARTS, key=str), fp8=True)
        checkpoint = open_checkpoint(path)
    for component in PARTS:
        plain, lazy = checkpoint.load(component), checkpoint.load(component, operations=LazyOperations())
        torch.testing.assert_close(lazy.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_comfy_numerics_change_the_query_key_epsilon_only(tiny23):
    checkpoint = open_checkpoint(tiny23.checkpoint)
    official = checkpoint.load(Component.TRANSFORMER).config
    comfy = checkpoint.load(Component.TRANSFORMER, numerics=Numerics.COMFY).config
    assert (official.qk_norm_eps, comfy.qk_norm_eps) == (1e-6, 1e-5)
    assert official.norm_eps == comfy.norm_eps


@pytest.mark.parametrize("prefix", ["", "model.", "diffusion_model.", "transformer.", DIT])
def test_a_transformer_file_loads_with_any_prefix(prefix, tiny23, repack, metadata23):
    def rename(name: str) -> str | None:
        own = name.removeprefix(DIT)
        return prefix + own if name.startswith(DIT) and "_connector." not in name else None

    checkpoint = open_checkpoint(
        repack(tiny23.checkpoint, rename, metadata=metadata23, name="odd name.safetensors")
    )
    assert checkpoint.components == {Component.TRANSFORMER}
    assert checkpoint.generation == "2.3"
    whole = open_checkpoint(tiny23.checkpoint).load(Component.TRANSFORMER).state_dict()
    for name, tensor in checkpoint.load(Component.TRANSFORMER).state_dict().items():
        assert torch.equal(tensor, whole[name])


SPLITS = {
    "connectors and projection": (
        lambda n: n if "_connector." in n or n.startswith("text_embedding_projection.") else None,
        {Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION},
    ),
    "bare projection": (
        lambda n: n.split(".", 1)[1] if n.startswith("text_embedding_projection.") else None,
        {Component.TEXT_PROJECTION},
    ),
    "bare video VAE": (
        lambda n: n[len("vae.") :] if n.startswith("vae.") else None,
        {Component.VIDEO_ENCODER, Component.VIDEO_DECODER},
    ),
    "video decoder": (
        lambda n: n if n.startswith(("vae.decoder", "vae.per")) else None,
        {Component.VIDEO_DECODER},
    ),
    "video encoder": (
        lambda n: n if n.startswith(("vae.encoder", "vae.per")) else None,
        {Component.VIDEO_ENCODER},
    ),
    "audio VAE and vocoder": (
        lambda n: n if n.startswith(("audio_vae.", "vocoder.")) else None,
        {Component.AUDIO_ENCODER, Component.AUDIO_DECODER, Component.VOCODER},
    ),
    "audio VAE as autoencoder": (
        lambda n: n.replace("audio_vae.", "autoencoder.") if n.startswith("audio_vae.") else None,
        {Component.AUDIO_ENCODER, Component.AUDIO_DECODER},
    ),
    "bare audio decoder": (
        lambda n: n[len("audio_vae.") :] if n.startswith(("audio_vae.decoder", "audio_vae.per")) else None,
        {Component.AUDIO_DECODER},
    ),
    "bare vocoder": (
        lambda n: n[len("vocoder.") :] if n.startswith("vocoder.") else None,
        {Component.VOCODER},
    ),
}


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize("split", SPLITS)
def test_split_files_are_recognised_and_load(split, generation, tiny20, tiny23, repack):
    source = (tiny20 if generation == "2.0" else tiny23).checkpoint
    rename, expected = SPLITS[split]
    metadata = {"config": json.dumps(open_checkpoint(source).config)}
    checkpoint = open_checkpoint(repack(source, rename, metadata=metadata))
    assert checkpoint.components == expected
    if "audio VAE as" not in split and split not in ("bare audio decoder", "video encoder"):
        assert checkpoint.generation == generation
    for component in expected:
        checkpoint.load(component)


def test_the_old_projection_without_its_inner_name_loads(tiny20, repack, metadata23):
    def rename(name: str) -> str | None:
        return "text_embedding_projection.weight" if name.endswith("aggregate_embed.weight") else None

    config = json.dumps(open_checkpoint(tiny20.checkpoint).config)
    checkpoint = open_checkpoint(repack(tiny20.checkpoint, rename, metadata={"config": config}))
    assert checkpoint.load(Component.TEXT_PROJECTION).aggregate_embed.weight.shape == (64, 320)


def test_statistics_that_nothing_uses_are_allowed(tiny23, tmp_path, metadata23):
    tensors = load_file(tiny23.checkpoint)
    tensors["vae.per_channel_statistics.mean-of-stds"] = torch.zeros(128)
    tensors["vae.per_channel_statistics.channel"] = torch.arange(128)
    save_file(tensors, tmp_path / "x.safetensors", metadata=metadata23)
    checkpoint = open_checkpoint(tmp_path / "x.safetensors")
    assert {*checkpoint.load(Component.VIDEO_DECODER).state_dict()} == {
        *checkpoint.infos(Component.VIDEO_DECODER)
    }


def test_a_missing_component_is_an_error_that_says_what_is_there_and_where_to_look(tiny23):
    upsampler = open_checkpoint(tiny23.upsampler)
    assert upsampler.components == {Component.UPSAMPLER}
    with pytest.raises(
        ValueError, match=r"has no vocoder; it holds latent upsampler\. The vocoder is usually in"
    ):
        upsampler.load(Component.VOCODER)
    files = [upsampler, open_checkpoint(tiny23.checkpoint)]
    assert find_component(files, Component.VOCODER) is files[1]
    with pytest.raises(ValueError, match="no vocoder in these files"):
        find_component([upsampler, upsampler], Component.VOCODER)


def _changed(source, change, path, metadata):
    tensors = load_file(source)
    change(tensors)
    save_file(tensors, path, metadata=metadata)
    return open_checkpoint(path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t.pop("vae.decoder.conv_out.conv.bias"), "1 missing: decoder.conv_out.conv.bias"),
        (lambda t: t.update({"vae.decoder.extra": torch.zeros(1)}), "1 unexpected: decoder.extra"),
        (
            lambda t: t.update({"vae.decoder.conv_out.conv.bias": torch.zeros(47)}),
            r"file \(47,\), configuration",
        ),
        (
            lambda t: t.update({"vae.decoder.conv_out.conv.bias": torch.zeros(48, dtype=torch.int32)}),
            r"1 not floating point: decoder.conv_out.conv.bias \(I32\)",
        ),
    ],
)
def test_a_component_that_does_not_fit_is_refused_before_any_tensor_is_read(
    change, what, tiny23, tmp_path, metadata23, monkeypatch
):
    from ltx2_core.storage import reading as module

    checkpoint = _changed(tiny23.checkpoint, change, tmp_path / "x.safetensors", metadata23)
    monkeypatch.setattr(module, "safe_open", None)
    with pytest.raises(ValueError, match=what):
        checkpoint.load(Component.VIDEO_DECODER)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t, x: t.update({f"{x}.weight": t[f"{x}.weight"].to(torch.int8)}), "without a marker"),
        (
            lambda t, x: (t.pop(f"{x}.weight"), t.update({f"{x}.weight_scale": torch.ones(())})),
            r"to_q\.weight is missing",
        ),
        (lambda t, x: t.update({f"{x}.comfy_quant": torch.zeros(4, dtype=torch.uint8)}), "is not JSON"),
    ],
)
def test_quantised_layers_that_cannot_be_read_are_refused_by_name(change, what, tiny23, tmp_path, metadata23):
    layer = f"{DIT}transformer_blocks.0.attn1.to_q"
    checkpoint = _changed(
        tiny23.checkpoint, lambda t: change(t, layer), tmp_path / "x.safetensors", metadata23
    )
    with pytest.raises(ValueError, match=rf"transformer of .*x\.safetensors: .*attn1\.to_q.*{what}"):
        checkpoint.load(Component.TRANSFORMER)
    checkpoint.load(Component.VOCODER)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (
            [f"{DIT}adaln_single.emb.timestep_embedder.linear_1.bias", "vae.decoder.conv_in.conv.weight"],
            "without audio",
        ),
        (["model.diffusion_model.input_blocks.0.0.weight"], "Stable Diffusion"),
        (["double_blocks.0.img_attn.qkv.weight"], "Flux"),
        (["something.weight"], "1 tensors such as something.weight"),
        ([], "no tensors"),
    ],
)
def test_foreign_files_are_named_for_what_they_are(names, what, tmp_path):
    save_file({name: torch.zeros(4) for name in names}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=rf"x\.safetensors is not an LTX-2 file: found .*{what}"):
        open_checkpoint(tmp_path / "x.safetensors")


def test_an_ltx_video_file_is_refused_although_its_video_vae_looks_alike(tiny23, repack):
    path = repack(tiny23.checkpoint, lambda n: n if n.startswith(("vae.", f"{DIT}adaln_single")) else None)
    with pytest.raises(ValueError, match="LTX-Video"):
        open_checkpoint(path)


def test_a_config_that_contradicts_the_tensors_names_both_shapes(tiny23, repack, metadata23):
    config = json.loads(metadata23["config"])
    config["transformer"]["num_layers"] = 3
    path = repack(tiny23.checkpoint, lambda n: n, metadata={"config": json.dumps(config)})
    with pytest.raises(ValueError, match=r"missing: transformer_blocks\.2"):
        open_checkpoint(path).load(Component.TRANSFORMER)


def test_a_config_value_that_is_not_supported_names_file_and_key(tiny23, repack, metadata23):
    config = json.loads(metadata23["config"])
    config["vae"]["norm_layer"] = "group_norm"
    path = repack(tiny23.checkpoint, lambda n: n, metadata={"config": json.dumps(config)})
    with pytest.raises(ValueError, match=r"video decoder of .*repacked.safetensors: config key 'norm_layer'"):
        open_checkpoint(path).load(Component.VIDEO_DECODER)


def test_a_header_of_the_diffusion_vae_over_tensors_of_another_is_refused(tiny23, repack, metadata23):
    config = json.loads(metadata23["config"])
    config["vae"] = {"_class_name": "CausalDiffusionVAE", "encoder": {}, "decoder": {}}

    def rename(name: str) -> str | None:
        return name if name.startswith("vae.") else None

    path = repack(tiny23.checkpoint, rename, metadata={"config": json.dumps(config)})
    with pytest.raises(ValueError, match=r"repacked.*its tensors are of another"):
        open_checkpoint(path).load(Component.VIDEO_DECODER)


def test_a_config_that_is_not_an_object_is_refused(tiny23, repack):
    path = repack(tiny23.checkpoint, lambda n: n, metadata={"config": "[1]"})
    with pytest.raises(ValueError, match="metadata 'config' must be a JSON object"):
        open_checkpoint(path).load(Component.VOCODER)
