"""The files of a run are judged as a set: generations, two files for one part, the kind of the upscaler."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.components import build
from ltx2_core.loading.describe import describe
from ltx2_core.loading.detect import OFFICIAL_PREFIXES
from ltx2_core.loading.file_report import as_text
from ltx2_core.loading.file_set import check_set, stage_factor
from ltx2_core.tiny import embedded_set
from ltx2_core.types import Numerics

SIZE = {"num_frames": 9, "fps": 25, "stages": 2, "steps": 1, "cfg": 1}


@pytest.fixture(scope="module")
def split(tiny20, tiny23, tmp_path_factory):
    """Every component of both generations in a file of its own."""
    folder = tmp_path_factory.mktemp("split")
    files = {}
    for generation, tiny in (("2.0", tiny20), ("2.3", tiny23)):
        checkpoint, tensors = open_checkpoint(tiny.checkpoint), load_file(tiny.checkpoint)
        with safe_open(tiny.checkpoint, "pt") as file:
            metadata = file.metadata()
        for component in OFFICIAL_PREFIXES:
            if component in checkpoint.components:
                names = [info.name for info in checkpoint.infos(component).values()]
                path = folder / f"{generation} {component}.safetensors"
                save_file({name: tensors[name] for name in names}, path, metadata=metadata)
                files[generation, component] = path
    return files


PARTS = (
    Component.TEXT_CONNECTORS,
    Component.TEXT_PROJECTION,
    Component.VIDEO_ENCODER,
    Component.VIDEO_DECODER,
    Component.AUDIO_ENCODER,
    Component.AUDIO_DECODER,
    Component.VOCODER,
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("first", ["2.0", "2.3"])
def test_parts_of_two_generations_are_refused_by_name(first, part, split):
    other = "2.3" if first == "2.0" else "2.0"
    paths = split[first, Component.TRANSFORMER], split[other, part]
    with pytest.raises(ValueError, match="of two generations") as raised:
        LTX2Pipeline(*paths)
    for path, generation in zip(paths, (first, other), strict=True):
        assert f"{path} is LTX-{generation}" in str(raised.value)
    check_set([open_checkpoint(split[first, Component.TRANSFORMER]), open_checkpoint(split[first, part])])


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (("2.3", Component.TRANSFORMER), ("2.0", Component.AUDIO_DECODER), "of two generations"),
        (("2.0", Component.VOCODER), ("2.3", Component.VIDEO_DECODER), "of two generations"),
        (
            ("2.3", Component.VOCODER),
            ("2.3", Component.VOCODER),
            "adds nothing: a file before it has the same parts (vocoder)",
        ),
    ],
)
def test_files_that_cannot_be_joined_are_not_converted(first, second, words, split, tmp_path):
    target = tmp_path / "x.safetensors"
    result = CliRunner().invoke(main, ["convert", str(split[first]), str(split[second]), str(target)])
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert str(split[second]) in result.stderr
    assert not target.exists()


@pytest.mark.parametrize("part", [Component.TRANSFORMER, *PARTS])
def test_two_files_for_one_part_are_named(part, split, tiny23):
    paths = tiny23.checkpoint, split["2.3", part]
    with pytest.raises(ValueError, match="two files hold the") as raised:
        LTX2Pipeline(*paths)
    assert all(str(path) in str(raised.value) for path in paths)


def test_one_file_twice_is_no_contradiction(tiny23):
    check_set([open_checkpoint(tiny23.checkpoint), open_checkpoint(tiny23.checkpoint)])


@pytest.fixture
def upscaler(tmp_path):
    """A random upscaler for 128 channels."""

    def make(**changes):
        config = {
            "_class_name": "LatentUpsampler",
            "in_channels": 128,
            "mid_channels": 32,
            "num_blocks_per_stage": 1,
            "dims": 3,
            "spatial_upsample": True,
            "temporal_upsample": False,
            **changes,
        }
        network = build(Component.UPSAMPLER, config, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
        state = {name: torch.full(tensor.shape, 0.01) for name, tensor in network.state_dict().items()}
        save_file(state, tmp_path / "upscaler.safetensors", metadata={"config": json.dumps(config)})
        return tmp_path / "upscaler.safetensors"

    return make


RATIONAL = {"rational_resampler": True}


def pipeline_with(upscaler):
    files = embedded_set()
    return LTX2Pipeline(files.checkpoint, text_encoder=files.text_encoder, upscaler=upscaler)


def test_an_upscaler_of_one_and_a_half_has_a_first_stage_of_its_own_size(upscaler):
    pipeline = pipeline_with(upscaler(spatial_scale=1.5, **RATIONAL))
    done = pipeline("a red circle", width=192, height=192, **SIZE)
    assert (done.clip.width, done.latents.video.shape[-2:]) == (192, (6, 6))
    first, second = pipeline.stages(pipeline.resolve(done.request))
    assert (first.clip.width, first.clip.height, second.clip.width) == (128, 128, 192)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"spatial_scale": 1.5, **RATIONAL},
            r"enlarges by 1\.5, two stages of 128x128 need 2: .* multiples of 96",
        ),
        ({"spatial_scale": 0.75, **RATIONAL}, "spatial x0.75 upscaler, which makes the video smaller"),
        ({"temporal_upsample": True, "spatial_upsample": False}, "temporal x2 upscaler, which changes"),
        ({"temporal_upsample": True}, "spatial x2 and temporal x2 upscaler, which changes"),
    ],
)
def test_an_upscaler_that_does_not_fit_is_refused_before_work(config, message, upscaler):
    pipeline = pipeline_with(upscaler(**config))
    steps = []
    with pytest.raises(ValueError, match=message):
        pipeline("a red circle", width=128, height=128, on_step=steps.append, **SIZE)
    assert not steps
    with pytest.raises(ValueError, match=message):
        pipeline.stages(pipeline.resolve(pipeline_request()))


def pipeline_request():
    from ltx2_core import Request

    return Request(prompt="a red circle", width=128, height=128, **SIZE)


@pytest.mark.parametrize(
    ("config", "line", "factor"),
    [
        ({}, "spatial x2", 2),
        ({"spatial_scale": 1.5, **RATIONAL}, "spatial x1.5: for two stages of sizes in multiples of 96", 1.5),
        ({"spatial_scale": 4.0, **RATIONAL}, "spatial x4: for two stages of sizes in multiples of 128", 4),
        ({"temporal_upsample": True, "spatial_upsample": False}, "temporal x2: not for two stages", None),
    ],
)
def test_inspect_names_kind_and_factor(config, line, factor, upscaler):
    path = upscaler(**config)
    report = describe(path)
    assert report["upscaler"] == line
    assert f"upscaler    {line}" in as_text(report)
    if factor is not None:
        assert stage_factor(open_checkpoint(path)) == Fraction(factor)


@pytest.fixture
def files_25(split, tmp_path):
    """Files of 2.3 as those of 2.5: a transformer with the embedding of keyframes, others by version."""
    files = {}
    for component in (Component.TRANSFORMER, *PARTS):
        tensors = load_file(split["2.3", component])
        with safe_open(split["2.3", component], "pt") as file:
            metadata = {**file.metadata(), "model_version": "2.5.0"}
        if component is Component.TRANSFORMER:
            width = tensors["model.diffusion_model.patchify_proj.weight"].shape[0]
            tensors["model.diffusion_model.keyframes_abs_pos_embedding"] = torch.zeros(1, width)
        path = tmp_path / f"2.5 {component}.safetensors"
        save_file(tensors, path, metadata=metadata)
        files[component] = path
    return files


TRAINED = (Component.TRANSFORMER, Component.TEXT_CONNECTORS, Component.TEXT_PROJECTION)


@pytest.mark.parametrize("part", PARTS)
def test_text_and_transformer_of_2_3_and_2_5_are_told_apart_and_autoencoders_shared(part, split, files_25):
    paths = split["2.3", Component.TRANSFORMER], files_25[part]
    opened = [open_checkpoint(path) for path in paths]
    if part not in TRAINED:
        check_set(opened)
        return
    with pytest.raises(ValueError, match="of two generations") as raised:
        check_set(opened)
    assert all(str(path) in str(raised.value) for path in paths)
    check_set([open_checkpoint(files_25[one]) for one in (Component.TRANSFORMER, part)])


def test_a_file_that_states_no_version_goes_with_both(split, files_25, tmp_path):
    plain = tmp_path / "plain.safetensors"
    save_file(load_file(split["2.3", Component.TEXT_CONNECTORS]), plain)
    for transformer in (split["2.3", Component.TRANSFORMER], files_25[Component.TRANSFORMER]):
        check_set([open_checkpoint(transformer), open_checkpoint(plain)])


def test_inspect_says_kind_and_generation_of_every_file(split, files_25, upscaler):
    from ltx2_core.tiny import embedded_dir

    loras, tiny = embedded_dir() / "loras", embedded_set()
    for path, kind, generation in (
        (tiny.checkpoint, "checkpoint", "LTX-2.3"),
        (tiny.text_encoder, "text encoder", "LTX-2.0 and LTX-2.3"),
        (split["2.0", Component.TRANSFORMER], "transformer", "LTX-2.0"),
        (files_25[Component.TRANSFORMER], "transformer", "LTX-2.5"),
        (files_25[Component.VIDEO_DECODER], "video decoder", "LTX-2.3 and LTX-2.5"),
        (upscaler(), "latent upscaler, spatial x2", "not stated"),
        (loras / "ltx2-tiny-edges-ic-lora.safetensors", "IC-LoRA", ""),
    ):
        lines = as_text(describe(path)).splitlines()
        (line,) = (line for line in lines if line.startswith("  kind"))
        assert line.split("kind")[1].strip() == kind
        (line,) = (line for line in lines if line.startswith("  generation"))
        assert generation in line
