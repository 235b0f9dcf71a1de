"""Streamed blocks compute what resident ones do, and few of them are on the device at once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.config import TransformerConfig
from ltx2_core.memory import BlockStreaming
from ltx2_core.memory.streaming import streamed_blocks
from ltx2_core.memory.transfers import InOrder
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
    resident = model.transformer_blocks[2].attn1.to_q.weight.data_ptr()
    streaming = BlockStreaming(model, "cpu", resident=1)
    places = []
    for block in model.transformer_blocks:
        block.register_forward_hook(
            lambda block, *_: places.append(block.attn1.to_q.weight.data_ptr()), prepend=True
        )
    run(model, streams)
    run(model, streams)
    # Streamed blocks alternate between two places; the one in the middle stays where it was.
    first, second = places[:2]
    assert first != second
    assert places[:5] == [first, second, resident, first, second]
    assert set(places) == {first, second, resident}
    streaming.close()


class Late(InOrder):
    """Copies only when the computation waits, as a slow bus would, and keeps a log of copies and points."""

    def __init__(self):
        self.points, self.log = 0, []

    def copy(self, sources, targets, after):
        self.log.append((targets[0].data_ptr(), after))
        return SimpleNamespace(wait=lambda: super(Late, self).copy(sources, targets, after))

    def point(self):
        self.points += 1
        return self.points


@pytest.mark.parametrize("resident", [0, 1, 3, 4])
def test_no_block_is_read_before_its_copy_has_arrived(network, resident):
    model, streams = network
    expected = run(model, streams)
    streaming = BlockStreaming(model, "cpu", resident=resident, transfers=Late())
    for _ in range(3):
        assert all(torch.equal(a, e) for a, e in zip(run(model, streams), expected, strict=True))
    streaming.close()


def test_a_copy_waits_until_the_block_in_its_place_has_been_computed(network):
    model, streams = network
    late = Late()
    streaming = BlockStreaming(model, "cpu", resident=0, transfers=late)
    run(model, streams)
    run(model, streams)
    streaming.close()
    # The first two copies wait for what was computed before; each later one for the block two before it.
    assert [after for _, after in late.log] == list(range(1, len(late.log) + 1))
    places = [place for place, _ in late.log]
    assert places == [places[0], places[1]] * (len(places) // 2) + places[: len(places) % 2]


@pytest.mark.parametrize(
    ("sizes", "resident", "streamed"),
    [
        ([1] * 6, 0, [0, 1, 2, 3, 4, 5]),
        ([1] * 6, 6, []),
        ([1] * 6, 3, [1, 3, 5]),
        ([1] * 6, 4, [1, 4]),
        ([1] * 48, 24, list(range(1, 48, 2))),
        ([2, 1, 1, 1, 1, 2], 2, [1, 2, 3, 4]),
        ([2, 1, 1, 1, 1, 2], 4, [2, 4]),
        ([2, 1, 1, 1, 1, 2], 1, [1, 2, 3, 4, 5]),
        ([], 0, []),
    ],
)
def test_large_blocks_stay_first_and_the_others_are_streamed_at_even_distances(sizes, resident, streamed):
    assert streamed_blocks(sizes, resident) == streamed


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
