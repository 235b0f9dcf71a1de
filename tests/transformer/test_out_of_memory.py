"""An allocator that refuses above a cap: the step continues in halves, with the same result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx2_core.conditioning.patchify import video_positions
from ltx2_core.memory import Trace
from ltx2_core.out_of_memory import is_out_of_memory
from ltx2_core.transformer import Perturbation, Perturbations, Runner
from ltx2_core.transformer.branches import Projections, SelfAttention
from ltx2_core.transformer.fused import Fused
from ltx2_core.transformer.guided import attend

GRID = (4, 8, 16)
TOKENS = 4 * 8 * 16


def large(video):
    positions = video_positions(*GRID, 24.0)
    tokens = torch.randn(2, TOKENS, video.tokens.shape[2], generator=torch.Generator().manual_seed(3))
    return replace(video, tokens=tokens, positions=positions)


def run(model, video, audio, perturbations, limit=None):
    rope = model.rope_tables(video.positions, audio.positions)
    with torch.inference_mode(), Trace(limit=limit) as trace:
        return model(video, audio, perturbations, rope=rope), trace


@pytest.mark.parametrize("fused", [None, Fused(kernels=False)], ids=["plain", "fused"])
@pytest.mark.parametrize("image", [False, True])
def test_a_step_that_runs_out_of_memory_continues_in_halves(model, streams, image, fused):
    video, audio = large(streams[0](model.config)), streams[1](model.config)
    if image:
        timesteps = video.timesteps.repeat(1, TOKENS)
        timesteps[:, :130] = 0
        video = replace(video, timesteps=timesteps)
    skip = Perturbations((Perturbation(video_self_attention=[1]), Perturbation(a2v="all")))
    # No sample attends to its own tokens in block 1, as in a pass of spatio-temporal guidance by itself.
    alone = Perturbations((Perturbation(video_self_attention=[1]), Perturbation(video_self_attention=[1])))
    for perturbations in (None, skip, alone):
        runner = Runner(model, fused=fused)
        expected, free = run(runner, video, audio, perturbations)
        actual, tight = run(runner, video, audio, perturbations, limit=int(0.75 * free.peak))
        assert tight.refused > 0
        assert tight.peak <= 0.75 * free.peak
        assert 64 <= runner.chunk_tokens <= TOKENS / 2
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=0, atol=2e-5)
        _, later = run(runner, video, audio, perturbations, limit=int(0.75 * free.peak))
        assert later.refused < tight.refused, "the next step starts with the smaller chunks"


def test_a_step_that_cannot_fit_says_so_and_leaves_the_model_unchanged(model23, streams):
    video, audio = large(streams[0](model23.config)), streams[1](model23.config)
    runner = Runner(model23)
    expected, free = run(runner, video, audio, None)
    with pytest.raises(torch.OutOfMemoryError):
        run(runner, video, audio, None, limit=free.peak // 20)
    actual, _ = run(runner, video, audio, None)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-5)


def test_other_errors_do_not_count_as_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError("x"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_chunk_whose_attention_is_skipped_can_be_computed_again(model23):
    """As when memory runs out after the gates of its heads: they must not be applied twice."""
    attention = model23.transformer_blocks[0].attn1
    hidden = torch.randn(2, 5, model23.config.dim, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        keys, values = attention.keys_values(hidden, None)
        branch = SelfAttention(
            attention=attention,
            projections=Projections(),
            attend=attend,
            rope=None,
            bias=None,
            samples=(False, False),
        ).on(keys, values)
        assert torch.equal(branch(hidden), branch(hidden))
