"""The choice of model, files, size and length for a GPU: what the memory plan of the choice says is true."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.memory import plan_memory, released_size
from ltx2_core.released.table import model_of, released_models
from ltx2_core.run import choice as choice_module
from ltx2_core.run.choice import QUALITIES, SIZES, choose_run
from ltx2_core.run.recipes import recipe_for

GB = 10**9


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("budget", [4, 8, 12, 24, 80])
def test_the_choice_fits_and_the_next_size_does_not(budget, quality):
    choice = choose_run(budget * GB, quality=quality)
    size = released_size(choice.release, choice.stored)
    clips = [choice.clip.half(), choice.clip]
    assert plan_memory(budget * GB, size, clips=clips, dtype=torch.bfloat16) == choice.memory
    assert choice.memory.fits
    asked = (choice.clip.width, choice.clip.height)
    assert asked in SIZES
    assert asked == QUALITIES[quality].largest or any(
        "size: " in one and "since" in one for one in choice.reasons
    )


@pytest.mark.parametrize("quality", QUALITIES)
def test_more_memory_never_gives_a_smaller_or_shorter_clip(quality):
    choices = [
        choose_run(budget * GB, quality=quality, seconds=15) for budget in (3, 4, 6, 8, 12, 16, 24, 48)
    ]
    pixels = [
        choice.clip.width * choice.clip.height for choice in choices if choice.model == choices[-1].model
    ]
    assert pixels == sorted(pixels)


def test_the_steps_and_the_name_are_those_of_the_released_model():
    for quality in QUALITIES:
        choice = choose_run(24 * GB, quality=quality)
        model = model_of(choice.model)
        kind = "distilled" if model.distilled else "dev"
        assert choice.steps == recipe_for(choice.release, kind).steps
        assert f"--model {choice.model} " in choice.command


def test_files_of_fewer_bits_are_taken_where_more_bits_would_be_copied():
    eight = choose_run(32 * GB, lora="2.3")
    assert (eight.model, eight.memory.streamed) == ("ltx-2.3-distilled-fp8", False)
    assert any("since bf16 copies" in one for one in eight.reasons)
    assert choose_run(80 * GB, lora="2.3").model == "ltx-2.3-distilled"
    # Full weights are for quality, so that their bits are kept as long as they fit.
    assert choose_run(32 * GB, quality="best").model == "ltx-2.3"


def test_a_lora_keeps_the_generation_it_was_trained_for():
    assert choose_run(24 * GB, lora="2.0").model.startswith("ltx-2.0")
    assert choose_run(24 * GB, quality="best", lora="2.5").model == "ltx-2.5-distilled"


def test_a_clip_without_audio_is_for_ltx_video():
    small = choose_run(8 * GB, audio=False)
    assert (small.model, small.release, small.memory.streamed) == ("ltxv-2b-distilled", "ltxv-2b", False)
    assert any("13B copies" in one for one in small.reasons)
    assert (small.steps, small.stage2_steps, small.cfg) == (7, 3, 1.0)
    large = choose_run(24 * GB, audio=False)
    assert (large.model, large.offload) == ("ltxv-13b-distilled-fp8", "none")
    assert choose_run(80 * GB, audio=False, quality="fast").release == "ltxv-2b"
    best = choose_run(8 * GB, audio=False, quality="best")
    assert (best.model, best.steps, best.stage2_steps) == ("ltxv-13b", 27, 13)
    one = choose_run(24 * GB, lora="ltxv-2b", quality="best")
    assert (one.model, one.stage2_steps, len(one.memory.stages)) == ("ltxv-2b", 0, 3)


def test_where_no_model_with_audio_fits_ltx_video_is_the_last_resort():
    choice = choose_run(6 * GB, system_memory=12 * GB)
    assert choice.model == "ltxv-2b-distilled"
    assert "no model with audio fits, and this one has none" in choice.reasons[0]


def test_every_released_model_can_be_chosen_from():
    known = {(one.name, one.release, one.kind, one.stored) for one in choice_module._released_files()}
    assert {name for name, *_ in known} == {*released_models()}
    for _, release, kind, stored in known:
        assert released_size(release, stored).transformer_weights > 0
        assert recipe_for(release, kind).kind == kind


@pytest.mark.parametrize(("release", "count"), [("ltxv-2b", 1_923_385_472), ("ltxv-13b", 13_042_569_344)])
def test_sizes_of_ltx_video_are_those_of_its_files(release, count):
    size = released_size(release)
    assert (size.transformer_weights, size.decoder_weights) == (2 * count, 2 * 552_814_641)


def test_without_room_for_full_weights_the_distilled_model_is_chosen_and_the_reason_said():
    choice = choose_run(4 * GB, quality="best")
    assert choice.model == "ltx-2.5-distilled"
    assert "no model of dev weights fits" in choice.reasons[0]


def test_a_length_that_no_size_fits_is_shortened():
    choice = choose_run(int(2.5 * GB), seconds=120)
    assert choice.clip.seconds < 120
    assert any(one.startswith("length: ") and "since 120 s needs" in one for one in choice.reasons)


def test_system_memory_counts():
    most = 15 * GB + GB // 2
    choice = choose_run(6 * GB, system_memory=most)
    assert 0 < max(stage.host for stage in choice.memory.stages) <= most
    with pytest.raises(ValueError, match=r"4 GB of system memory: 1 s of .* needs .* of system memory"):
        choose_run(6 * GB, system_memory=4 * GB)


def test_plain_values_for_other_programs():
    found = choose_run(8 * GB, image=True).as_dict()
    assert (found["pipeline"], found["dtype"], found["offload"]) == ("image to video", "bfloat16", "blocks")
    assert "--image IMAGE" in choose_run(8 * GB, image=True).command
    assert all(isinstance(note, str) for note in found["notes"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quality": "quick"}, "quality must be one of fast, balanced, best"),
        ({"seconds": 0}, "seconds must be positive"),
        ({"seconds": float("nan")}, "seconds must be positive"),
        ({"audio": False, "lora": "2.3"}, "a LoRA for 2.3 needs a model with audio"),
    ],
)
def test_bad_wishes_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        choose_run(8 * GB, **options)
