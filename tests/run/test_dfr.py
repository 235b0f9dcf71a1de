"""The DFR pipeline on a tiny LTX-2.5: its stages, tiles and audio, and what it is refused for."""

from __future__ import annotations

import logging

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.cli.main import main
from ltx2_core.cli.repeat import settings_of
from ltx2_core.conditioning.guide_frames import GuideFrames
from ltx2_core.conditioning.items import ImageInPlace
from ltx2_core.run.dfr import tile_items
from ltx2_core.run.dfr_plan import DfrFiles
from ltx2_core.run.saved_latents import resume, save_latents
from ltx2_core.sampling.guidance import Guidance
from ltx2_core.tiny.write import write_tiny_set

SMALL = {"width": 128, "height": 64, "num_frames": 17, "fps": 24.0, "pipeline_kind": "dfr"}


@pytest.fixture(scope="module")
def tiny25(tmp_path_factory):
    pytest.importorskip("transformers", minversion="5.0")
    return write_tiny_set(tmp_path_factory.mktemp("tiny25"), generation="2.5", dtype=torch.float32)


@pytest.fixture(scope="module")
def detail_lora(tiny25, tmp_path_factory):
    """A LoRA that does not state how its reference was scaled, as released detail LoRAs need not."""
    path = tmp_path_factory.mktemp("lora") / "detail.safetensors"
    save_file(load_file(tiny25.lora), path)
    return path


def open_pipeline(tiny25, **options):
    return LTX2Pipeline(
        tiny25.checkpoint, text_encoder=tiny25.text_encoder, upscaler=tiny25.upsampler, **options
    )


@pytest.fixture(scope="module")
def pipeline(tiny25):
    return open_pipeline(tiny25, dfr=DfrFiles(temporal_upscaler=tiny25.temporal_upsampler), keep_loaded=True)


@pytest.fixture(scope="module")
def detailed(tiny25, detail_lora):
    return open_pipeline(tiny25, dfr=DfrFiles(detail_lora=(detail_lora, 0.5)), keep_loaded=True)


@pytest.mark.parametrize(("rounds", "frames", "fps"), [(1, 33, 48.0), (2, 65, 96.0)])
def test_rounds_double_the_frame_rate_and_leave_the_audio(pipeline, rounds, frames, fps, tmp_path):
    made = pipeline("a ball", **SMALL, temporal_rounds=rounds)
    assert (made.clip.frames, made.clip.fps) == (frames, fps)
    assert made.latents.video.shape == made.clip.video_shape()
    assert made.latents.audio.shape == made.clip.audio_shape()
    assert made.latents.video.isfinite().all()
    assert made.keyframes.shape[2] == 1
    # Saved latents are decoded to the same clip.
    again = resume(save_latents(made, tmp_path / "x.mp4", folder=tmp_path), made.codecs)
    assert (again.clip.frames, again.clip.fps) == (frames, fps)
    assert torch.equal(again.latents.video, made.latents.video)


def test_all_stages_are_planned_before_anything_is_sampled(pipeline):
    stages = pipeline.check(Request(prompt="a ball", **SMALL, temporal_rounds=2))
    # 17 frames are padded to one segment of 24, and each round has at most twice as many tiles.
    assert [stage.clip.frames for stage in stages] == [25, 25, 49, 49, 97]
    assert [stage.clip.fps for stage in stages] == [24, 24, 48, 60, 60]
    assert [(stage.sampler, stage.eta) for stage in stages[:2]] == [("euler", None)] * 2
    assert [(stage.sampler, stage.eta, len(stage.sigmas) - 1) for stage in stages[2:]] == [
        ("euler_ancestral", 0.5, 4)
    ] * 3
    assert [stage.step_seed for stage in stages] == [None, None, 1000, 2000, 2001]
    assert [stage.keyframes for stage in stages] == [(24,), (24,), (24,), (24,), (24, 72)]
    assert {stage.finished.frames for stage in stages} == {65}


def test_memory_counts_keyframes_and_the_reference(pipeline, detailed):
    first, second = pipeline.stages(pipeline.resolve(Request(prompt="a ball", **SMALL)))
    assert second.sampled.latent_frames == second.clip.latent_frames + 1
    *_, with_reference = detailed.stages(detailed.resolve(Request(prompt="a ball", **SMALL)))
    assert with_reference.reference_tokens == first.clip.video_tokens
    # 4 latent frames of half the width and height are the tokens of one.
    assert with_reference.sampled.latent_frames == second.clip.latent_frames + 2
    assert detailed.plan((first, with_reference), 10**9).stages[2].activations > (
        pipeline.plan((first, second), 10**9).stages[2].activations
    )


def test_a_detail_lora_changes_the_second_stage_alone(pipeline, detailed, detail_lora):
    plain, sharp = pipeline("a ball", **SMALL), detailed("a ball", **SMALL)
    assert torch.equal(plain.keyframes, sharp.keyframes)
    assert torch.equal(plain.latents.audio, sharp.latents.audio)
    assert not torch.equal(plain.latents.video, sharp.latents.video)
    assert sharp.settings()["detail_lora"] == [detail_lora.name, 0.5]


def test_the_first_image_is_preserved_in_the_first_tile_and_the_last_one_is_at_its_time(pipeline):
    image = torch.rand(3, 64, 128)
    first = pipeline("a ball", **SMALL, temporal_rounds=1, image=image, image_crf=0)
    encoded = pipeline.encode_video(image[None])
    torch.testing.assert_close(first.latents.video[:, :, :1], encoded, atol=1e-5, rtol=0)
    last = pipeline("a ball", **SMALL, images=[(image, -1)], image_crf=0)
    same = pipeline("a ball", **SMALL, images=[(image, 16)], image_crf=0)
    # Not the last frame of the padded clip, which is cut off.
    assert torch.equal(last.latents.video, same.latents.video)
    assert last.request.images[0].frame == 16


def test_a_tile_gets_the_images_and_keyframes_that_lie_in_it(pipeline):
    stages = pipeline.stages(Request(prompt="a ball", **{**SMALL, "num_frames": 97}, temporal_rounds=1))
    cell = torch.zeros(1, 128, 1, 2, 4)
    given = [ImageInPlace(latent=cell.expand(-1, -1, 2, -1, -1)), GuideFrames(latent=cell, frame=90)]
    carried = {
        frame: torch.full_like(cell, frame) for frame in stages[2].tile.anchors + stages[3].tile.anchors
    }
    early, late = (
        tile_items(given, torch.zeros(1, 128, stage.clip.latent_frames, 2, 4), stage, carried)
        for stage in stages[2:4]
    )
    assert [type(item).__name__ for item in early] == [
        *["ImageInPlace"],
        *["GuideFrames"] * len(stages[2].tile.anchors),
        "KeyframeSlots",
    ]
    assert early[0].latent.shape[2] == 1
    start = stages[3].tile.start
    assert start > 0
    frames = [item.frame for item in late if isinstance(item, GuideFrames)]
    assert frames == [180 - start, *(frame - start for frame in stages[3].tile.anchors)]
    assert 0 in frames
    assert [item.strength for item in late[1:-1]] == [0.95] * len(stages[3].tile.anchors)


def words_of(tiny25, *more):
    files = ["--checkpoint", tiny25.checkpoint, "--text-encoder", tiny25.text_encoder]
    files += ["--upscaler", tiny25.upsampler, "--temporal-upscaler", tiny25.temporal_upsampler]
    size = ["--width", "128", "--height", "64", "--frames", "9", "--fps", "24"]
    return ["generate", *map(str, files), "--prompt", "a ball", *size, "--quiet", *map(str, more)]


def test_the_command_line_plans_makes_and_repeats_it(tiny25, detail_lora, tmp_path):
    out = tmp_path / "out.mp4"
    dfr = ["--pipeline", "dfr", "--temporal-rounds", "1", "--detail-lora", detail_lora]
    planned = CliRunner().invoke(main, words_of(tiny25, *dfr, "--dry-run"))
    assert planned.exit_code == 0, planned.output
    assert "128x64, 17 frames at 48 fps" in planned.output
    assert "DFR: 9 frames at 24 fps, sampled as 25; frame rate doubled 1 times" in planned.output
    assert "temporal round 1: frames 0 to 48, keyframes 48 guide it" in planned.output
    assert "memory    stage 3: " in planned.output
    made = CliRunner().invoke(main, words_of(tiny25, *dfr, "-o", out))
    assert made.exit_code == 0, made.output
    assert settings_of(out)["clip"] == [128, 64, 17, 48.0]
    files = words_of(tiny25)[1:9]
    again = ["generate", "--from-file", str(out), *files, "--dry-run"]
    lost = CliRunner().invoke(main, again)
    assert f"made with --detail-lora {detail_lora.name}:1.0, whose folder is not known" in lost.output
    repeated = CliRunner().invoke(main, [*again, "--detail-lora", str(detail_lora)])
    assert "128x64, 17 frames at 48 fps" in repeated.output
    unused = CliRunner().invoke(main, words_of(tiny25, "--pipeline", "dfr", "--dry-run"))
    assert "--temporal-upscaler has no effect on --pipeline dfr without --temporal-rounds" in unused.output
    refused = CliRunner().invoke(main, [*again, "--detail-lora", str(detail_lora), "--sampler", "euler"])
    assert "--pipeline and --sampler contradict each other" in refused.output


@pytest.mark.parametrize("rounds", [0, 1, 2])
@pytest.mark.parametrize("detail", [False, True])
def test_the_command_plan_says_what_a_dry_run_says(tiny25, detail_lora, rounds, detail):
    size = ["--width", "128", "--height", "96", "--frames", "41", "--fps", "24", "--snap", "ceil"]
    files = ["--checkpoint", str(tiny25.checkpoint), "--text-encoder", str(tiny25.text_encoder)]
    same = [*files, *size, "--pipeline", "dfr", "--temporal-rounds", str(rounds), "--max-memory", "1GB"]
    same += ["--dtype", "bfloat16", *(["--detail-lora", str(detail_lora)] if detail else [])]
    more = ["--upscaler", tiny25.upsampler, "--prompt", "a ball", "--device", "cpu", "--dry-run"]
    more += ["--temporal-upscaler", tiny25.temporal_upsampler] if rounds else []
    plan = CliRunner().invoke(main, ["plan", *same])
    run = CliRunner().invoke(main, ["generate", *same, *map(str, more)])
    assert plan.exit_code == run.exit_code == 0, plan.output + run.output
    # A dry run has labels in front, and lines on files and the recipe.
    said = [line.removeprefix("memory").strip() for line in run.output.splitlines()]
    planned = [line.strip() for line in plan.output.splitlines()]
    stages = [line for line in said if "steps" in line or "sigmas" in line or "keyframes" in line]
    table = said[-planned[::-1].index("within 1 GB") + 2 :]
    assert [line for line in planned[1:] if line in stages] == stages
    assert len(stages) >= 6
    assert planned[planned.index("within 1 GB") + 1 : -2] == table
    assert ("as reference" in plan.output) == detail


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"temporal_rounds": 1}, {}, "temporal_rounds=1 needs a temporal upscaler"),
        ({"pipeline_kind": None}, {"detail_lora": "lora"}, "has no effect without pipeline_kind='dfr'"),
        (
            {},
            {"detail_lora": "lora"},
            "takes a reference 1 times smaller, and the upscaler enlarges by 2: use a detail LoRA for 2$",
        ),
        ({"num_frames": 1}, {}, "8k \\+ 1 frames, at least 9; got 1"),
        ({"width": 64}, {}, "64x64 is too small for the DFR pipeline"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_is_loaded(
    tiny25, options, more, message, monkeypatch
):
    pipeline = open_pipeline(
        tiny25, dfr=DfrFiles(**{name: getattr(tiny25, file) for name, file in more.items()})
    )
    monkeypatch.setattr(pipeline.networks, "use", lambda *args, **more: pytest.fail("a network was loaded"))
    with pytest.raises(ValueError, match=message):
        pipeline("a ball", **{**SMALL, **options})


@pytest.mark.parametrize(
    ("name", "lora", "refused", "warned"),
    [
        ("ltx-2.5-22b-dev-transformer-bf16", None, True, ""),
        ("ltx-2.5-22b-dev-transformer-bf16", "ltx-2.5-22b-distilled-lora-450", False, ""),
        ("ltx-2.5-22b-dev-transformer-bf16", "style", False, "has full weights"),
        ("ltx-2.5-22b-distilled-transformer-bf16", None, False, ""),
        ("my-dev-merge", None, False, "has full weights"),
        ("renamed", None, False, "no name of a file says"),
        ("renamed", "distilled", False, ""),
    ],
)
def test_full_weights_without_the_distilled_lora_are_refused_or_said(
    tiny25, tmp_path, name, lora, refused, warned, caplog
):
    # The name of a folder says nothing of a file in it.
    folder = tmp_path / "distilled tests"
    folder.mkdir()
    checkpoint = folder / f"{name}.safetensors"
    checkpoint.symlink_to(tiny25.checkpoint)
    loras = []
    if lora is not None:
        loras = [tmp_path / f"{lora}.safetensors"]
        loras[0].symlink_to(tiny25.lora)
    pipeline = LTX2Pipeline(
        checkpoint, text_encoder=tiny25.text_encoder, upscaler=tiny25.upsampler, loras=loras
    )
    with caplog.at_level(logging.WARNING, "ltx2_core"):
        if refused:
            with pytest.raises(ValueError, match=f"those of {name}.safetensors are full: name a distilled"):
                pipeline.check(Request(prompt="a ball", **SMALL))
        else:
            # A command checks a request before the run does, and the warning comes once.
            pipeline.check(Request(prompt="a ball", **SMALL))
            pipeline.check(Request(prompt="a ball", **SMALL))
    said = [record.getMessage() for record in caplog.records if "weights" in record.getMessage()]
    assert len(said) == bool(warned)
    assert warned in "".join(said)


def test_a_plain_run_is_told_of_full_weights_only_where_it_is_for_distilled_ones(tiny25, tmp_path, caplog):
    checkpoint = tmp_path / "ltx-2.5-22b-dev.safetensors"
    checkpoint.symlink_to(tiny25.checkpoint)
    pipeline = LTX2Pipeline(checkpoint, text_encoder=tiny25.text_encoder)
    plain = {"prompt": "a ball", "width": 64, "height": 64, "num_frames": 9}
    with caplog.at_level(logging.WARNING, "ltx2_core"):
        pipeline.check(Request(**plain))
        assert "full weights" not in caplog.text
        pipeline.check(Request(**plain, distilled=True))
    assert "ltx-2.5-22b-dev.safetensors has full weights, which burn" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 4}, "pipeline_kind='dfr' and steps=4 contradict"),
        ({"stages": 1}, "pipeline_kind='dfr' and stages=1 contradict"),
        ({"generated_keyframes": 2}, "pipeline_kind='dfr' and generated_keyframes=2 contradict"),
        ({"video": False}, "the DFR pipeline generates video"),
        ({"guidance": Guidance()}, "samples without guidance"),
        ({"temporal_rounds": 3}, "temporal_rounds=3 must be"),
        ({"pipeline_kind": "fast"}, "pipeline_kind='fast' must be one of dfr"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Request(prompt="a ball", **{**SMALL, **options})


@pytest.mark.parametrize(
    ("generated", "frames"),
    [(1, (8,)), (3, (4, 8, 12)), ([8, -1], (8, 16)), (15, tuple(range(1, 16)))],
)
def test_keyframes_of_a_plain_run_are_generated_in_its_first_stage(pipeline, generated, frames):
    request = Request(
        prompt="a ball", width=128, height=64, num_frames=17, stages=2, generated_keyframes=generated
    )
    assert [stage.keyframes for stage in pipeline.check(request)] == [frames, ()]
    assert Request.from_settings(request.settings()).generated_keyframes == request.generated_keyframes


def test_generated_keyframes_on_the_command_line(tiny25, tmp_path):
    words = [word for word in words_of(tiny25) if word not in (str(tiny25.temporal_upsampler),)]
    words.remove("--temporal-upscaler")
    more = ["--steps", "1", "--stages", "1", "--cfg", "1", "--generated-keyframes"]
    planned = CliRunner().invoke(main, [*words, *more, "2,-1", "--dry-run"])
    assert "generates keyframes 2, 8" in planned.output, planned.output
    made = CliRunner().invoke(main, [*words, *more, "2", "-o", str(tmp_path / "x.mp4")])
    assert made.exit_code == 0, made.output
    assert settings_of(tmp_path / "x.mp4")["request"]["generated_keyframes"] == 2
