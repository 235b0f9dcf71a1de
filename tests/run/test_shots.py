"""Shot lists: what is read, what it becomes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.conditioning.inputs import ImageAt, VideoReference
from ltx2_core.media import write_wav
from ltx2_core.media.audio_mix import RATE, Piece, mix_pieces
from ltx2_core.run.request import Request
from ltx2_core.run.shots import FORMAT, long_prompts, mapped, parse_shots, read_shots
from ltx2_core.run.shots.format import MAX_BYTES, MAX_ENTRIES
from ltx2_core.run.shots.mapping import beside
from ltx2_core.shapes import ClipPlan

CLIP = ClipPlan(width=64, height=64, frames=49, fps=8.0)
"""6.125 s."""


def shots(**values: Any) -> str:
    return json.dumps({"format": FORMAT, "prompt": "a ball", **values})


def fields(**values: Any) -> dict[str, Any]:
    return dict(mapped(parse_shots(shots(**values)), CLIP, lambda name: f"/in/{name}").fields)


MAPPED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (
        {"clip": {"width": 64, "seconds": 2.5, "fps": 8, "stages": 1, "seed": 3, "distilled": True}},
        {"width": 64, "seconds": 2.5, "fps": 8.0, "stages": 1, "seed": 3, "distilled": True},
    ),
    "frames": ({"clip": {"frames": 49}}, {"num_frames": 49}),
    "a first image": ({"images": [{"file": "a.png"}]}, {"image": "/in/a.png"}),
    "a soft first image": (
        {"images": [{"file": "a.png", "strength": 0.7, "crf": 20}]},
        {"image": "/in/a.png", "image_strength": 0.7, "image_crf": 20},
    ),
    "a key at 0": (
        {"images": [{"file": "a.png", "mode": "key"}]},
        {"images": (ImageAt(source="/in/a.png", frame=0),)},
    ),
    "images at times": (
        {
            "images": [
                {"file": n, "at": at} for n, at in (("a", 1.0), ("b", "f24"), ("c", "50%"), ("d", "end"))
            ]
        },
        {
            "images": tuple(
                ImageAt(source=f"/in/{n}", frame=f) for n, f in (("a", 8), ("b", 24), ("c", 24), ("d", -1))
            )
        },
    ),
    "control": (
        {"control": [{"file": "d.mp4", "strength": 0.5, "scale": 2}]},
        {"references": (VideoReference(source="/in/d.mp4", strength=0.5, scale=2),)},
    ),
    "control of a range": (
        {"control": [{"file": "d.mp4", "from": "f9", "to": "f33", "trim": [1, None]}]},
        {"references": (VideoReference(source="/in/d.mp4", frame=9, frames=24, start_s=1.0),)},
    ),
    "a trimmed control": (
        {"control": [{"file": "d.mp4", "trim": [0, 2.125]}]},
        {"references": (VideoReference(source="/in/d.mp4", frames=17),)},
    ),
    "audio as it is": (
        {"audio": [{"file": "v.wav", "trim": [1.5, None]}]},
        {"audio": "/in/v.wav", "audio_start_s": 1.5},
    ),
    "audio with gaps": (
        {"audio": [{"file": "v.wav"}], "regions": [{"track": "audio", "from": 1, "to": "f16"}]},
        {"audio": "/in/v.wav", "audio_regions": ((1.0, 2.0),)},
    ),
    "a voice": (
        {"voice": {"file": "v.wav", "seconds": 3, "identity": 2}},
        {"reference_audio": "/in/v.wav", "reference_s": 3.0, "identity": 2.0},
    ),
    "texts": (
        {"negative": "dark", "trigger": "sks", "fade": 0.5, "parts": [{"prompt": "[trigger] rolls"}]},
        {
            "negative_prompt": "dark",
            "trigger": "sks",
            "prompt_fade": 0.5,
            "prompts_at": '[{"from": 0.0, "prompt": "[trigger] rolls"}]',
        },
    ),
    "one text": (
        {"method": "relay", "parts": [{"prompt": "rolls"}]},
        {"prompt_method": "relay", "prompts_at": '[{"from": 0.0, "prompt": "rolls"}]'},
    ),
    "notes of other tools": ({"x-ui": {"zoom": 3}, "clip": {"x-a": 1, "seed": 2}}, {"seed": 2}),
}


@pytest.mark.parametrize("name", MAPPED)
def test_a_shot_list_becomes_keywords_of_a_request(name: str) -> None:
    values, expected = MAPPED[name]
    made = fields(**values)
    assert made == expected
    Request(prompt="a ball [trigger]", **made)


def test_parts_are_sorted_and_may_have_any_kind_of_time() -> None:
    made = fields(
        parts=[
            {"from": "50%", "prompt": "stops: now; really"},
            {"from": 0, "to": "f8", "prompt": "rolls"},
            {"from": "0:01", "prompt": "turns"},
        ]
    )
    request = Request(prompt="a ball", **made)
    assert request.text.by_time(CLIP.seconds) == (
        (0.0, "a ball rolls"),
        (1.0, "a ball turns"),
        (3.0625, "a ball stops: now; really"),
    )


def test_a_time_between_two_frames_is_rounded_and_said() -> None:
    made = mapped(parse_shots(shots(images=[{"file": "a", "at": 1.05}])), CLIP, str)
    assert made.fields["images"][0].frame == 8
    assert made.notes == ("images 1, at: 1.05 is frame 8, at 1.000 s",)


def test_a_range_of_a_control_video_is_brought_to_the_grid_and_said() -> None:
    made = mapped(parse_shots(shots(control=[{"file": "a", "from": 2, "to": 4.5}])), CLIP, str)
    (reference,) = made.fields["references"]
    assert (reference.frame, reference.frames) == (16, 20)
    assert made.notes == (
        "control 1: it is used for frames 9 to 24: 16 frames used, 2 latent frames, on the latent grid",
    )


def test_a_long_clip_has_the_prompt_before_that_of_each_part() -> None:
    listed = parse_shots(shots(parts=[{"from": 0, "prompt": "rolls"}, {"from": 3, "prompt": "stops"}]))
    assert long_prompts(listed, CLIP).parts == ((0.0, "a ball rolls"), (3.0, "a ball stops"))
    assert long_prompts(parse_shots(shots()), CLIP).parts == ((0.0, "a ball"),)


WRONG: dict[str, tuple[str, str]] = {
    "no JSON": ("{", "line 1, column 2"),
    "a list": ("[]", "a JSON object is expected, found list"),
    "no format": ('{"prompt": "x"}', 'begins with "format"'),
    "another format": ('{"format": "ltx2.shots/9", "prompt": "x"}', "ltx2.shots/9"),
    "no prompt": ('{"format": "ltx2.shots/1"}', "no prompt"),
    "an unknown key": (shots(colour=1), "colour is no key of ltx2.shots/1"),
    "a key deep inside": (shots(images=[{"file": "a", "when": 1}]), "images.0.when is no key"),
    "NaN": ('{"format": "ltx2.shots/1", "prompt": "x", "fade": NaN}', "NaN is no number"),
    "infinite": ('{"format": "ltx2.shots/1", "prompt": "x", "fade": 1e999}', "fade"),
    "a key twice": ('{"format": "ltx2.shots/1", "prompt": "x", "prompt": "y"}', "'prompt' occurs twice"),
    "deep": ("[" * 100_000, "nested too deeply|line 1"),
    "deep objects": ('{"a":' * 50_000, "nested too deeply|line 1"),
    "a number as text": (shots(clip={"width": "64"}), "clip.width"),
    "a flag as number": (shots(clip={"seed": True}), "clip.seed"),
    "a list as text": (shots(parts="0: a"), "parts"),
    "too many": (shots(parts=[{"prompt": "x"}] * (MAX_ENTRIES + 1)), "parts: .*at most 1000"),
    "LoRAs of a part": (
        shots(parts=[{"prompt": "x", "loras": [{"file": "a"}]}]),
        "parts 1, loras: the weights of a run are the same",
    ),
    "a video region alone": (
        shots(audio=[{"file": "a"}], regions=[{"track": "video"}]),
        "name the video as source",
    ),
    "regions alone": (shots(regions=[{}]), "name the video as source"),
    "a source alone": (shots(source={"file": "a"}), "a source without regions"),
    "a track": (shots(regions=[{"track": "sound"}]), "regions.0.track"),
    "gain": (shots(audio=[{"file": "a", "gain_db": 1e9}]), "audio.0.gain_db"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_malformed_list_is_refused_with_its_place(name: str) -> None:
    text, message = WRONG[name]
    with pytest.raises(ValueError, match=message) as error:
        parse_shots(text)
    assert len(str(error.value)) < 500


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "after the end": ({"images": [{"file": "a", "at": 7}]}, "images 1, at: 7.* is outside of the clip"),
    "a frame after the end": ({"images": [{"file": "a", "at": "f60"}]}, "outside of the clip"),
    "before the start": ({"parts": [{"from": -1, "prompt": "x"}]}, "parts 1, from: -1.* is outside"),
    "no time": ({"parts": [{"from": "soon", "prompt": "x"}]}, "'soon' is no time"),
    "the end as a start": ({"parts": [{"from": "end", "prompt": "x"}]}, "'end' is no time"),
    "two first images": ({"images": [{"file": "a"}, {"file": "b"}]}, "images 2: two images are the first"),
    "a late start": ({"images": [{"file": "a", "at": 1, "mode": "start"}]}, "mode start is for time 0"),
    "a strength": ({"images": [{"file": "a", "strength": 3}]}, "strength 3 of a first frame"),
    "a range that ends first": (
        {"control": [{"file": "a", "from": 3, "to": 2}]},
        "control 1: it ends at 2.*no later than its start, 3",
    ),
    "a short range": ({"control": [{"file": "a", "from": 1, "to": 2}]}, "control 1: the range of a ref.* 8"),
    "a trim of control": ({"control": [{"file": "a", "trim": [3, 2]}]}, "control 1, trim"),
    "a trim": ({"audio": [{"file": "a", "trim": [3, 2]}]}, "audio 1, trim"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_does_not_fit_the_clip_is_refused_with_its_place(name: str) -> None:
    values, message = IMPOSSIBLE[name]
    with pytest.raises(ValueError, match=message):
        fields(**values)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "data:image/png;base64,AAAA"])
def test_a_name_that_no_file_has_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"no name of a file|are named"):
        mapped(parse_shots(shots(images=[{"file": name}])), CLIP, beside(tmp_path / "s.json"))


def test_files_are_relative_to_the_list_and_hostile_text_stays_text(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    hostile = "<img src=x onerror=alert(1)> ${HOME} %s {0} \u202e"
    path.write_text(shots(prompt=hostile, images=[{"file": "a.png"}, {"file": "/b.png", "at": "end"}]))
    made = mapped(read_shots(path), CLIP, beside(path))
    assert made.prompt == hostile
    assert made.fields["image"] == str(tmp_path / "a.png")
    assert made.fields["images"][0].source == "/b.png"


def test_a_file_that_is_no_list_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    with pytest.raises(FileNotFoundError, match="no shot list at"):
        read_shots(path)
    path.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ValueError, match="at most"):
        read_shots(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="UTF-8"):
        read_shots(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"s\.json: a shot list begins with"):
        read_shots(path)


# Audio pieces


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """One second of 0.5 in mono at 16 kHz."""
    path = tmp_path / "tone.wav"
    write_wav(path, torch.full((1, 16000), 0.5), 16000)
    return path


def test_pieces_are_placed_trimmed_and_added(tone: Path) -> None:
    pieces = [Piece(path=tone, at_s=0.5, start_s=0.25, end_s=0.75), Piece(path=tone, at_s=0.75, gain_db=-6.0)]
    track, rate = mix_pieces(pieces, 2.0)
    assert (rate, track.shape) == (RATE, (2, 2 * RATE))

    def level(at: float) -> float:
        return float(track[:, int(at * RATE) - 200 : int(at * RATE) + 200].mean())

    expected = {0.25: 0.0, 0.6: 0.5, 0.9: 0.5 + 0.2506, 1.3: 0.2506, 1.85: 0.0}
    for second, value in expected.items():
        assert level(second) == pytest.approx(value, abs=0.01), second


def test_a_piece_is_cut_at_the_end_of_the_clip_and_fades(tone: Path) -> None:
    track, _ = mix_pieces([Piece(path=tone, at_s=1.5, fade_s=0.1)], 2.0)
    assert float(track[:, int(1.52 * RATE)].mean()) < 0.2
    assert float(track[:, int(1.75 * RATE)].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(track[:, -10:].abs().max()) < 0.05
    assert mix_pieces([Piece(path=tone, at_s=3.0)], 2.0)[0].abs().max() == 0


def test_several_pieces_become_a_waveform_of_the_clip(tone: Path) -> None:
    made = fields_of(tone, [{"file": "t", "at": 1}, {"file": "t", "at": "f24", "gain_db": -3}])
    waveform, rate = made["audio"]
    assert waveform.shape[1] == round(CLIP.seconds * rate)


def fields_of(path: Path, audio: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(mapped(parse_shots(shots(audio=audio)), CLIP, lambda _: str(path)).fields)
