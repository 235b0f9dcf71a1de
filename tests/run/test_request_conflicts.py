"""Keywords of a request that contradict each other are errors that name both."""

from __future__ import annotations

import pytest

from ltx2_core.run.request import Request

MISTAKES = (
    ({"distilled": True, "steps": 2}, "distilled=True and steps=2 contradict"),
    ({"distilled": True, "cfg": 3.0}, r"distilled=True and cfg=3\.0 contradict"),
    ({"distilled": True, "sigmas": (1.0, 0.0)}, "distilled=True and sigmas contradict"),
    ({"sigmas": (1.0, 0.0), "steps": 1}, "sigmas and steps=1 contradict"),
    ({"num_frames": 9, "seconds": 1.0}, r"num_frames=9 and seconds=1\.0 contradict"),
    ({"audio_start_s": 1.0}, r"audio_start_s=1\.0 has no effect without audio"),
    ({"image_strength": 0.5}, r"image_strength=0\.5 has no effect without image"),
    ({"identity": 2.0}, r"identity=2\.0 has no effect without reference_audio"),
    ({"denoise": 0.5}, r"denoise=0\.5 needs latents"),
)


@pytest.mark.parametrize(("options", "words"), MISTAKES)
def test_both_names_are_in_the_error(options, words):
    with pytest.raises(ValueError, match=words):
        Request(prompt="a", **options)


def test_a_change_is_checked_against_a_distilled_request():
    with pytest.raises(ValueError, match="distilled=True and steps=2"):
        Request(prompt="a", distilled=True).changed(steps=2)


@pytest.mark.parametrize("options", [{"distilled": False, "steps": 2}, {"steps": None, "distilled": True}])
def test_what_is_off_contradicts_nothing(options):
    assert Request(prompt="a", **options).steps == options["steps"]


def test_what_the_recipe_chose_is_no_contradiction():
    request, _ = Request(prompt="a", distilled=True).with_recipe()
    assert Request.from_settings(request.settings()) == request
