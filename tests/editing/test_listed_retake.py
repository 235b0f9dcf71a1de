"""A shot list with a source: which retake it becomes, and what does not fit the source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ltx2_core.editing.shots import ListedRetake, retake_of
from ltx2_core.media import VideoWriter
from ltx2_core.run.shots import FORMAT, parse_shots
from ltx2_core.types import Numerics


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clip.mp4: 33 frames of 64 x 48 at 8 fps, which are 4.125 s."""
    path = tmp_path_factory.mktemp("shots")
    with VideoWriter(path / "clip.mp4", width=64, height=48, fps=8) as writer:
        writer.write_frames(torch.zeros(33, 3, 48, 64))
    return path


def retaken(folder: Path, fields: dict[str, Any] | None = None, **values: Any) -> ListedRetake:
    listed = {
        "format": FORMAT,
        "prompt": "a ball",
        "source": {"file": "clip.mp4"},
        "regions": [{"track": "video", "from": 2, "to": 3}],
        **values,
    }
    shots = parse_shots(json.dumps(listed))
    return retake_of(shots, lambda name: str(folder / name), fields or {}, numerics=Numerics.OFFICIAL)


REGIONS: dict[str, tuple[list[dict[str, Any]], tuple[Any, ...], tuple[Any, ...]]] = {
    "video": ([{"track": "video", "from": 1, "to": "f16"}], ((1, 2),), ()),
    "audio": ([{"track": "audio", "from": "50%", "to": "end"}], (), ((2.0625, 4.125),)),
    "both": ([{"to": "0:01"}], ((0, 1),), ((0, 1),)),
    "apart": (
        [{"track": "audio", "to": 1}, {"track": "video", "from": 2}, {"track": "video", "to": 1}],
        ((2, 4.125), (0, 1)),
        ((0, 1),),
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_regions_are_seconds_of_the_video_and_of_the_audio(folder: Path, name: str) -> None:
    regions, video, audio = REGIONS[name]
    own = retaken(folder, regions=regions).own
    assert (own["video"], own["audio"]) == (video, audio)


def test_all_else_of_the_list_conditions_the_retake(folder: Path) -> None:
    made = retaken(
        folder,
        {"seed": 9},
        clip={"seed": 3, "steps": 2, "width": 64, "seconds": 4, "fps": 8},
        parts=[{"from": 0, "prompt": "rolls"}, {"from": 2, "prompt": "stops"}],
        images=[{"file": "last.png", "at": "end"}],
        audio=[{"file": "voice.wav", "at": 0.5, "gain_db": -3}],
    )
    assert (made.prompt, made.source) == ("a ball", folder / "clip.mp4")
    assert made.fields["seed"] == 9
    assert made.fields["steps"] == 2
    assert made.fields["images"][0].frame == -1
    assert "rolls" in made.fields["prompts_at"]
    assert not {"width", "seconds", "num_frames", "fps", "audio"} & {*made.fields}
    (piece,) = made.own["pieces"]
    assert (piece["path"], piece["at_s"], piece["gain_db"]) == (str(folder / "voice.wav"), 0.5, -3)


def test_a_first_image_is_left_out_unless_its_frame_is_regenerated(folder: Path) -> None:
    images = [{"file": "first.png", "strength": 0.9}]
    made = retaken(folder, images=images)
    assert "image" not in made.fields
    assert "has no effect" in made.notes[0]
    made = retaken(folder, images=images, regions=[{"to": 1}])
    assert made.fields["image"] == str(folder / "first.png")
    assert made.notes == ()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "another width": ({"clip": {"width": 96}}, "clip: width must be that of the source, which has 64x48"),
    "another rate": ({"clip": {"fps": 24, "frames": 121}}, "clip: frames and fps must be"),
    "another length": ({"clip": {"seconds": 8}}, "clip: seconds must be"),
    "after the end": ({"regions": [{"from": 2, "to": 9}]}, "regions 1, to: 9.* is outside of the clip"),
    "reversed": ({"regions": [{"from": 3, "to": 2}]}, "regions 1: it ends at 2.0, which is no later"),
    "empty": ({"regions": [{"from": "end"}]}, "'end' is no time"),
    "no file": ({"source": {"file": "gone.mp4"}}, "gone.mp4"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_the_source_is_refused(folder: Path, name: str) -> None:
    values, message = WRONG[name]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        retaken(folder, **values)
