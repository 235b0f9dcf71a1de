"""A tiny LTX-2.5 end to end: its recipe, the length predicted from the prompt, and generated keyframes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.repeat import settings_of
from ltx2_core.conditioning.slots import KeyframeSlots
from ltx2_core.loading import Component
from ltx2_core.run.recipes import recipe_for
from ltx2_core.text.duration import MIN_SECONDS, frames_for
from ltx2_core.tiny.write import write_tiny_set

SMALL = {"width": 64, "height": 64, "steps": 2}


@pytest.fixture(scope="module")
def tiny25(tmp_path_factory):
    pytest.importorskip("transformers", minversion="5.0")
    return write_tiny_set(tmp_path_factory.mktemp("tiny25"), generation="2.5", dtype=torch.float32)


@pytest.fixture(scope="module")
def pipeline(tiny25):
    return LTX2Pipeline(
        tiny25.checkpoint,
        tiny25.duration_head,
        text_encoder=tiny25.text_encoder,
        upscaler=tiny25.upsampler,
        keep_loaded=True,
    )


def test_the_recipe_has_the_block_of_a_network_of_this_depth(pipeline):
    # Of 48 blocks it is number 28; this network has two.
    assert pipeline.recipe.stg_blocks == (1,)
    assert recipe_for("2.5").stg_blocks == (28,)
    (stage,) = pipeline.stages(pipeline.resolve(pipeline_request()))
    assert len(stage.guidance.passes()) == 4
    assert stage.guidance.stg_blocks == (1,)


def pipeline_request(**options):
    from ltx2_core import Request

    return Request(prompt="a ball", **{**SMALL, **options})


def test_a_predicted_length_is_that_of_the_same_run_with_its_frames(pipeline, tmp_path):
    auto = pipeline("a ball bounces", seconds="auto", **SMALL)
    predicted_s = auto.run_settings["predicted_s"]
    assert auto.clip.frames == frames_for(predicted_s, 24.0) > frames_for(MIN_SECONDS, 24.0)
    named = pipeline("a ball bounces", num_frames=auto.clip.frames, **SMALL)
    assert torch.equal(auto.latents.video, named.latents.video)
    # The file states the frames, so that it repeats without the duration head.
    path = tmp_path / "clip.mp4"
    auto.save(path)
    settings = settings_of(path)
    assert (settings["request"]["num_frames"], settings["request"]["seconds"]) == (auto.clip.frames, None)
    assert settings["predicted_s"] == predicted_s


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.duration_head."])
def test_the_duration_head_is_found_by_its_tensors(tiny25, tmp_path, prefix):
    tensors = {
        prefix + name.removeprefix("duration_head."): tensor
        for name, tensor in load_file(tiny25.duration_head).items()
    }
    path = tmp_path / "x.safetensors"
    # Released files state no settings of the head, and the widths of the texts are in the tensors.
    config = {"duration_head": {"pooler_hidden_dim": 32, "mlp_hidden": 48}}
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    both = [
        LTX2Pipeline(tiny25.checkpoint, file, text_encoder=tiny25.text_encoder)
        for file in (path, tiny25.duration_head)
    ]
    seconds = [one("a ball", seconds="auto", **SMALL).run_settings["predicted_s"] for one in both]
    assert seconds[0] == seconds[1]


@pytest.mark.parametrize(
    ("layer", "value"), [("mlp_out.bias", 1e3), ("mlp_out.bias", -1e3), ("mlp_out.weight", 3e38)]
)
def test_a_duration_head_with_values_of_no_size_is_named_as_damaged(tiny25, tmp_path, layer, value):
    path = tmp_path / "damaged.safetensors"
    tensors = load_file(tiny25.duration_head)
    tensors[f"duration_head.{layer}"].fill_(value)
    config = {"duration_head": {"pooler_hidden_dim": 32, "mlp_hidden": 48}}
    save_file(tensors, path, metadata={"config": json.dumps(config)})
    damaged = LTX2Pipeline(tiny25.checkpoint, path, text_encoder=tiny25.text_encoder)
    with pytest.raises(ValueError, match=r"the duration head predicts (inf|nan|0\.0) seconds: its file"):
        damaged("a ball", seconds="auto", **SMALL)


def test_without_the_duration_head_a_length_is_refused_before_anything_is_loaded(tiny25, monkeypatch):
    plain = LTX2Pipeline(tiny25.checkpoint, text_encoder=tiny25.text_encoder)
    monkeypatch.setattr(plain.networks, "use", lambda *args, **more: pytest.fail("a network was loaded"))
    with pytest.raises(ValueError, match=r"seconds=auto.*no duration head.*in ltx-2\.5-duration-head"):
        plain("a ball", seconds="auto", **SMALL)


def test_the_duration_head_is_one_of_the_models_parts(pipeline):
    assert pipeline.networks.file(Component.DURATION_HEAD).generation == "2.5"


class Slots:
    """Conditioning of a call: keyframes generated at fixed frames."""

    def __init__(self, *frames):
        self.frames = frames

    def at(self, pipeline, clip):
        return KeyframeSlots(frames=self.frames)


@pytest.mark.parametrize(
    ("generation", "named"), [("2.3", "gemma_3_12B_it"), ("2.5", "gemma4-12b-with-proj")]
)
def test_a_run_without_a_text_encoder_names_that_of_its_generation(tiny25, tiny_set, generation, named):
    checkpoint = (tiny25 if generation == "2.5" else tiny_set).checkpoint
    with pytest.raises(ValueError, match=rf"no text encoder is named: text_encoder must be .*{named}"):
        LTX2Pipeline(checkpoint).check(pipeline_request())


def test_keyframes_are_generated_next_to_the_clip(pipeline):
    plain = pipeline("a ball", num_frames=17, **SMALL)
    slots = pipeline("a ball", num_frames=17, conditioning=[Slots(8, 16)], **SMALL)
    assert slots.latents.video.shape == plain.latents.video.shape
    assert not torch.equal(slots.latents.video, plain.latents.video)
    assert slots.keyframes.shape[2] == 2
    assert plain.keyframes is None


def test_earlier_models_refuse_to_generate_keyframes(tiny_set):
    earlier = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder)
    with pytest.raises(ValueError, match=r"cannot generate keyframes, which LTX-2\.5 introduced"):
        earlier("a ball", num_frames=17, conditioning=[Slots(8)], **SMALL)
