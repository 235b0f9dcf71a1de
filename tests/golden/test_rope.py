"""Positions, frequency grids, rotary tables and rotation against the reference fixture."""

import re

import pytest
import torch
from einops import rearrange, repeat

from ltx2_core.conditioning.patchify import (
    audio_positions,
    guide_positions,
    reference_positions,
    video_positions,
)
from ltx2_core.config import RopeConfig
from ltx2_core.shapes import SPATIAL_SCALE
from ltx2_core.transformer.rope import Rope, frequency_grid, rope_table, rotate

POSITION_TOLERANCE = 2e-7
TOLERANCE = 1e-5


def assert_near(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected.to(actual.dtype), rtol=0, atol=tolerance)


def fps_of(seconds, frames):
    """The rate that a time in frames was divided by: few decimals, or a ratio such as 30000/1001."""
    fps = float(frames) / float(seconds)
    nice = [round(fps, 3), round(fps * 1.001) / 1.001]
    return next((n for n in nice if abs(n - fps) < 1e-7 * fps), fps)


@pytest.mark.golden("rope")
def test_video_positions_match(golden):
    tensors = golden.tensors()
    for name in [n.removesuffix("/model") for n in tensors if re.fullmatch(r"positions/[^/]+/model", n)]:
        model, pixel = tensors[f"{name}/model"], tensors[f"{name}/pixel"]
        frames, height, width = (int(n) for n in tensors[f"{name}/latent"].amax(dim=(0, 2, 3)))
        fps = fps_of(model[0, 0, -1, 1], pixel[0, 0, -1, 1])
        assert_near(
            video_positions(frames, height, width, fps, batch=model.shape[0]), model, POSITION_TOLERANCE
        )
        assert_near(video_positions(frames, height, width, 1.0, batch=model.shape[0]), pixel, 0)


@pytest.mark.golden("rope")
def test_audio_positions_match(golden):
    for name, expected in golden.tensors().items():
        if match := re.fullmatch(r"positions/audio_(?:shift(\d+)|.*)", name):
            actual = audio_positions(expected.shape[2], shift=int(match[1] or 0), batch=expected.shape[0])
            assert_near(actual, expected, POSITION_TOLERANCE)


def guide(name, fps, expected):
    """Rebuild the guide positions that a fixture entry is named after."""
    space_scale = 2 if "half_resolution" in name else 1
    last = expected[0, 1:, -1, 1] / (SPATIAL_SCALE * space_scale)
    height, width = int(last[0]), int(last[1])
    frames = expected.shape[2] // (height * width)
    numbers = [int(n) for n in re.findall(r"_(\d+)", name)]
    if name.startswith(("image_at", "clip_at")):
        return guide_positions(frames, height, width, fps, frame=numbers[0])
    if name.startswith("generated_slots"):
        return torch.cat([guide_positions(1, height, width, fps, frame=number) for number in numbers], dim=2)
    if name.startswith("reference"):
        time_scale = {"quarter": 4, "half": 2}[name.split("_")[1]] if name.endswith("_rate") else 1
        return reference_positions(frames, height, width, fps, time_scale=time_scale, space_scale=space_scale)
    raise AssertionError(f"no rule for {name}")


@pytest.mark.golden("rope")
def test_guide_positions_match(golden):
    for name, expected in golden.tensors().items():
        if match := re.fullmatch(r"positions/guides_([\d.]+)fps/(.+)", name):
            assert_near(guide(match[2], float(match[1]), expected), expected, POSITION_TOLERANCE)


@pytest.mark.golden("rope")
def test_frequency_grids_match(golden):
    for name, expected in golden.tensors().items():
        if match := re.fullmatch(r"freq_grid/(float32|float64)/dim(\d+)_axes(\d+)", name):
            actual = frequency_grid(RopeConfig(precision=match[1]), int(match[2]), int(match[3]))
            assert_near(actual / expected, torch.ones_like(expected), 1e-7)


def table(golden, tensors, match):
    """The table that ``rope/<use>_<width>h<heads>/<type>_<precision>`` names."""
    use, width, heads, rope_type, precision = match.groups()
    max_pos = golden.sidecar["max_positions"]["cross" if use.endswith("cross") else use]
    positions = tensors.get(f"rope/{use}_{width}h{heads}/positions")
    if positions is None:
        count = tensors[f"{match[0]}/cos"].shape[-2]
        points = torch.arange(count, dtype=torch.float32)[None, None]
    else:
        points = positions.mean(dim=-1)
    config = RopeConfig(rope_type=rope_type, precision=precision)
    return rope_table(points, max_pos, width=int(width), heads=int(heads), config=config)


TABLE = re.compile(r"rope/(\w+?)_(\d+)h(\d+)/(split|interleaved)_(float32|float64)")


@pytest.mark.golden("rope")
def test_rotary_tables_match(golden):
    tensors = golden.tensors()
    checked = 0
    for name in tensors:
        if name.endswith("/cos") and (match := TABLE.fullmatch(name.removesuffix("/cos"))):
            rope = table(golden, tensors, match)
            for actual, which in ((rope.cos, "cos"), (rope.sin, "sin")):
                if rope.rope_type == "interleaved":
                    actual = repeat(actual, "b h n d -> b n (h d two)", two=2)
                assert_near(actual, tensors[f"{match[0]}/{which}"], TOLERANCE)
            checked += 1
    assert checked


@pytest.mark.golden("rope")
def test_rotation_matches(golden):
    tensors = golden.tensors()
    x = tensors["apply/x"]
    name = next(
        n for n in tensors if re.fullmatch(rf"rope/video_self_{x.shape[-1]}h\d+/split_float64/cos", n)
    )
    rope = table(golden, tensors, TABLE.fullmatch(name.removesuffix("/cos")))
    by_head = rearrange(x, "b n (h d) -> b h n d", h=rope.cos.shape[1])
    for rope_type in ("split", "interleaved"):
        rotated = rotate(by_head, Rope(rope.cos, rope.sin, rope_type))
        assert_near(rearrange(rotated, "b h n d -> b n (h d)"), tensors[f"apply/{rope_type}"], TOLERANCE)
