"""The video code: principal components of cells, causal like the encoder that learns it."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange

from ltx2_core.training.autoencoders.video_code import VideoCode, principal_code
from ltx2_core.training.data import psnr
from ltx2_core.training.world.batches import HELD_OUT, ClipSize, video_batch

SIZE = ClipSize(batch=60, frames=17, width=64, height=64)


@pytest.fixture(scope="module")
def code() -> VideoCode:
    return principal_code(128, sizes=(SIZE,), seed=3)


def test_the_same_seed_gives_the_same_code_and_it_can_be_saved(code, tmp_path):
    from ltx2_core.training.tiny.run import save_tensors

    same = principal_code(128, sizes=(SIZE,), seed=3)
    save_tensors(tmp_path / "code.safetensors", same.tensors())
    loaded = VideoCode.load(tmp_path / "code.safetensors")
    for name, tensor in code.tensors().items():
        torch.testing.assert_close(loaded.tensors()[name], tensor, msg=name)
    other = principal_code(128, sizes=(SIZE,), seed=4)
    assert not torch.allclose(other.basis, code.basis, atol=1e-3)


def test_components_are_orthonormal_and_fall_in_amplitude(code):
    torch.testing.assert_close(code.basis.mT @ code.basis, torch.eye(128), atol=1e-4, rtol=0)
    assert bool((code.amplitude.diff() <= 1e-6).all())
    assert float(code.amplitude.square().mean()) == pytest.approx(1, abs=1e-4)


def test_the_code_reconstructs_clips_that_it_was_not_computed_from(code):
    frames = video_batch([HELD_OUT + index for index in range(6)], frames=17, width=64, height=64)
    raw = code.encode(frames).movedim(1, -1) / code.amplitude * code.deviation
    small = rearrange(
        raw @ code.basis.mT + code.mean, "b f h w (c t y x) -> b c (f t) (h y) (w x)", c=3, t=8, y=16
    )[:, :, 7:]
    decoded = torch.nn.functional.interpolate(small, scale_factor=(1, 2, 2))
    assert float(psnr(decoded, frames).mean()) > 19


def test_a_latent_frame_does_not_depend_on_later_frames(code):
    frames = video_batch([1], frames=17, width=64, height=64)
    changed = frames.clone()
    changed[:, :, 9:] *= -1
    one, two = code.encode(frames), code.encode(changed)
    assert torch.equal(one[:, :, :2], two[:, :, :2])
    assert not torch.equal(one[:, :, 2], two[:, :, 2])
    assert torch.equal(code.encode(frames[:, :, :1]), one[:, :, :1])
