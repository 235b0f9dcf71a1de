"""Prompts by time on the embedded set: the second prompt rules its own seconds and leaves the first ones."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from ltx2_core import LTX2Pipeline
from ltx2_core.conditioning.inputs import ImageAt
from ltx2_core.training.world import FPS, measure

SIDE, FRAMES = 128, 49
SCENES = (
    (("red", "blue", "stands still"), ("green", "magenta", "pulses")),
    (("white", "green", "pulses"), ("red", "blue", "stands still")),
    (("cyan", "red", "stands still"), ("white", "blue", "bounces")),
    (("green", "magenta", "bounces"), ("cyan", "red", "stands still")),
)
SOUNDS = {
    "stands still": "silence",
    "pulses": "a tone swells and fades with it",
    "bounces": "a knock at each bounce",
}
MOTIONS = {"stands still": "still", "pulses": "pulse", "bounces": "bounce"}


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32, keep_loaded=True)


def text_of(colour: str, background: str, moves: str) -> str:
    return f"a {colour} circle {moves} on a {background} background, {SOUNDS[moves]}"


@pytest.mark.semantic
@pytest.mark.parametrize("guided", [False, True], ids=["no guide", "a guide"])
def test_each_prompt_rules_the_seconds_of_its_part(pipeline: LTX2Pipeline, guided: bool) -> None:
    right: dict[str, list[bool]] = {"first": [], "second": [], "motion of the second": []}
    for seed, (one, two) in enumerate(SCENES):
        # The guide adds a latent frame of tokens; for tools that count tokens the second part is then later.
        image = Image.new("RGB", (SIDE, SIDE), two[1])
        clip = pipeline(
            "",
            prompts_at=f"0: {text_of(*one)}; 50%: {text_of(*two)}",
            images=[ImageAt(source=image, frame=FRAMES - 1, strength=0.3)] if guided else (),
            width=SIDE,
            height=SIDE,
            num_frames=FRAMES,
            fps=FPS,
            steps=12,
            seed=seed,
        )
        frames = torch.cat(list(clip.frames()))
        half = FRAMES // 2
        for part, scene, span in (("first", one, slice(2, half - 3)), ("second", two, slice(half + 4, -2))):
            measured = measure(frames[span], None)
            right[part] += [measured.background == scene[1], scene[0] in measured.colours]
        right["motion of the second"].append(measure(frames[half:], None).video.motion == MOTIONS[two[2]])
    shares = {name: sum(values) / len(values) for name, values in right.items()}
    assert shares["first"] >= 0.75, shares
    assert shares["second"] >= 0.75, shares
    assert shares["motion of the second"] >= 0.75, shares
