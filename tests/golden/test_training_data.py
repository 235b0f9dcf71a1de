"""Sizes, lengths, masks and captions of training data against those of the official tools."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from ltx2_core.sampling.schedules import ltxv_sigmas
from ltx2_core.trainer.buckets import (
    Bucket,
    choose_bucket,
    crop_of,
    latent_mask,
    official_mask,
    parse_buckets,
    reference_frames,
    resize,
)
from ltx2_core.trainer.captions import prepared
from ltx2_core.trainer.media_clips import audio_samples
from ltx2_core.trainer.rows import column_roles


def wave(frames: int, height: int, width: int, seed: int) -> torch.Tensor:
    """The formula of the fixtures for frames that they do not store, (N, 3, H, W) in [0, 1]."""
    f, c, h, w = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (frames, 3, height, width)), indexing="ij"
    )
    slow = torch.sin(1.7 * c + 0.31 * f + 0.113 * h + 0.071 * w + 0.5 * seed)
    fast = torch.cos(0.7 * c - 0.19 * f + 0.37 * h - 0.29 * w + 0.3 * seed)
    return ((0.6 * slow + 0.4 * fast).float() + 1) / 2


@pytest.mark.golden("training_data")
def test_clips_get_the_bucket_and_the_crop_of_the_official_trainer(golden):
    for case in golden.sidecar["buckets"]:
        width, height, frames = case["source_WxHxF"]
        bucket = choose_bucket(parse_buckets(case["buckets"]), width, height, frames)
        if "error" in case:
            assert bucket is None, case
            continue
        assert list(bucket) == case["bucket_WxHxF"], case
        assert crop_of(width, height, bucket) == (*case["resized_HxW"], case["top"], case["left"]), case
    for text, error in golden.sidecar["invalid_buckets"].items():
        # A width of 0 is accepted there, and fails later.
        if error is not None or "0x" in text[:2]:
            with pytest.raises(ValueError, match="bucket"):
                parse_buckets(text)
        else:
            parse_buckets(text)


@pytest.mark.golden("training_data")
def test_references_masks_audio_and_captions_follow_the_official_rules(golden):
    facts, tensors = golden.sidecar, golden.tensors()
    for text, expected in facts["scaled_reference_buckets"].items():
        (bucket,), scale = parse_buckets(text.split("/")[0]), int(text.split("/")[1])
        if isinstance(expected, str):
            with pytest.raises(ValueError, match="reference_downscale"):
                bucket.reference(scale, 1)
        else:
            assert [list(bucket.reference(scale, 1))] == expected
    for text, expected in facts["temporal_subsample"].items():
        frames, time = map(int, text.split("/"))
        assert reference_frames(frames, time) == expected
    for case in facts["audio_length"]:
        assert audio_samples(case["frames"] / case["fps"], case["rate"]) == case["result_samples"]
    for case in facts["captions"]:
        assert prepared(case["caption"], trigger="mytok", clean=True) == case["prompt"]
    for columns, roles in facts["columns"].items():
        found = column_roles(name.strip(" '") for name in columns.strip("[]").split(","))
        assert found == roles
    for name in {key.split("/")[1] for key in tensors if key.startswith("mask/")}:
        expected = tensors[f"mask/{name}/latent"]
        pixels = tensors[f"mask/{name}/blocks"].repeat_interleave(16, 2).repeat_interleave(16, 3)
        rows, columns = expected.shape[1:]
        bucket = Bucket(32 * columns, 32 * rows, 1)
        # The fixture does not say where its frames end within the last block.
        cuts = product(range(16), range(0, 16, 3))
        frames = (pixels[..., : pixels.shape[2] - low, : pixels.shape[3] - right] for low, right in cuts)
        found = (latent_mask(official_mask(one, bucket), official=True) for one in frames)
        assert any(torch.equal(one, expected) for one in found), name


@pytest.mark.golden("training_data")
def test_resized_frames_have_the_pixels_of_the_official_trainer(golden):
    for name, facts in golden.sidecar["pixels"].items():
        frames = wave(facts["frames"], facts["height"], facts["width"], facts["wave_seed"])
        bucket = parse_buckets(f"{facts['to_width']}x{facts['to_height']}x1")[0]
        found = resize(frames, bucket)[::3, :, ::5, ::5] * 2 - 1
        torch.testing.assert_close(found, golden.tensors()[f"pixels/{name}"], rtol=0, atol=1e-5)


@pytest.mark.golden("training_other_tools")
def test_the_training_sigmas_of_diffsynth_are_a_schedule_of_ours(golden):
    expected = golden.tensors()["diffsynth/sigmas"]
    found = ltxv_sigmas(len(expected), tokens=4096)
    torch.testing.assert_close(found[: len(expected)], expected, rtol=0, atol=1e-6)
