"""The page of LTX-Video: its figures of memory are those of the plan, and its Python runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ltx2_core.memory import PRESETS, size_text
from ltx2_core.run.choice import choose_run
from ltx2_core.run.prompt_parts import build_prompt, named_seconds, named_size, named_strength, with_sound

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ltx-video.md"
HEAD = "| GPU | quality | model | size, 4 s | steps | GPU memory | system memory | offloaded |"


def rows() -> Iterator[str]:
    """The table of the page, as the memory plan gives it."""
    for name, budget in PRESETS.items():
        for quality in ("balanced", "best"):
            run = choose_run(budget, audio=False, quality=quality, seconds=4)
            host = max(stage.host for stage in run.memory.stages)
            second = f" + {run.stage2_steps}" if run.stage2_steps else ""
            size = f"{run.clip.width} x {run.clip.height}"
            cells = (name, quality, f"`{run.model}`", size, f"{run.steps}{second}")
            memory = (size_text(run.memory.peak), size_text(host) if host else "none", run.offload)
            yield f"| {' | '.join((*cells, *memory))} |"


def test_the_figures_of_memory_are_those_of_the_plan():
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index(HEAD) :].split("\n\n")[0].splitlines()[2:]
    assert table == list(rows())


def test_the_helpers_of_the_page_give_what_it_says():
    names = {
        "build_prompt": build_prompt,
        "with_sound": with_sound,
        "named_size": named_size,
        "named_seconds": named_seconds,
        "named_strength": named_strength,
    }
    calls = "|".join(names)
    shown = re.findall(rf"^((?:{calls})\(.*\))  # (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert {call.partition("(")[0] for call, _ in shown} == names.keys()
    for call, result in shown:
        assert repr(eval(call, names)) == result, call  # noqa: S307 calls of our own page


@pytest.mark.parametrize("quality", ["fast", "balanced", "best"])
def test_the_choice_is_a_dictionary_of_plain_values(quality):
    chosen = choose_run(PRESETS["12 GB"], audio=False, image=True, quality=quality).as_dict()
    keys = ("pipeline", "model", "dtype", "offload", "width", "height", "num_frames", "steps", "cfg", "notes")
    assert {*keys} <= chosen.keys()
    assert chosen["pipeline"] == "image to video"
