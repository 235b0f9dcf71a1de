"""The attention kernel of comfy-kitchen gives what tiles of queries give, for every part of a clip."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.video_vae.diffusion.attention import Masks, neighbourhood_attention
from ltx2_core.video_vae.diffusion.kernels import by_na3d, kernel_for
from ltx2_core.video_vae.diffusion.windows import Axis, Span, needed

LENGTHS, WINDOWS = (9, 8, 10), (5, 3, 7)
PARTS = {
    "all": (Span(0, 9), Span(0, 8), Span(0, 10)),
    "start": (Span(0, 4), Span(0, 3), Span(0, 10)),
    "interior": (Span(3, 5), Span(2, 6), Span(4, 6)),
    "end": (Span(6, 9), Span(5, 8), Span(2, 10)),
    "one position": (Span(8, 9), Span(0, 1), Span(9, 10)),
}


def case(part: str):
    """Queries at the positions ``part`` of a clip, and the keys and values that their windows cover."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, *LENGTHS, 2, 16, generator=generator)
    at = PARTS[part]
    covered = [needed(span, n, w) for span, n, w in zip(at, LENGTHS, WINDOWS, strict=True)]
    axes = tuple(
        Axis(queries=span, first_key=keys.start, length=n, window=w)
        for span, keys, n, w in zip(at, covered, LENGTHS, WINDOWS, strict=True)
    )

    def box(x, spans):
        t, h, w = (slice(*span) for span in spans)
        return x[:, t, h, w]

    return box(q, at), box(k, covered), box(v, covered), axes


@pytest.mark.parametrize("part", PARTS)
def test_na3d_gives_what_tiles_of_queries_give(part):
    kitchen = pytest.importorskip("comfy_kitchen")
    if not hasattr(kitchen, "na3d"):
        pytest.skip("this comfy-kitchen has no na3d")
    q, k, v, axes = case(part)
    expected = neighbourhood_attention(q, k, v, axes, Masks())
    torch.testing.assert_close(by_na3d(kitchen.na3d, q, k, v, axes), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("part", PARTS)
def test_a_machine_without_cuda_computes_by_tiles(part):
    q, k, v, axes = case(part)
    with torch.inference_mode():
        assert kernel_for(q, k, v, axes, 100.0) is None
