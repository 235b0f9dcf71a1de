"""Streamed blocks compute what resident ones do, and few of them are on the device at once."""

from __future__ import annotations

import weakref

import pytest
import torch

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import TransformerConfig
from ltx2_core.memory import BlockStreaming
from ltx2_core.transformer import Modality, Transformer

CONFIG = TransformerConfig(
    num_layers=5,
    heads=2,
    head_dim=16,
    audio_head_dim=8,
    in_channels=6,
    out_channels=6,
    audio_in_channels=10,
    audio_out_channels=10,
    caption_channels=12,
)


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    sigma = torch.tensor([0.7])
    streams = [
        Modality(
            tokens=torch.randn(1, positions.shape[2], channels),
            timesteps=sigma[:, None],
            sigma=sigma,
            positions=positions,
            context=torch.randn(1, 5, 12),
        )
        for positions, channels in ((video_positions(2, 2, 3, 24.0), 6), (audio_positions(4), 10))
    ]
    return model, streams


def run(model, streams, on_block=None):
    with torch.inference_mode():
        return model(*streams, on_block=on_block)


@pytest.mark.parametrize("resident", [0, 2, 4, 5])
def test_streamed_blocks_give_the_same_bits(network, resident):
    model, streams = network
    expected = run(model, streams)
    before = [p.data_ptr() for p in model.parameters()]
    streaming = BlockStreaming(model, "cpu", resident=resident)
    for _ in range(2):
        assert all(torch.equal(a, e) for a, e in zip(run(model, streams), expected, strict=True))
    streaming.close()
    assert [p.data_ptr() for p in model.parameters()] == before
    assert all(torch.equal(a, e) for a, e in zip(run(model, streams), expected, strict=True))


def test_at_most_two_streamed_blocks_are_there_at_once(network):
    model, streams = network
    homes = [block.attn1.to_q.weight.data_ptr() for block in model.transformer_blocks]
    streaming = BlockStreaming(model, "cpu", resident=1)
    copies, most = [], 0

    def look(block, args, output):
        nonlocal most
        number = list(model.transformer_blocks).index(block)
        weight = block.attn1.to_q.weight.data
        assert (weight.data_ptr() == homes[number]) is (number == 0)
        copies.extend(weakref.ref(copy) for ahead, _ in streaming._ahead.values() for copy in ahead)
        alive = sum(reference() is not None for reference in copies)
        most = max(most, alive / len(list(block.parameters())))

    for block in model.transformer_blocks:
        block.register_forward_hook(look, prepend=True)
    run(model, streams)
    assert 0 < most <= 2


def test_a_run_that_was_stopped_leaves_the_weights_at_home(network):
    model, streams = network
    expected = run(model, streams)
    before = [p.data_ptr() for p in model.parameters()]
    BlockStreaming(model, "cpu", resident=1)

    def stop(block):
        if block == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        run(model, streams, stop)
    assert [p.data_ptr() for p in model.parameters()] == before
    assert all(torch.equal(a, e) for a, e in zip(run(model, streams), expected, strict=True))


def test_more_resident_blocks_than_there_are_is_refused(network):
    with pytest.raises(ValueError, match="from 0 to 5, the number of blocks; got 6"):
        BlockStreaming(network[0], "cpu", resident=6)
