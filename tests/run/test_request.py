"""A request: parts behind flat names, checked, filled in by the recipe, read and written as JSON."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace

import pytest
import torch

from ltx2_core import ImageAt, LTX2Pipeline, Request, VideoReference
from ltx2_core.run.execution import Execution
from ltx2_core.run.flat_options import FIELDS, RequestOptions
from ltx2_core.run.recipes import generation_of, recipe_for
from ltx2_core.run.stages import plan_stages
from ltx2_core.sampling.guidance import CFG

SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 1}

OF_0_1 = {
    "prompt": "a ball",
    "negative_prompt": "dark",
    "width": 64,
    "height": 64,
    "num_frames": 9,
    "seconds": None,
    "fps": 8.0,
    "snap": "nearest",
    "image": None,
    "image_strength": 1.0,
    "image_crf": 33,
    "audio": None,
    "audio_start_s": 0.0,
    "audio_noise_db": None,
    "reference_audio": None,
    "reference_s": 5.0,
    "identity": 3.0,
    "steps": 2,
    "cfg": 4.0,
    "audio_cfg": None,
    "distilled": False,
    "sigmas": None,
    "denoise": 1.0,
    "stages": 1,
    "stage2_sigmas": None,
    "latents": None,
    "sampler": "euler",
    "eta": None,
    "stage2_sampler": None,
    "guidance": None,
    "nag": {"scale": 11.0, "alpha": 0.25, "tau": 2.5},
    "cache": None,
    "tiles": None,
    "seed": 3,
    "noise_device": "cpu",
    "audio_stage": None,
    "video": True,
}
"""The tags of a file of version 0.1."""


def test_flat_names_reach_the_parts_and_back():
    request = Request(prompt="a ball", width=64, image="a.png", image_strength=0.5, stages=2, audio="b.wav")
    assert (request.size.width, request.inputs.image.strength, request.staging.count) == (64, 0.5, 2)
    assert (request.width, request.image, request.audio, request.stages) == (64, "a.png", "b.wav", 2)
    changed = request.changed(width=128, prompt="a cube")
    assert (changed.width, changed.prompt, changed.image) == (128, "a cube", "a.png")
    assert replace(request, width=128) == request.changed(width=128)
    assert set(FIELDS) == {"prompt", *RequestOptions.__annotations__} <= set(dir(request))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("num_inference_steps", "here it is steps"),
        ("guidance_scale", "here it is cfg"),
        ("generator", "here it is seed"),
        ("frame_rate", "here it is fps"),
        ("widht", "did you mean width"),
        ("zzzz", "use one of"),
    ],
)
def test_unknown_names_are_answered_with_ours(name, hint):
    with pytest.raises(TypeError, match=hint):
        Request(prompt="a ball", **{name: 1})


def test_help_and_completion_show_every_keyword():
    for call in (Request, LTX2Pipeline.__call__):
        parameters = inspect.signature(call).parameters
        assert set(FIELDS) <= set(parameters)
        assert parameters["width"].annotation == "int | None"


def test_the_recipe_fills_in_only_what_is_open():
    request, chosen = Request(prompt="x", steps=7, cfg=2.0).with_recipe(recipe_for("tiny"))
    assert (request.steps, request.width, request.num_frames, request.fps) == (7, 128, 49, 25.0)
    assert request.audio_cfg is None
    assert "steps" not in chosen
    assert "width" in chosen
    again, more = request.with_recipe(recipe_for("2.0"))
    assert again == request
    assert not more
    seconds, _ = Request(prompt="x", seconds=2.0).with_recipe(recipe_for("2.3"))
    assert seconds.num_frames is None


def test_the_defaults_of_2_0_are_those_of_version_0_1():
    (stage,) = plan_stages(Request(prompt="x"))
    clip = stage.clip
    assert (clip.width, clip.height, clip.frames, clip.fps) == (768, 512, 121, 24.0)
    assert (stage.sampler, len(stage.sigmas)) == ("euler", 31)
    assert stage.guidance.video.cfg == stage.guidance.audio.cfg == 4.0


def test_distilled_2_5_is_ancestral_in_the_first_stage_only():
    request = Request(prompt="x", distilled=True, stages=2)
    first, second = plan_stages(request, recipe=recipe_for("2.5"))
    assert (first.sampler, first.eta, second.sampler, second.eta) == ("euler_ancestral", 1.0, "euler", None)
    named, _ = plan_stages(request.changed(sampler="euler"), recipe=recipe_for("2.5"))
    assert (named.sampler, named.eta) == ("euler", None)


GUIDED = {"stg": 1.0, "modality": 3.0, "rescale": 0.7}
PLAIN = {"stg": 0.0, "modality": 1.0, "rescale": 0.0}


@pytest.mark.parametrize(
    ("generation", "named", "cfg", "scales"),
    [
        ("2.0", {}, (4.0, 4.0), PLAIN),
        ("2.3", {}, (4.0, 4.0), PLAIN),
        ("2.3", {"cfg": 5.0}, (5.0, 5.0), PLAIN),
        ("2.4", {}, (3.0, 7.0), GUIDED),
        ("2.5", {}, (3.0, 7.0), GUIDED),
        ("2.5", {"cfg": 5.0}, (5.0, 5.0), GUIDED),
        ("2.5", {"audio_cfg": 2.0}, (3.0, 2.0), GUIDED),
        ("2.5", {"guidance": CFG(video=2.0, audio=3.0)}, (2.0, 3.0), PLAIN),
        ("2.5", {"distilled": True}, (1.0, 1.0), PLAIN),
    ],
)
def test_guidance_is_that_of_the_generation(generation, named, cfg, scales):
    recipe = recipe_for(generation)
    request, chosen = Request(prompt="x", **named).with_recipe(recipe)
    (stage,) = plan_stages(request, recipe=recipe)
    video, audio = stage.guidance.video, stage.guidance.audio
    assert (video.cfg, audio.cfg) == cfg
    for stream in (video, audio):
        assert {name: getattr(stream, name) for name in scales} == scales
    assert stage.guidance.stg_blocks == ((28,) if scales is GUIDED else ())
    assert ("guidance" in chosen) == (scales is GUIDED)
    # What the recipe chose is in the tags of the clip, and a clip that is repeated has it.
    assert plan_stages(Request.from_settings(request.settings()))[0].guidance == stage.guidance


def test_the_guidance_of_a_recipe_follows_a_reference_audio():
    voice = (torch.zeros(1, 16000), 16000)
    request, _ = Request(prompt="x", reference_audio=voice, identity=2.0).with_recipe(recipe_for("2.5"))
    assert request.guidance.video.identity == request.guidance.audio.identity == 2.0
    assert request.guidance.video.stg == 1.0


@pytest.mark.parametrize(
    ("version", "inferred", "generation"),
    [
        ("2.0.0", None, "2.0"),
        ("2.3.1-dev", None, "2.3"),
        ("2.4", None, "2.4"),
        ("2.5.0", None, "2.5"),
        ("3.1", None, "2.5"),
        ("2.3.0-tiny", None, "tiny"),
        ("", "2.3", "2.3"),
        ("unknown", None, "2.0"),
    ],
)
def test_the_header_says_the_generation(version, inferred, generation):
    assert generation_of(version, inferred=inferred) == generation


def test_settings_of_version_0_1_are_read():
    request = Request.from_settings(OF_0_1)
    assert (request.width, request.seed, request.nag.scale, request.negative_prompt) == (64, 3, 11.0, "dark")
    written = request.settings()
    assert {name: written[name] for name in OF_0_1} == OF_0_1


def test_keyframes_references_and_the_source_of_an_edit_survive_json():
    request = Request(
        prompt="a ball",
        images=[ImageAt(source="end.png", frame=-1, strength=0.8)],
        references=[VideoReference(source="edges.mp4", scale=2)],
        source_clip={"path": "in.mp4", "edit": "retake", "video": [(1, 2.5)]},
    )
    assert Request.from_settings(json.loads(json.dumps(request.settings()))) == request
    in_memory = request.changed(images=[ImageAt(source=torch.zeros(3, 8, 8))]).settings()
    with pytest.raises(ValueError, match="images was"):
        Request.from_settings(in_memory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, "steps: .*valid integer.*'many'"),
        ({"guidance": {"video": {"cfg": -1}}}, "cfg=-1"),
        ({"images": [{"frame": 1}]}, "images.0.source"),
        ({"prompt": 3}, "prompt"),
        ({"magic": 1}, "magic"),
    ],
)
def test_settings_of_a_wrong_type_are_named_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        Request.from_settings({"prompt": "x", **change})
    assert "\n" not in str(error.value)


def test_the_schema_has_every_field_with_its_bounds_and_meaning():
    schema = Request.json_schema()
    assert set(schema["properties"]) == set(FIELDS)
    assert schema["required"] == ["prompt"]
    steps = schema["properties"]["steps"]
    assert steps["minimum"] == 1
    assert "Sampling steps" in steps["description"]


def test_an_execution_is_one_value_and_its_fields_are_shortcuts(tiny_set):
    execution = Execution.on("cpu", keep_loaded=True, passes_per_call=2)
    files = {"text_encoder": tiny_set.text_encoder}
    pipeline = LTX2Pipeline(tiny_set.checkpoint, **files, execution=execution)
    short = LTX2Pipeline(tiny_set.checkpoint, **files, device="cpu", keep_loaded=True, passes_per_call=2)
    assert pipeline.execution == short.execution == execution
    with pytest.raises(TypeError, match="execution and device"):
        LTX2Pipeline(tiny_set.checkpoint, execution=execution, device="cpu")
    with pytest.raises(ValueError, match="passes_per_call=0"):
        Execution.on("cpu", passes_per_call=0)


def test_the_settings_of_a_clip_say_what_the_recipe_chose_and_what_conditioned_it(tiny_set, photo):
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    images = [ImageAt(source=str(photo), frame=-1)]
    clip = pipeline("a ball", images=images, cfg=1.0, **SMALL)
    settings = clip.settings()
    assert settings["recipe"]["name"] == "the tiny set"
    assert "sampler" in settings["recipe"]["chose"]
    assert settings["request"]["images"][0]["source"] == str(photo)
    plain = pipeline("a ball", cfg=1.0, **SMALL)
    assert not torch.equal(clip.latents.video, plain.latents.video)


def test_a_control_video_guides_the_clip_and_must_be_long_enough(tiny_set):
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    frames = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    guided = pipeline("a ball", references=[VideoReference(source=frames)], cfg=1.0, **SMALL)
    plain = pipeline("a ball", cfg=1.0, **SMALL)
    assert guided.latents.video.shape == plain.latents.video.shape
    assert not torch.equal(guided.latents.video, plain.latents.video)
    with pytest.raises(ValueError, match="has 5 frames and the clip 9"):
        pipeline("a ball", references=[VideoReference(source=frames[:5])], **SMALL)
