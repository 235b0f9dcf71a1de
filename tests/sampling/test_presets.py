"""Presets are the published numbers, and the saved settings of a clip reproduce it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.cli.repeat import check_files, repeated_request
from ltx2_core.run.request import plan_stages
from ltx2_core.sampling.caching import StepCache
from ltx2_core.sampling.guidance import CFG, Guidance, GuidanceSchedule, Nag, Pass, StreamGuidance
from ltx2_core.sampling.presets import PRESETS
from ltx2_core.sampling.samplers import EVALUATIONS, SAMPLERS, STOCHASTIC
from ltx2_core.sampling.schedules import DISTILLED_SIGMAS, DISTILLED_STAGE2_SIGMAS, ltxv_sigmas

SMALL = {"width": 128, "height": 64, "num_frames": 17, "fps": 8.0, "steps": 3}
FULL = Guidance(
    video=StreamGuidance(cfg=3, stg=1, modality=3, rescale=0.7),
    audio=StreamGuidance(cfg=7, cfg_star=True, skip_steps=1),
    stg_blocks=(1,),
    to_sigma=0.2,
)


@pytest.fixture(scope="module")
def pipeline(tiny_set) -> LTX2Pipeline:
    return LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler, keep_loaded=True
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_as_many_steps_as_it_says_and_a_sampler_that_takes_its_eta(name):
    preset = PRESETS[name]
    assert len(preset.sigmas()) == preset.steps + 1
    assert preset.sampler in SAMPLERS
    assert preset.eta is None or preset.sampler in STOCHASTIC
    assert str(preset.steps) in name


def test_presets_are_the_published_schedules_and_cost_the_published_evaluations():
    assert torch.equal(PRESETS["distilled 8"].sigmas(), DISTILLED_SIGMAS)
    assert torch.equal(PRESETS["distilled 3"].sigmas(), DISTILLED_STAGE2_SIGMAS)
    assert torch.equal(PRESETS["dev 20"].sigmas(1536), ltxv_sigmas(20, 1536))
    steep = replace(PRESETS["dev 20"], max_shift=3.0, base_shift=1.0, terminal=0.2)
    assert torch.equal(steep.sigmas(), ltxv_sigmas(20, max_shift=3.0, base_shift=1.0, terminal=0.2))
    passes = {name: len(preset.guidance((1,)).passes()) for name, preset in PRESETS.items()}
    assert passes == {
        "distilled 8": 1,
        "distilled 3": 1,
        "dev 20": 2,
        "dev 30 guided": 4,
        "quality res_2s 15": 3,
        "distilled 8 ancestral": 1,
        "distilled 3 ancestral": 1,
        "text euler 25": 2,
        "image res_2s 25": 2,
    }
    first, second = PRESETS["distilled 8 ancestral"], PRESETS["distilled 3 ancestral"]
    assert torch.equal(first.sigmas(), DISTILLED_SIGMAS)
    torch.testing.assert_close(second.sigmas(), torch.tensor([0.85, 0.725, 0.4219, 0.0]))
    assert (first.sampler, first.eta, second.sampler, second.eta) == ("euler_ancestral", 1.0) * 2
    text, image = PRESETS["text euler 25"], PRESETS["image res_2s 25"]
    assert (text.steps, text.sampler, text.video.cfg, text.image_strength) == (25, "euler", 3.0, None)
    assert (image.steps, image.sampler, image.video.cfg, image.image_strength) == (25, "res_2s", 4.0, 0.6)
    quality = PRESETS["quality res_2s 15"]
    assert quality.steps * EVALUATIONS[quality.sampler] + 1 == 31
    assert quality.guidance((1,)).stg_blocks == ()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance": FULL, "sampler": "res_2s", "eta": 0.25, "stage2_sampler": "dpmpp_2m"},
        {"guidance": GuidanceSchedule(((1.0, FULL), (0.5, CFG(video=2.0))))},
        {"cfg": 1.0, "nag": Nag(scale=5.0), "cache": StepCache(kind="timestep", threshold=0.2)},
        {"sigmas": [1.0, 0.1 + 0.2, 0.0], "steps": None, "stages": 2, "seed": 2**64 - 1},
    ],
)
def test_settings_survive_json(options):
    request = Request(prompt="a ball", **{**SMALL, **options})
    assert Request.from_settings(json.loads(json.dumps(request.settings()))) == request


def test_settings_that_cannot_be_repeated_say_why(photo):
    in_memory = Request(prompt="a ball", image=torch.zeros(3, 64, 64)).settings()
    with pytest.raises(ValueError, match="image was"):
        Request.from_settings(in_memory)
    with pytest.raises(ValueError, match="magic"):
        Request.from_settings({"prompt": "a ball", "magic": 1})
    changed = repeated_request({"request": in_memory}, {"image": photo, "seed": 3})
    assert changed.image == photo
    assert changed.seed == 3


def test_a_file_made_with_loras_is_not_repeated_without_them(pipeline):
    settings = {"loras": [["style.safetensors", 0.5]], "checkpoints": ["other.safetensors"]}
    with pytest.raises(ValueError, match=r"style\.safetensors:0\.5"):
        check_files(settings, pipeline, named_loras=False)
    assert "other.safetensors" in check_files(settings, pipeline, named_loras=True)


def test_the_second_stage_is_not_guided_and_reads_the_negative_prompt_only_for_what_needs_it():
    first, second = plan_stages(Request(prompt="x", stages=2, **{**SMALL, "width": 128, "height": 128}))
    assert (first.sampler, second.sampler) == ("euler", "euler")
    assert first.needs_negative
    assert not second.needs_negative
    first, second = plan_stages(
        Request(prompt="x", stages=2, cfg=1.0, nag=Nag(), sampler="euler_ancestral", eta=0.5, height=128)
    )
    assert first.nag == second.nag == Nag()
    assert (second.sampler, second.eta) == ("euler_ancestral", 0.5)
    (paired,) = plan_stages(Request(prompt="x", cfg=1.0, sampler="euler_cfg_pp"))
    assert paired.needs_negative
    assert paired.guidance.passes() == (Pass.CONDITIONAL,)


@pytest.mark.parametrize(
    ("sampler", "evaluations"), [("euler", 9), ("res_2s", 19), ("euler_ancestral_cfg_pp", 10)]
)
def test_watching_a_run_does_not_change_it_and_its_evaluations_are_counted(pipeline, sampler, evaluations):
    options = {"prompt": "a ball", "guidance": FULL, "sampler": sampler, "seed": 4, **SMALL}
    estimates = []
    plain = pipeline(**options)
    watched = pipeline(on_step=lambda p: estimates.append(p.x0), **options)
    assert torch.equal(plain.latents.video, watched.latents.video)
    assert torch.equal(plain.latents.audio, watched.latents.audio)
    assert any(x0 is not None for x0 in estimates)
    assert plain.settings()["evaluations"] == [plain.evaluations[0]._asdict()]
    assert plain.evaluations == ((evaluations, 0),)


def test_passes_at_once_give_the_clip_of_passes_one_by_one(pipeline, tiny_set):
    options = {"prompt": "a ball", "guidance": FULL, "seed": 4, **SMALL}
    files = {"text_encoder": tiny_set.text_encoder, "upscaler": tiny_set.upsampler}
    at_once = LTX2Pipeline(tiny_set.checkpoint, **files, passes_per_call=4)(**options)
    one_by_one = pipeline(**options)
    assert torch.equal(at_once.latents.video, one_by_one.latents.video)
    assert torch.equal(at_once.latents.audio, one_by_one.latents.audio)
    assert at_once.evaluations == one_by_one.evaluations


def test_nag_and_a_cache_change_the_clip_and_are_in_its_settings(pipeline):
    options = {"prompt": "a ball", "seed": 4, "cfg": 1.0, **SMALL}
    plain = pipeline(**options)
    led = pipeline(nag=Nag(), **options)
    assert not torch.equal(led.latents.video, plain.latents.video)
    assert led.evaluations == plain.evaluations
    cached = pipeline(cache=StepCache(kind="timestep", threshold=100.0), **options)
    assert cached.evaluations[0] == (1, 2)
    assert cached.settings()["request"]["cache"] == {"kind": "timestep", "threshold": 100.0}
