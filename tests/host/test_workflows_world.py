"""Content of the workflows' results on the trained tiny set: what their prompts and their inputs say.

Skipped where the embedded set is of random weights. Seeds are those of the files, and one clip is no
statistics: most of the clips have to agree, not each; benchmarks/semantics.py has the figures.
"""

from __future__ import annotations

from statistics import mean, median
from typing import Any

import pytest
from workflow_inputs import BOUNCE, CONTROL, CONTROL_FRAMES, CONTROL_SIZE, FPS, FRAMES, KNOCKS, SIZE, SLIDE
from workflow_runs import Runs

from ltx2_core.training.data import psnr
from ltx2_core.training.world import edge_iou, edge_map, event_distance, measure, render_frames

SAID = {
    "text_to_video_two_stages": ("red", "blue", "bounce"),
    "text_to_video_distilled": ("green", "white", "slide_left"),
    "text_to_video_guided": ("magenta", "black", "pulse"),
    "camera_lora": ("red", "blue", "bounce"),
    "image_to_video_two_stages": ("yellow", "blue", "slide_right"),
    "image_to_video_distilled": ("yellow", "blue", "slide_right"),
    "audio_to_video": ("cyan", "black", "bounce"),
    "first_last_frame": ("yellow", "blue", "slide_right"),
    "keyframes_two_stages": ("yellow", "blue", "slide_right"),
    "reference_audio": ("red", "blue", "bounce"),
    "extend_video": ("red", "blue", "bounce"),
    "mask_past_the_end": ("red", "blue", "bounce"),
    "ic_lora_control": ("white", "red", "bounce"),
    "ic_lora_canny": ("yellow", "blue", "bounce"),
    "ic_lora_image": ("white", "red", "bounce"),
}
"""Colour, background and motion of the prompts whose clip is all of one piece."""
NEAR = 3.0
"""Frames between what belongs together."""
CHANCE = 1 / 5


@pytest.fixture(scope="module")
def world(runs: Runs) -> Runs:
    if not runs.trained:
        pytest.skip("the embedded set is of random weights; what it draws means nothing")
    return runs


def test_most_clips_have_the_colours_that_their_prompts_say_and_the_motion(world: Runs):
    right: dict[str, list[bool]] = {"colour": [], "background": [], "motion": []}
    for name, (colour, background, motion) in SAID.items():
        seen = world.run(name).seen()
        right["colour"].append(colour in seen.colours)
        right["background"].append(seen.background == background)
        right["motion"].append(seen.motion == motion)
    rates = {word: mean(values) for word, values in right.items()}
    assert rates["colour"] > 3 * CHANCE, rates
    assert rates["background"] > 3 * CHANCE, rates
    assert rates["motion"] > 3 * CHANCE, rates


def test_what_is_heard_belongs_to_what_is_seen(world: Runs):
    seconds = FRAMES / FPS
    seen = {
        name: world.run(name).seen()
        for name in ("text_to_video_two_stages", "extend_video", "audio_to_video", "video_to_audio")
    }
    pairs = [
        *((clip.contacts_s, clip.onsets_s) for clip in seen.values()),
        (seen["audio_to_video"].contacts_s, KNOCKS.contacts(seconds)),
        (seen["video_to_audio"].onsets_s, BOUNCE.contacts(seconds)),
    ]
    apart = [event_distance(*pair) * FPS for pair in pairs]
    assert median(apart) <= NEAR, apart


@pytest.mark.parametrize(
    "name", ["image_to_video_two_stages", "image_to_video_distilled", "first_last_frame"]
)
def test_the_first_frame_is_the_input_image(world: Runs, name: str):
    first = world.run(name).clip.frames[:1]
    assert float(psnr(first[None], render_frames(SLIDE, 1, *SIZE)[None])) > 18


def test_the_audio_of_an_extension_continues(world: Runs):
    clip = world.run("extend_video").clip
    assert clip.sound is not None
    new = clip.sound[:, round((FRAMES / FPS + 0.1) * clip.rate) :]
    assert new.abs().max() > 0.02, "the clip knocks, and so does what follows"


def test_a_retake_is_the_source_outside_and_something_else_inside(world: Runs):
    frames = world.run("retake_two_stages").clip.frames
    source = render_frames(BOUNCE, FRAMES, *SIZE)
    outside = measure(frames[:25], None, fps=FPS)
    assert (outside.background, outside.colours[:1]) == ("blue", ("red",))
    assert float(psnr(frames[None, 25:], source[None, 25:])) < float(
        psnr(frames[None, :25], source[None, :25])
    )


def test_the_edges_of_the_clips_are_those_of_the_control(world: Runs):
    wanted = edge_map(render_frames(CONTROL, CONTROL_FRAMES, *CONTROL_SIZE))

    def agreed(**changes: Any) -> list[float]:
        runs = (world.run(name, **changes) for name in ("ic_lora_control", "ic_lora_canny", "ic_lora_image"))
        return [edge_iou(edge_map(run.clip.frames), wanted, tolerance=2) for run in runs]

    shown, unlearnt = agreed(), agreed(control={"strength": 0.0})
    assert mean(shown) > max(0.25, 2 * mean(unlearnt)), (shown, unlearnt)
