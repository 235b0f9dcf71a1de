"""Calls of the edits that cannot be met name the argument, before a network is loaded."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch

from ltx2_core import LTX2Pipeline
from ltx2_core.editing import (
    Footage,
    LongVideo,
    PromptSchedule,
    add_audio,
    extend,
    long_video,
    retake,
    text_to_audio,
)

NAN = float("nan")
SMALL = {"width": 64, "height": 64, "num_frames": 9, "fps": 8}

EXTEND: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"seconds": "1"}, TypeError, "seconds='1'"),
    ({"seconds": NAN}, ValueError, "seconds=nan"),
    ({"seconds": 0}, ValueError, "seconds=0"),
    ({"seconds": 0.01}, ValueError, "seconds=0.01 is less than half a frame"),
    ({"frames": 2.5}, TypeError, "frames=2.5"),
    ({"frames": True}, TypeError, "frames=True"),
    ({"frames": 10**9}, ValueError, "frames=1000000000"),
    ({"frames": 4, "keep_frames": "25"}, TypeError, "keep_frames='25'"),
    ({"frames": 4, "keep_frames": 25.0}, TypeError, "keep_frames=25.0"),
    ({"frames": 4, "fade_frames": -1}, ValueError, "fade_frames=-1"),
    ({"frames": 4, "fade_frames": 1.5}, TypeError, "fade_frames=1.5"),
    ({"frames": 4, "fade_frames": 30}, ValueError, "fade_frames=30"),
    ({"frames": 4, "exact_outside": 1}, TypeError, "exact_outside=1"),
    ({"frames": 4, "source": "clip.mp4"}, TypeError, "source='clip.mp4' must be a Footage"),
    ({"frames": 4, "num_inference_steps": 2}, TypeError, "num_inference_steps.*steps"),
    ({"frames": 4, "on_step": 3}, TypeError, "on_step=3 must be a function"),
)

RETAKE: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"video": "0-1"}, TypeError, "pairs of start and end.*got '0-1'"),
    ({"video": (0, 1)}, TypeError, "pairs of start and end.*got 0"),
    ({"video": [(0, 1, 2)]}, TypeError, "pairs of start and end"),
    ({"audio": [("a", "b")]}, TypeError, "pairs of start and end"),
    ({"video": [(0, NAN)]}, ValueError, "region 0-nan"),
    ({"video": [(0, 1)], "rounding": "nearest"}, ValueError, "rounding='nearest' must be one of inside"),
    ({"video": [(0, 1)], "feather": 1.5}, TypeError, "feather=1.5"),
    ({"video": [(0, 1)], "feather": "2"}, TypeError, "feather='2'"),
    ({"video": [(0, 1)], "feather": 1000}, ValueError, "feather=1000 is too much for a region of 9"),
    ({"video": [(0, 1)], "paste": "no"}, TypeError, "paste='no'"),
    ({"video": [(0, 1)], "allow_past_end": 1}, TypeError, "allow_past_end=1"),
    ({"video": [(0, 1)], "source": None}, TypeError, "source=None must be a Footage"),
)

SOUND: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"ceiling_db": 3}, ValueError, "ceiling_db=3"),
    ({"ceiling_db": NAN}, ValueError, "ceiling_db=nan"),
    ({"ceiling_db": "x"}, TypeError, "ceiling_db='x'"),
    ({"window_frames": "25"}, TypeError, "window_frames='25'"),
    ({"window_frames": 10}, ValueError, "window_frames=10"),
    ({"source": 3}, TypeError, "source=3 must be a Footage"),
)

AUDIO: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"seconds": 0}, ValueError, "seconds=0"),
    ({"seconds": NAN}, ValueError, "seconds=nan"),
    ({"seconds": "2"}, TypeError, "seconds='2'"),
    ({"seconds": 1e9}, ValueError, "seconds=1000000000"),
    ({"seconds": 1, "ceiling_db": 1}, ValueError, "ceiling_db=1"),
)

LONG: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"window_frames": "25"}, TypeError, "window_frames='25'"),
    ({"window_frames": 25.0}, TypeError, "window_frames=25.0"),
    ({"window_frames": 0}, ValueError, "window_frames=0"),
    ({"overlap_frames": 2.5}, TypeError, "overlap_frames=2.5"),
    ({"overlap_strength": NAN}, ValueError, "overlap_strength=nan"),
    ({"overlap_strength": 2}, ValueError, "overlap_strength=2"),
    ({"adain_factor": 3}, ValueError, "adain_factor=3"),
    ({"source_strength": 5}, ValueError, "source_strength=5"),
    ({"denoise": -1}, ValueError, "denoise=-1"),
    ({"denoise": 0.5}, ValueError, "denoise=0.5 preserves a part of the source"),
    ({"keyframes": ["a.png"]}, TypeError, "keyframes='a.png'"),
    ({"source": "a.mp4"}, TypeError, "source='a.mp4' must be a FramesInFile"),
)

FOOTAGE: tuple[tuple[dict[str, Any], type[Exception], str], ...] = (
    ({"fps": 0}, ValueError, "fps=0"),
    ({"fps": NAN}, ValueError, "fps=nan"),
    ({"fps": "8"}, TypeError, "fps='8'"),
    ({"audio": torch.zeros(1, 16000)}, TypeError, "audio must be"),
    ({"frames": torch.zeros(3, 8, 8)}, ValueError, "frames must be"),
)


@pytest.fixture(scope="module")
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32)


@pytest.fixture(autouse=True)
def _unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the weights of a model file fails the test; headers may be read."""

    def read(path: Any, *arguments: Any, **options: Any) -> None:
        pytest.fail(f"the weights in {path} were read")

    for module in ("ltx2_core.storage.reading", "ltx2_core.loading.lora_merge"):
        monkeypatch.setattr(importlib.import_module(module), "safe_open", read)


def source() -> Footage:
    return Footage(frames=torch.rand(33, 3, 64, 64), fps=8.0, audio=(torch.zeros(2, 64000), 16000))


@pytest.mark.parametrize(
    ("edit", "row"),
    [
        *((extend, row) for row in EXTEND),
        *((retake, row) for row in RETAKE),
        *((add_audio, row) for row in SOUND),
        *((text_to_audio, row) for row in AUDIO),
    ],
    ids=lambda value: value.__name__ if callable(value) else value[2],
)
def test_an_edit_that_cannot_be_made_names_the_argument(edit, row, pipeline) -> None:
    options, kind, words = row
    given = {"source": source(), **options}
    own = given.pop("source")
    with pytest.raises(kind, match=words) as error:
        edit(pipeline, "a ball", *(() if edit is text_to_audio else (own,)), steps=1, **given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("options", "kind", "words"), LONG, ids=[row[2] for row in LONG])
def test_windows_that_cannot_be_planned_name_the_argument(options, kind, words) -> None:
    with pytest.raises(kind, match=words):
        LongVideo(**options)


@pytest.mark.parametrize(("options", "kind", "words"), FOOTAGE, ids=[row[2] for row in FOOTAGE])
def test_a_source_that_is_none_names_the_argument(options, kind, words) -> None:
    with pytest.raises(kind, match=words):
        Footage(**{"frames": torch.zeros(3, 3, 8, 8), "fps": 8.0, **options})


def test_a_long_clip_without_prompts_or_division_is_named(pipeline) -> None:
    for prompts in (None, ["a", "b"], 3):
        with pytest.raises(TypeError, match="prompts must be text"):
            PromptSchedule.parse(prompts)
        with pytest.raises(TypeError, match="prompts must be text"):
            long_video(pipeline, prompts, **SMALL)
    with pytest.raises(TypeError, match="how=25 must be a LongVideo"):
        long_video(pipeline, "a ball", how=25, **SMALL)


def test_numbers_of_numpy_and_names_of_roundings_are_fine(pipeline) -> None:
    with pytest.raises(pytest.fail.Exception, match="were read"):
        extend(pipeline, "a ball", source(), frames=np.int64(4), keep_frames=np.int32(9), steps=1)
    with pytest.raises(pytest.fail.Exception, match="were read"):
        retake(pipeline, "a ball", source(), video=np.array([[0.0, 1.0]]), rounding="inside", steps=1)
