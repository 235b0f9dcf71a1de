"""What a clip made from an image is checked for, and what the report says."""

from __future__ import annotations

import pytest
import torch

from ltx2_core import LTX2Pipeline, Request
from ltx2_core.run.image_checks import ImageChecks
from ltx2_core.run.recipes import recipe_for
from ltx2_core.run.stages import plan_stages


def image(seed: int = 0) -> torch.Tensor:
    small = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(small, size=(64, 64), mode="bicubic")[0].clamp(0, 1)


def moved(first: torch.Tensor, frames: int, step: int) -> torch.Tensor:
    return torch.stack([first.roll(step * i, dims=2) for i in range(frames)]) * 2 - 1


@pytest.mark.parametrize(
    ("step", "other", "strength", "warnings"),
    [
        (1, False, 1.0, []),
        (0, False, 1.0, ["hardly moves (0.0 % per second, below 2)"]),
        (1, True, 1.0, ["look at the image"]),
        (1, True, 0.5, ["raise --image-strength"]),
        (0, True, 0.5, ["hardly moves", "raise --image-strength"]),
    ],
)
def test_the_report_has_both_figures_and_a_warning_for_each_that_is_low(step, other, strength, warnings):
    checks = ImageChecks(image=image(), strength=strength, fps=25.0)
    for chunk in moved(image(9 if other else 0), 17, step).split(8):
        checks.add(chunk)
    figures, *rest = checks.lines()
    assert f"{checks.speed:.1f} %" in figures
    assert f"{checks.psnr_db:.1f} dB" in figures
    assert len(rest) == len(warnings)
    for line, words in zip(rest, warnings, strict=True):
        assert words in line
        assert (f"({checks.speed:.1f} %" if "moves" in words else f"({checks.psnr_db:.1f} dB") in line


def test_a_single_frame_is_not_said_to_stand_still():
    checks = ImageChecks(image=image(), strength=1.0, fps=25.0)
    checks.add(moved(image(), 1, 0))
    assert list(checks.lines()) == [f"first frame {checks.psnr_db:.1f} dB to the image as encoded"]


@pytest.mark.parametrize("size", [(64, 448), (448, 64), (32, 1024)])
def test_the_motion_of_a_long_and_narrow_clip_is_measured(size):
    wide = torch.nn.functional.interpolate(image()[None], size=size, mode="bicubic")[0].clamp(0, 1)
    checks = ImageChecks(image=wide, strength=1.0, fps=25.0)
    checks.add(moved(wide, 9, 4))
    assert "per second, first frame" in next(checks.lines())
    assert checks.speed > 0


def test_a_run_is_checked_against_the_image_as_it_was_encoded(tiny_set):
    pipeline = LTX2Pipeline(tiny_set.checkpoint, text_encoder=tiny_set.text_encoder)
    options = {"width": 64, "height": 64, "num_frames": 9, "steps": 1, "cfg": 1.0}
    checks = ImageChecks.of(pipeline("x", image=image().permute(1, 2, 0).numpy(), image_crf=0, **options))
    torch.testing.assert_close(checks.image, image(), atol=1 / 255, rtol=0)
    assert ImageChecks.of(pipeline("x", **options)) is None
    assert ImageChecks.of(pipeline("x", image=moved(image(), 9, 1) / 2 + 0.5, **options)) is None


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({}, [1.0, 1.0]),
        ({"image_strength": 0.7}, [0.7, 1.0]),
        ({"stage2_image_strength": 0.5}, [1.0, 0.5]),
        ({"image_strength": 0.7, "stage2_image_strength": 0.0}, [0.7, 0.0]),
    ],
)
@pytest.mark.parametrize("generation", ["2.0", "2.3", "2.5"])
def test_each_stage_has_a_strength_of_its_own(generation, request_, expected):
    request = Request(prompt="x", image="a.png", stages=2, **request_)
    stages = plan_stages(request, recipe=recipe_for(generation))
    assert [stage.image_strength for stage in stages] == expected
    resolved, chosen = request.with_recipe(recipe_for(generation))
    assert [resolved.image_strength, resolved.stage2_image_strength] == expected
    assert {"image_strength", "stage2_image_strength"} - {*chosen} == {*request_}


def test_a_second_strength_without_a_second_stage_is_refused():
    with pytest.raises(ValueError, match="no effect on one stage"):
        Request(prompt="x", image="a.png", stages=1, stage2_image_strength=0.5)


def test_a_first_frame_is_owed_to_the_strength_of_the_last_stage(tiny_set):
    pipeline = LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, upscaler=tiny_set.upsampler
    )
    options = {"width": 64, "height": 64, "num_frames": 9, "sigmas": [1, 0], "cfg": 1.0, "stages": 2}
    first = {"image": image().permute(1, 2, 0).numpy(), "image_crf": 0, "image_strength": 0.5}
    checks = ImageChecks.of(pipeline("x", **first, stage2_image_strength=0.8, **options))
    assert checks.strength == 0.8
    checks.add(moved(image(9), 9, 0))
    _, motion, frame = checks.lines()
    assert "lower --image-strength" in motion
    assert "raise --stage2-image-strength" in frame


def test_frames_pass_unchanged_while_they_are_measured():
    frames = moved(image(), 9, 1)
    checks = ImageChecks(image=image(), strength=1.0, fps=25.0)
    passed = list(checks.watching(lambda *, as_bytes: iter(frames.split(4)))(as_bytes=False))
    assert torch.equal(torch.cat(passed), frames)
    assert checks.psnr_db > 60
