"""How a runner calls blocks and attention, where somebody else computes them."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.transformer import GuideWeights, Runner
from ltx2_core.transformer.guided import attend


@pytest.mark.parametrize("guides", [None, GuideWeights((torch.full((3,), 0.5),))], ids=["plain", "guides"])
def test_every_attention_of_a_block_is_computed_by_the_function_that_is_passed(model, streams, guides):
    video, audio = streams[0](model.config, attention_mask=guides), streams[1](model.config)
    shapes = []

    def counted(q, k, v, bias):
        shapes.append((q.shape[2], k.shape[2]))
        return attend(q, k, v, bias)

    with torch.no_grad():
        expected = Runner(model)(video, audio)
        found = Runner(model, attend=counted)(video, audio)
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)
    # Video to itself and to the text, audio likewise, then each to the other.
    one = [(12, 12), (12, 5), (4, 4), (4, 5), (12, 4), (4, 12)]
    assert shapes == one * model.config.num_layers


def test_blocks_are_called_by_the_function_that_is_passed(model, streams):
    video, audio = streams[0](model.config), streams[1](model.config)
    numbers = []

    def once(number, block, hidden, inputs, switches):
        numbers.append(number)
        return hidden if number else block(*hidden, *inputs, switches)

    with torch.no_grad():
        skipped = Runner(model, run_block=once)(video, audio)
        inputs = model.condition(video, audio)
        expected = model.head(model.run_blocks(model.embed(video, audio), inputs, until=1), inputs)
    assert numbers == [0, 1]
    for a, b in zip(expected, skipped, strict=True):
        torch.testing.assert_close(a, b)
