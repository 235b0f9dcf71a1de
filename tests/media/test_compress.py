"""The H.264 round trip of a still."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.media import compress_image


@pytest.fixture
def image() -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 49), torch.linspace(0, 1, 67), indexing="ij")
    noise = torch.rand(3, 49, 67, generator=torch.Generator().manual_seed(0))
    return (torch.stack([rows, columns, rows * columns]) * 0.7 + noise * 0.3).clamp(0, 1)


def test_crf_zero_is_the_identity(image):
    assert compress_image(image, 0) is image


def test_odd_sizes_are_floored_to_even(image):
    assert compress_image(image, 33).shape == (3, 48, 66)


def test_it_is_deterministic_and_leaves_its_input_alone(image):
    before = image.clone()
    assert torch.equal(compress_image(image, 33), compress_image(image, 33))
    assert torch.equal(image, before)


def test_a_higher_crf_is_further_from_the_original(image):
    even = image[:, :48, :66]
    errors = [(compress_image(image, crf) - even).square().mean().item() for crf in (5, 18, 33, 51)]
    assert errors == sorted(errors)
    assert errors[0] < 0.01 < errors[-1] * 2


def test_a_crf_above_51_is_treated_as_51(image):
    assert torch.equal(compress_image(image, 51), compress_image(image, 100))


def test_bytes_and_floats_give_the_same_result(image):
    pixels = (image * 255).to(torch.uint8)
    from_bytes = compress_image(pixels, 29)
    assert from_bytes.dtype == torch.uint8
    torch.testing.assert_close(compress_image(image, 29), from_bytes.float() / 255, rtol=0, atol=0)


def test_half_precision_comes_back_in_half_precision(image):
    assert compress_image(image.half(), 29).dtype == torch.float16


@pytest.mark.parametrize("crf", [-1, 101])
def test_a_crf_out_of_range_is_named(image, crf):
    with pytest.raises(ValueError, match=str(crf)):
        compress_image(image, crf)


def test_a_batch_and_a_single_pixel_are_refused(image):
    with pytest.raises(ValueError, match="one frame"):
        compress_image(image[None], 33)
    with pytest.raises(ValueError, match="2x2"):
        compress_image(image[:, :1], 33)
