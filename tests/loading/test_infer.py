"""Without metadata the configuration is reconstructed from names and shapes."""

from __future__ import annotations

import json

import pytest
import torch

from ltx2_core import config as cfg
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.components import build
from ltx2_core.loading.infer import infer_config, infer_generation, infer_upsampler
from ltx2_core.types import Numerics

RELEASED = {
    "2.0": {
        "transformer": {},
        "vocoder": {},
    },
    "2.3": {
        "transformer": {
            "apply_gated_attention": True,
            "cross_attention_adaln": True,
            "caption_proj_before_connector": True,
            "connector_apply_gated_attention": True,
            "audio_connector_attention_head_dim": 64,
        },
        "vae": {
            "spatial_padding_mode": "zeros",
            "encoder_blocks": [
                ["res_x", {"num_layers": 4}],
                ["compress_space_res", {"multiplier": 2}],
                ["res_x", {"num_layers": 6}],
                ["compress_time_res", {"multiplier": 2}],
                ["res_x", {"num_layers": 4}],
                ["compress_all_res", {"multiplier": 2}],
                ["res_x", {"num_layers": 2}],
                ["compress_all_res", {"multiplier": 1}],
                ["res_x", {"num_layers": 2}],
            ],
            "decoder_blocks": [
                ["res_x", {"num_layers": 4}],
                ["compress_space", {"multiplier": 2}],
                ["res_x", {"num_layers": 6}],
                ["compress_time", {"multiplier": 2}],
                ["res_x", {"num_layers": 4}],
                ["compress_all", {"multiplier": 1}],
                ["res_x", {"num_layers": 2}],
                ["compress_all", {"multiplier": 2}],
                ["res_x", {"num_layers": 2}],
            ],
        },
        "vocoder": {
            "vocoder": {"resblock": "AMP1", "activation": "snakebeta"},
            "bwe": {"resblock": "AMP1", "activation": "snakebeta"},
        },
    },
    "2.5": {
        "transformer": {
            "apply_gated_attention": True,
            "cross_attention_adaln": True,
            "caption_proj_before_connector": True,
            "connector_apply_gated_attention": True,
            "audio_connector_attention_head_dim": 64,
            "ff_bias": False,
            "use_keyframes_abs_pos_embedding": True,
        },
    },
}
READERS = {
    Component.TRANSFORMER: cfg.transformer_config,
    Component.TEXT_CONNECTORS: cfg.text_config,
    Component.VIDEO_ENCODER: cfg.video_vae_config,
    Component.VIDEO_DECODER: cfg.video_vae_config,
    Component.AUDIO_ENCODER: cfg.audio_vae_config,
    Component.AUDIO_DECODER: cfg.audio_vae_config,
    Component.VOCODER: cfg.vocoder_config,
}


def shapes_of(component, config):
    network = build(component, config, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module", params=RELEASED)
def released(request):
    config = RELEASED[request.param]
    parts = {component: shapes_of(component, config) for component in READERS}
    return request.param, config, parts


def test_released_shapes_give_back_the_released_configuration(released):
    _, config, parts = released
    inferred = infer_config(parts)
    for component, reader in READERS.items():
        if component.name.startswith("VIDEO") and "vae" not in config:
            continue
        assert reader(inferred) == reader(config), component
    assert cfg.video_vae_config(infer_config(parts)) == cfg.video_vae_config(config)


@pytest.mark.parametrize("component", READERS)
def test_one_component_alone_is_enough_for_its_own_configuration(component, released):
    generation, _, parts = released
    alone = {component: parts[component]}
    assert shapes_of(component, infer_config(alone)) == parts[component]
    detected = infer_generation(alone, "")
    if component is Component.TRANSFORMER or (
        component in (Component.TEXT_CONNECTORS, Component.VOCODER) and generation != "2.5"
    ):
        assert detected == generation


@pytest.mark.parametrize(
    ("shapes", "generation", "widths"),
    [
        ({"aggregate_embed.weight": (3840, 188160)}, "2.0", (3840, 3840)),
        (
            {"video_aggregate_embed.weight": (4096, 188160), "audio_aggregate_embed.weight": (2048, 188160)},
            "2.3",
            (4096, 2048),
        ),
    ],
)
def test_a_released_projection_alone_gives_its_widths(shapes, generation, widths):
    parts = {Component.TEXT_PROJECTION: shapes}
    text = cfg.text_config(infer_config(parts))
    assert infer_generation(parts, "") == generation
    assert (text.video.dim, text.audio.dim) == widths
    built = build(
        Component.TEXT_PROJECTION,
        infer_config(parts),
        shapes,
        operations=torch.nn,
        numerics=Numerics.OFFICIAL,
    )
    assert {n: tuple(t.shape) for n, t in built.state_dict().items() if n.endswith("weight")} == shapes


def test_the_stated_version_decides_only_where_tensors_fit_several(released):
    generation, _, parts = released
    assert infer_generation(parts, "2.0.0") == generation
    connectors = {Component.TEXT_CONNECTORS: parts[Component.TEXT_CONNECTORS]}
    assert infer_generation(connectors, "2.5.0") == ("2.0" if generation == "2.0" else "2.5")


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({"spatial_scale": 2.0, "rational_resampler": True, "mid_channels": 32}, "spatial_scale"),
        ({"spatial_scale": 1.5, "rational_resampler": True, "mid_channels": 32}, "spatial_scale"),
        ({"spatial_scale": 4.0, "rational_resampler": True, "mid_channels": 32}, "spatial_scale"),
        ({"spatial_scale": 2.0, "mid_channels": 64, "num_blocks_per_stage": 2}, "num_blocks_per_stage"),
        ({"spatial_upsample": False, "temporal_upsample": True, "mid_channels": 32}, "temporal_upsample"),
        ({"spatial_upsample": True, "temporal_upsample": True, "mid_channels": 32}, "temporal_upsample"),
    ],
)
def test_every_kind_of_upscaler_is_detected_from_its_shapes(stated, expected):
    inferred = infer_upsampler(shapes_of(Component.UPSAMPLER, stated))
    assert expected in inferred
    assert cfg.upsampler_config(inferred) == cfg.upsampler_config(stated)


def test_a_tiny_2_3_file_without_metadata_loads_everywhere(tiny23, repack):
    bare = open_checkpoint(repack(tiny23.checkpoint, lambda n: n))
    whole = open_checkpoint(tiny23.checkpoint)
    assert bare.generation == "2.3"
    projection = {Component.TEXT_PROJECTION}
    for component in whole.components - projection:
        assert bare.load(component).state_dict().keys() == whole.load(component).state_dict().keys()
    assert cfg.video_vae_config(bare.config) == cfg.video_vae_config(whole.config)
    with pytest.raises(ValueError, match="caption_channels=3840"):
        bare.load(Component.TEXT_PROJECTION)


def test_a_section_that_the_header_lacks_is_inferred_and_the_rest_unchanged(tiny23, repack, metadata23):
    config = json.loads(metadata23["config"])
    del config["vae"]
    checkpoint = open_checkpoint(
        repack(tiny23.checkpoint, lambda n: n, metadata={"config": json.dumps(config)})
    )
    assert checkpoint.config["transformer"] == config["transformer"]
    assert checkpoint.config["vae"]["decoder_base_channels"] == 4


def test_heads_that_shapes_do_not_determine_need_the_metadata(tiny20, repack):
    checkpoint = open_checkpoint(repack(tiny20.checkpoint, lambda n: n))
    assert checkpoint.generation == "2.0"
    with pytest.raises(
        ValueError, match=r"repacked.safetensors: the number of attention heads .* 'config' metadata"
    ):
        checkpoint.load(Component.TRANSFORMER)


def test_an_incomplete_file_without_metadata_says_what_it_lacks(tiny23, repack):
    path = repack(tiny23.checkpoint, lambda n: None if "patchify_proj" in n else n)
    with pytest.raises(ValueError, match=r"incomplete.*patchify_proj\.weight"):
        open_checkpoint(path).load(Component.TRANSFORMER)
