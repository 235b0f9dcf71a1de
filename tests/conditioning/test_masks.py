"""Denoise masks: shapes, tokens and blending."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.conditioning.masks import blend, expand_mask, mask_like, token_mask
from ltx2_core.conditioning.patchify import patchify_audio, patchify_video
from ltx2_core.types import AVLatent

LATENT = AVLatent(torch.randn(2, 128, 3, 2, 2), torch.randn(2, 8, 5, 16))


def test_blend_is_bit_exact_at_both_ends_and_linear_between():
    other = LATENT.map(lambda x: torch.randn_like(x) * 1e4)
    assert torch.equal(blend(LATENT, other, mask_like(LATENT, 0.0)).video, LATENT.video)
    assert torch.equal(blend(LATENT, other, mask_like(LATENT, 1.0)).audio, other.audio)
    half = blend(LATENT, other, mask_like(LATENT, 0.5))
    torch.testing.assert_close(half.video, (LATENT.video + other.video) / 2)


def test_masks_that_broadcast_are_expanded_without_a_copy():
    thin = AVLatent(torch.rand(1, 1, 3, 1, 1), torch.zeros(1))
    full = expand_mask(thin, LATENT)
    assert full.video.shape == (2, 1, 3, 2, 2)
    assert full.audio.shape == (2, 1, 5, 1)
    assert full.video.data_ptr() == thin.video.data_ptr()


@pytest.mark.parametrize("shape", [(1, 1, 4, 1, 1), (2, 128, 3, 2, 2), (3, 1, 3, 2, 2)])
def test_masks_that_do_not_fit_are_refused(shape):
    with pytest.raises(ValueError, match="does not fit"):
        expand_mask(AVLatent(torch.ones(shape), torch.ones(1)), LATENT)


def test_token_masks_are_in_the_order_of_the_tokens():
    video = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 1, 3, 2, 2)
    audio = torch.arange(2 * 5.0).reshape(2, 1, 5, 1)
    assert torch.equal(token_mask(video), patchify_video(video)[..., 0])
    assert torch.equal(token_mask(audio), patchify_audio(audio)[..., 0])
