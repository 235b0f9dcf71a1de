"""Shot lists made of timelines of LTX Director and prompts of Wan2GP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ltx2_core.run.shots import imported, mapped, parse_shots
from ltx2_core.shapes import ClipPlan

CLIP = ClipPlan(width=64, height=64, frames=49, fps=8.0)
DIRECTOR = {
    "version": 1,
    "settings": {"frame_rate": 24, "duration_frames": 120, "guide_strength": "1.00,0.7", "custom_width": 768},
    "global_prompt": "a hall",
    "timeline": {
        "mainTrackEnabled": True,
        "segments": [
            {
                "id": "b",
                "type": "image",
                "start": 54,
                "length": 66,
                "prompt": "it stops",
                "imageFile": "b.png",
                "isEndFrame": True,
            },
            {
                "id": "a",
                "type": "image",
                "start": 0,
                "length": 54,
                "prompt": "it rolls",
                "imageFile": "a.png",
            },
            {"id": "c", "type": "video", "start": 60, "length": 9, "imageFile": "c.mp4"},
            {"id": "d", "type": "text", "start": 90, "length": 9, "imageB64": "data:..."},
        ],
        "motionSegments": [{"videoFile": "pose.mp4", "start": 8, "length": 20, "videoStrength": 0.8}],
        "audioSegments": [{"audioFile": "v.wav", "start": 24, "length": 48, "trimStart": 12}],
        "inpaint_audio": True,
        "retakeMode": True,
    },
}


@pytest.mark.parametrize("form", ["file", "widget"])
def test_a_timeline_of_director_becomes_a_shot_list(form: str) -> None:
    timeline = {**DIRECTOR["timeline"], "global_prompt": "a hall"}  # type: ignore[dict-item]
    made, notes = imported(json.dumps(DIRECTOR if form == "file" else timeline))
    listed = parse_shots(json.dumps(made))
    assert (listed.prompt, [(p.start, p.prompt) for p in listed.parts]) == (
        "a hall",
        [("f0", "it rolls"), ("f54", "it stops")],
    )
    assert [(i.file, i.at, i.mode) for i in listed.images] == [
        ("a.png", "f0", "key"),
        ("b.png", "f119", "key"),
    ]
    assert [i.strength for i in listed.images] == ([1.0, 0.7] if form == "file" else [1.0, 1.0])
    assert [(c.file, c.strength, c.start, c.to) for c in listed.control] == [("pose.mp4", 0.8, "f8", "f28")]
    assert [(a.file, a.at, a.trim) for a in listed.audio] == [("v.wav", 1.0, (0.5, 2.5))]
    assert (listed.clip.frames, listed.clip.fps, listed.clip.width) == (
        (121, 24.0, 768) if form == "file" else (None, None, None)
    )
    said = "\n".join(notes)
    for what in ("c.mp4", "imageB64", "the retake"):
        assert what in said
    # The text of the widget has no length of the clip.
    gaps = [("audio", 0.0, 1.0), ("audio", 3.0, "end")]
    assert [(r.track, r.start, r.to) for r in listed.regions] == (gaps if form == "file" else gaps[:1])
    clip = ClipPlan(width=768, height=512, frames=121, fps=24.0)
    made_fields = mapped(listed.model_copy(update={"audio": [], "regions": []}), clip, str).fields
    assert made_fields["images"][1].frame == 119


def test_a_retake_of_director_becomes_a_source_with_a_region() -> None:
    timeline = {
        **DIRECTOR["timeline"],  # type: ignore[dict-item]
        "retakeVideo": {"fileName": "take.mp4", "videoDurationFrames": 121},
        "retakeStart": 24,
        "retakeLength": 24,
        "retakePrompt": "it jumps",
        "retakeStrength": 0.5,
    }
    made, notes = imported(json.dumps({**DIRECTOR, "timeline": timeline, "retake_global_prompt": "a yard"}))
    listed = parse_shots(json.dumps(made))
    assert listed.source is not None
    (region,) = listed.regions
    assert (listed.source.file, region.track, region.start, region.to) == ("take.mp4", "both", "f24", "f48")
    assert (listed.prompt, listed.parts, listed.clip.width) == ("a yard it jumps", [], None)
    assert any("strength of the retake" in note for note in notes)


def test_a_track_that_is_off_and_rubbish_in_a_timeline_are_named() -> None:
    made, notes = imported(
        json.dumps({"segments": [{"prompt": "x"}], "mainTrackEnabled": False, "global_prompt": "g"})
    )
    assert "parts" not in made
    assert "switched off" in notes[0]
    with pytest.raises(ValueError, match="segments of the timeline is no list of objects"):
        imported('{"segments": ["x"], "audioSegments": []}')
    with pytest.raises(ValueError, match="neither a shot list"):
        imported('{"a": 1}')
    made, _ = imported(
        json.dumps({"segments": [{"prompt": "x", "start": "NaN", "length": {}, "imageFile": 3}]})
    )
    assert made["parts"] == [{"from": "f0", "prompt": "x"}]


WAN: dict[str, tuple[str, str, list[tuple[Any, Any, str]]]] = {
    "percent": (
        "a hall [0%:25%] it rolls [25%:100%] it stops",
        "a hall",
        [("0%", "25%", "it rolls"), ("25%", "100%", "it stops")],
    ),
    "seconds": (
        "a hall [0s:2s] it rolls\n[2s:] it stops",
        "a hall",
        [("0", "2", "it rolls"), ("2", None, "it stops")],
    ),
    "frames": ("[1:30] a [31:49] b", "", [("f0", "f29", "a"), ("f30", "f48", "b")]),
    "comments": ("# no\na hall [0s:1s] a [1s:] b", "a hall", [("0", "1", "a"), ("1", None, "b")]),
}


@pytest.mark.parametrize("name", WAN)
def test_a_prompt_of_wan2gp_becomes_a_shot_list(name: str) -> None:
    text, prompt, parts = WAN[name]
    made, _ = imported(text)
    listed = parse_shots(json.dumps(made))
    assert listed.prompt == prompt
    assert [(part.start, part.to, part.prompt) for part in listed.parts] == parts
    assert mapped(listed, CLIP, str).fields["prompts_at"]


def test_commands_of_wan2gp_are_named_and_a_plain_prompt_is_refused() -> None:
    _, notes = imported('!{A}="x"\na hall [/duration=5s] [0%:50%] a [50%:] b')
    assert any("/duration=5s" in note for note in notes)
    with pytest.raises(ValueError, match="plain prompt"):
        imported("a ball")


def test_audio_of_director_without_a_file_is_a_gap_that_is_generated() -> None:
    timeline = {
        "global_prompt": "a hall",
        "audioSegments": [{"start": 0, "length": 24}, {"audioFile": "v.wav", "start": 48, "length": 24}],
        "inpaint_audio": True,
    }
    made, _ = imported(json.dumps(timeline))
    assert made["regions"] == [{"track": "audio", "from": 0.0, "to": 2.0}]
