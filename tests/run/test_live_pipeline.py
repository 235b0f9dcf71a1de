"""What a pipeline in memory takes: several images, own noise and embeddings, other LoRAs, several clips."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ltx2_core import ImageAt, LTX2Pipeline, Request, VideoReference
from ltx2_core.media import fit_image, load_image
from ltx2_core.media.sheet import write_sheet
from ltx2_core.run.stages import plan_stages
from ltx2_core.sampling.noise import make_noise
from ltx2_core.sampling.schedules import ltxv_sigmas
from ltx2_core.tiny import embedded_dir
from ltx2_core.types import AVLatent, Numerics

SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 1}
TWO = {**SMALL, "width": 128, "height": 128, "stages": 2}
LORAS = embedded_dir() / "loras"
DISTILLED, EDGES = (LORAS / f"ltx2-tiny-{name}.safetensors" for name in ("distilled-lora", "edges-ic-lora"))


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", keep_loaded=True)


def same(one: AVLatent, other: AVLatent) -> bool:
    return torch.equal(one.video, other.video) and torch.equal(one.audio, other.audio)


# Images and references


@pytest.mark.parametrize(
    ("value", "image"),
    [
        (("a.png", 3), ImageAt(source="a.png", frame=3)),
        (["a.png", -1, 0.5], ImageAt(source="a.png", frame=-1, strength=0.5)),
        (ImageAt(source="a.png"), ImageAt(source="a.png")),
    ],
)
def test_an_entry_of_images_may_be_a_tuple(value, image):
    assert Request(prompt="x", images=[value]).images == (image,)


def test_an_entry_of_references_may_be_a_video():
    request = Request(prompt="x", references=["e.mp4", ("f.mp4", 0.5)])
    assert request.references == (
        VideoReference(source="e.mp4"),
        VideoReference(source="f.mp4", strength=0.5),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": ["a.png", "b.png"]}, "image must be one image.*got list: several images are images="),
        ({"images": "a.png"}, "images must be a list of ImageAt"),
        ({"images": ["a.png"]}, "images holds str"),
        ({"images": [("a.png", "last")]}, "frame='last' of an image"),
        ({"images": [("a.png", 0, 20)]}, "strength=20 of an image"),
        ({"references": [("a.mp4", float("nan"))]}, "strength=nan of a reference"),
        ({"references": [VideoReference]}, "references holds type"),
        ({"fit": "cover"}, "fit='cover' must be .*crop, pad.* stretch"),
        ({"snap": "error!"}, "snap='error!' must be .*floor, nearest, ceil.* error"),
        ({"snap": 3}, "snap=3 must be"),
        ({"schedule": "8192"}, "schedule='8192' must be .*4096.* clip"),
        ({"schedule": "clip", "sigmas": [1, 0]}, "schedule='clip' contradict|contradict"),
        ({"seed": -2}, "seed=-2 must be"),
        ({"noise": torch.zeros(3)}, "noise must be an AVLatent"),
        ({"trigger": "sks"}, r"without \[trigger\] in the prompt"),
        ({"fit": "pad"}, "no effect without image"),
    ],
)
def test_a_value_that_is_not_understood_is_named(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Request(prompt="x", **options)


def test_snap_may_be_written_and_is_obeyed():
    with pytest.raises(ValueError, match="width=100 must be a multiple of 32"):
        plan_stages(Request(prompt="x", width=100, snap="error"))
    (stage,) = plan_stages(Request(prompt="x", width=100, num_frames=16, snap="floor"))
    assert (stage.clip.width, stage.clip.frames) == (96, 9)


def test_several_images_are_in_the_settings_with_their_files(pipeline, photo):
    images = [(str(photo), 4), (str(photo), -1, 0.5)]
    clip = pipeline("a ball", image=str(photo), images=images, fit="pad", cfg=1.0, **SMALL)
    settings = json.loads(json.dumps(clip.settings()))
    assert [one["frame"] for one in settings["request"]["images"]] == [4, -1]
    assert settings["request"]["fit"] == "pad"
    assert settings["inputs"][str(photo)]["path"] == str(photo.resolve())
    assert Request.from_settings(settings["request"]) == clip.request


# Fit


def test_stretch_is_lanczos_of_pillow_and_pad_has_black_borders(photo):
    frames = load_image(photo)
    with Image.open(photo) as image:
        expected = np.asarray(image.convert("RGB").resize((64, 32), Image.Resampling.LANCZOS))
    stretched = fit_image(frames, 64, 32, mode="stretch")
    assert np.array_equal((stretched[0] * 255).round().byte().permute(1, 2, 0).numpy(), expected)
    padded = fit_image(frames, 128, 64, mode="pad")
    inner = round(frames.shape[3] * 64 / frames.shape[2])
    left = (128 - inner) // 2
    assert not padded[..., :left].any()
    assert not padded[..., left + inner :].any()
    assert torch.equal(padded[..., left : left + inner], fit_image(frames, inner, 64, mode="stretch"))


def test_the_fit_changes_what_is_encoded(pipeline, photo):
    options = {"image": photo, "image_crf": 0, "cfg": 1.0, **SMALL}
    for fit, mode in (("crop", "official"), ("pad", "pad"), ("stretch", "stretch")):
        clip = pipeline("a ball", fit=fit, **options)
        image = pipeline.encode_video(fit_image(load_image(photo), 64, 64, mode=mode))
        assert torch.equal(clip.latents.video[:, :, :1], image)


# Schedules


@pytest.mark.parametrize(
    ("numerics", "schedule", "of_clip"),
    [
        (Numerics.OFFICIAL, None, False),
        (Numerics.OFFICIAL, "clip", True),
        (Numerics.COMFY, None, True),
        (Numerics.COMFY, "4096", False),
    ],
)
def test_the_schedule_says_whose_tokens_it_is_for(numerics, schedule, of_clip):
    (stage,) = plan_stages(Request(prompt="x", steps=8, schedule=schedule), numerics)
    expected = ltxv_sigmas(8, stage.clip.video_tokens) if of_clip else ltxv_sigmas(8)
    assert torch.equal(stage.sigmas, expected)


def test_sigmas_without_the_final_0_get_it():
    assert Request(prompt="x", sigmas=[1, 0.5]) == Request(prompt="x", sigmas=[1, 0.5, 0])
    assert Request(prompt="x", stages=2, stage2_sigmas=torch.tensor([0.5])).stage2_sigmas == (0.5, 0.0)


# Seeds, noise, embeddings


@pytest.mark.parametrize("seed", [None, -1])
def test_a_seed_that_is_not_named_is_drawn_and_recorded(seed):
    request = Request(prompt="x", seed=seed)
    assert 0 <= request.seed < 2**32
    assert Request.from_settings(request.settings()).seed == request.seed
    assert len({Request(prompt="x", seed=seed).seed for _ in range(8)}) > 1


@pytest.mark.parametrize("options", [SMALL, TWO])
def test_the_noise_of_a_seed_as_own_noise_gives_the_clip_of_that_seed(pipeline, options):
    request = Request(prompt="a ball", seed=7, cfg=1.0, **options)
    clip = pipeline.stages(pipeline.resolve(request))[0].clip
    noise = make_noise(clip, 7)
    assert same(pipeline(request).latents, pipeline(request, noise=noise).latents)
    other = pipeline(request, noise=make_noise(clip, 8))
    assert not torch.equal(other.latents.video, pipeline(request).latents.video)
    with pytest.raises(ValueError, match=r"noise of the video is .*, and the first stage takes"):
        pipeline(request, noise=AVLatent(noise.video[:, :, :1], noise.audio))


def test_embeddings_stand_for_their_prompts(pipeline):
    embeds = pipeline.encode_prompt("a ball", "dark")
    clip = pipeline(prompt_embeds=embeds, seed=2, **SMALL)
    plain = pipeline("a ball", negative_prompt="dark", seed=2, **SMALL)
    assert same(clip.latents, plain.latents)
    assert clip.settings()["request"] == plain.settings()["request"]
    with pytest.raises(ValueError, match="are those of 'a ball' and not of 'a cube'"):
        pipeline("a cube", prompt_embeds=embeds, **SMALL)
    with pytest.raises(ValueError, match="negative prompt 'dark'"):
        pipeline(prompt_embeds=embeds, negative_prompt="bright", **SMALL)


def test_embeddings_of_other_networks_are_refused(pipeline, tiny_set):
    embeds = pipeline.encode_prompt("a ball")
    other = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu")
    with pytest.raises(ValueError, match="made with other text networks"):
        other(prompt_embeds=embeds, **SMALL)


def test_a_trigger_word_is_put_into_the_prompt_alone():
    request = Request(prompt="a [trigger] ball", negative_prompt="no [trigger]", trigger="sks")
    assert (request.prompt, request.negative_prompt) == ("a sks ball", "no [trigger]")
    assert request.changed(prompt="another [trigger]").prompt == "another sks"
    assert Request.from_settings(request.settings()) == request


# LoRAs


@pytest.mark.parametrize("options", [SMALL, pytest.param(TWO, marks=pytest.mark.slow)])
def test_loras_of_a_live_pipeline_give_the_latents_of_a_new_one(pipeline, options):
    run = {"seed": 3, "cfg": 1.0, **options}
    plain = pipeline("a ball", **run).latents
    for loras, second in (
        ([(DISTILLED, 0.7)], []),
        ([(DISTILLED, 0.2), EDGES], [(DISTILLED, 0.3)]),
        ([], [DISTILLED]),
    ):
        pipeline.set_loras(loras, stage2_loras=second)
        new = LTX2Pipeline.embedded(device="cpu", loras=loras, stage2_loras=second)
        assert same(pipeline("a ball", **run).latents, new("a ball", **run).latents)
        assert pipeline.settings() == new.settings()
    pipeline.set_loras([], stage2_loras=[])
    assert same(pipeline("a ball", **run).latents, plain)


def test_a_lora_that_fits_no_layer_changes_nothing(pipeline, tiny_set_20):
    pipeline.set_loras([DISTILLED])
    with pytest.raises(ValueError, match="LoRA"):
        pipeline.set_loras(
            [embedded_dir() / "loras" / "ltx2-tiny-edges-ic-lora.safetensors", tiny_set_20.lora]
        )
    assert [lora.path.name for lora in pipeline.loras] == [DISTILLED.name]
    pipeline.set_loras()


# Several clips, own frames


@pytest.mark.parametrize("options", [SMALL, TWO])
def test_several_clips_equal_calls_of_their_own(options):
    pipeline, stages = LTX2Pipeline.embedded(device="cpu"), []
    clips = list(
        pipeline.clips(
            ["a ball", "a cube"],
            seeds=(seed for seed in (1, 2)),
            on_step=lambda progress: stages.append(progress.stage),
            **options,
        )
    )
    assert [(clip.request.prompt, clip.request.seed) for clip in clips] == [
        ("a ball", 1),
        ("a ball", 2),
        ("a cube", 1),
        ("a cube", 2),
    ]
    for clip in clips:
        alone = LTX2Pipeline.embedded(device="cpu")(clip.request.prompt, seed=clip.request.seed, **options)
        assert same(clip.latents, alone.latents)
        assert clip.settings() == alone.settings()
    assert "clip 3 of 4: stage 1" in stages
    assert not pipeline.networks._held, "nothing is held after the last clip"


def test_several_clips_load_each_network_once(monkeypatch):
    pipeline, loads = LTX2Pipeline.embedded(device="cpu"), []
    from ltx2_core.loading.checkpoint import Checkpoint

    load = Checkpoint.load
    monkeypatch.setattr(
        Checkpoint, "load", lambda self, c, **o: (loads.append(str(c)), load(self, c, **o))[1]
    )
    list(pipeline.clips(["a ball", "a cube"], seeds=[1, 2], **TWO))
    assert sorted(loads) == sorted(set(loads))


def test_every_one_of_several_clips_is_judged_first(pipeline):
    steps = []
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        pipeline.clips(["a ball", Request(prompt="x", image="missing.png")], on_step=steps.append, **SMALL)
    assert not steps


def test_own_frames_are_latents_to_start_from(pipeline):
    frames = torch.rand(9, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    latents = pipeline.encode_video(frames)
    clip = pipeline("a ball", latents=latents, denoise=0.5, steps=2, cfg=1.0, fps=8.0)
    same_clip = pipeline("a ball", latents=AVLatent(latents, None), denoise=0.5, steps=2, cfg=1.0, fps=8.0)
    assert same(clip.latents, same_clip.latents)
    assert torch.equal(
        pipeline.encode_video((frames * 255).round().byte().permute(0, 2, 3, 1).numpy()),
        pipeline.encode_video((frames * 255).round() / 255),
    )


def test_a_contact_sheet_has_a_row_for_each_clip(tmp_path):
    rows = [
        ("seed 1", torch.zeros(3, 3, 32, 64, dtype=torch.uint8)),
        ("x" * 500, torch.full((2, 3, 32, 64), 9).byte()),
    ]
    write_sheet(rows, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width == 6 + 3 * 198
        assert image.height == 2 * (18 + 96 + 12)
