"""Several texts in one clip: each token attends to the text of its time, by attention without a bias."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx2_core.attention import attention
from ltx2_core.transformer import Runner
from ltx2_core.transformer.graphs import Graphs
from ltx2_core.transformer.guided import attend
from ltx2_core.transformer.shards import Shards
from ltx2_core.transformer.streams import Hidden
from ltx2_core.transformer.tiles import Tiles, evaluate_tiles
from ltx2_core.transformer.timed_texts import PartBias, TimedTexts, attend_by_time


def timed(stream, texts, first, second=None, share=None) -> TimedTexts:
    second = first if second is None else second
    return TimedTexts(
        contexts=tuple(texts),
        first=torch.tensor(first),
        second=torch.tensor(second),
        share=torch.zeros(len(first)) if share is None else torch.tensor(share),
    )


@pytest.fixture
def clip(model, streams):
    """Both streams with a second text, which the second half of their tokens attends to."""
    both = []
    for make in streams:
        stream = make(model.config)
        count = stream.tokens.shape[1]
        other = torch.randn(stream.context.shape, generator=torch.Generator().manual_seed(9))
        numbers = [int(index >= count // 2) for index in range(count)]
        both.append(replace(stream, timed=timed(stream, (stream.context, other), numbers)))
    return both


@pytest.fixture
def relayed(model, streams):
    """Both streams with one text, to whose last tokens the second half of their tokens is drawn."""
    both = []
    for make in streams:
        stream = make(model.config)
        count, keys = stream.tokens.shape[1], stream.context.shape[1]
        late = (torch.arange(count) >= count // 2).float()
        bias = PartBias(-9 * torch.stack((late, 1 - late), dim=1), (slice(1, 2), slice(2, keys)))
        both.append(replace(stream, timed=replace(timed(stream, (stream.context,), [0] * count), bias=bias)))
    return both


def close(one: Hidden, other: Hidden) -> bool:
    return all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(one, other, strict=True))


@torch.inference_mode()
def test_one_text_for_all_tokens_is_the_plain_run_bit_for_bit(model, streams):
    plain = [make(model.config) for make in streams]
    same = [replace(one, timed=timed(one, (one.context,), [0] * one.tokens.shape[1])) for one in plain]
    assert all(torch.equal(a, b) for a, b in zip(model(*plain), model(*same), strict=True))


@torch.inference_mode()
def test_a_run_of_queries_attends_to_its_own_text_alone():
    """The same as one attention over all texts in which the other texts are masked out."""
    q, texts = torch.randn(2, 3, 10, 8), [tuple(torch.randn(2, 3, s, 8) for _ in range(2)) for s in (5, 7)]
    first = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 0, 1])
    times = TimedTexts(contexts=(), first=first, second=first, share=torch.zeros(10))
    found = attend_by_time(attention, q, texts, times.runs(q))
    owner = torch.tensor([0] * 5 + [1] * 7)
    bias = torch.zeros(10, 12).masked_fill(owner != first[:, None], float("-inf"))
    keys, values = (torch.cat([text[part] for text in texts], dim=2) for part in (0, 1))
    torch.testing.assert_close(found, attention(q, keys, values, bias))


@torch.inference_mode()
def test_a_fade_mixes_both_texts_linearly_and_equal_texts_exactly():
    q, one, other = torch.randn(1, 2, 4, 8), *[tuple(torch.randn(1, 2, 5, 8) for _ in "kv") for _ in range(2)]
    share = torch.tensor([0.0, 0.25, 0.75, 0.0])
    times = TimedTexts(
        contexts=(), first=torch.tensor([0, 0, 0, 1]), second=torch.tensor([0, 1, 1, 1]), share=share
    )
    a, b = attention(q, *one), attention(q, *other)
    weight = torch.tensor([0.0, 0.25, 0.75, 1.0])[:, None]
    torch.testing.assert_close(
        attend_by_time(attention, q, (one, other), times.runs(q)), a + weight * (b - a)
    )
    mixed = times.runs(q)[1]
    equal = attend_by_time(attention, q[:, :, 1:3], (one, one), [mixed._replace(tokens=slice(0, 2))])
    assert torch.equal(equal, attention(q[:, :, 1:3], *one))


@torch.inference_mode()
def test_no_attention_to_a_text_has_a_bias_so_that_flash_kernels_stay(model, clip):
    biases = []

    def recorded(q, k, v, bias):
        biases.append(bias)
        return attend(q, k, v, bias)

    found = Runner(model, attend=recorded)(*clip)
    assert biases
    assert all(bias is None for bias in biases)
    assert close(found, model(*clip))


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 5, 7])
def test_chunks_of_tokens_keep_their_texts(model, clip, tokens):
    assert close(Runner(model, chunk_tokens=tokens)(*clip), model(*clip))


@torch.inference_mode()
def test_the_second_text_changes_its_own_tokens_in_a_single_block(model, clip):
    """Before attention within a stream has run, which mixes the tokens, the first half is as without it."""
    video = clip[0]
    block, inputs = model.transformer_blocks[0], model.condition(video, None)
    plain = model.condition(replace(video, timed=None), None)
    x = model.embed(video, None)[0]
    with_two, with_one = block(x, None, *inputs)[0], block(x, None, *plain)[0]
    half = x.shape[1] // 2
    torch.testing.assert_close(with_two[:, :half], with_one[:, :half])
    assert not torch.allclose(with_two[:, half:], with_one[:, half:], atol=1e-3)


@torch.inference_mode()
def test_a_step_with_texts_by_time_is_not_recorded(model, clip):
    graphs = Graphs(devices=("cpu",))
    inputs = model.condition(*clip)
    reason = graphs.why_not(model.transformer_blocks, model.embed(*clip), inputs)
    assert reason == "the prompt changes with time"


class ThirdOfFour(Shards):
    count, rank = 4, 2


def test_a_process_gets_the_texts_of_its_own_tokens(clip):
    whole = clip[0].timed
    part = ThirdOfFour().of(clip[0]).timed
    tokens = ThirdOfFour().part(len(whole.first))
    assert torch.equal(part.first, whole.first[tokens])


@torch.inference_mode()
def test_tiles_keep_the_texts_of_their_tokens(model, clip):
    video, audio = clip
    seen = []

    def evaluate(part, sound):
        seen.append(part.timed.first)
        return model(part, sound)

    whole, _ = evaluate_tiles(evaluate, Tiles(columns=2, rows=1, overlap=1), video, audio)
    assert whole.shape[:2] == video.tokens.shape[:2]
    # Each tile has two of three columns of both latent frames, of which the second has the second text.
    assert all(numbers.tolist() == [0] * 4 + [1] * 4 for numbers in seen)


def test_texts_need_one_number_a_token(clip):
    with pytest.raises(ValueError, match="timed has 12 tokens and the stream 11"):
        replace(
            clip[0],
            tokens=clip[0].tokens[:, 1:],
            positions=clip[0].positions[:, :, 1:],
        )


@torch.inference_mode()
def test_parts_of_one_text_are_a_bias_of_the_logits(model, relayed):
    biases = []

    def recorded(q, k, v, bias):
        biases.append(bias)
        return attend(q, k, v, bias)

    found = Runner(model, attend=recorded)(*relayed)
    assert close(found, model(*relayed))
    plain = model(*[replace(one, timed=None) for one in relayed])
    assert not close(found, plain)
    rows = [bias[0, 0] for bias in biases if bias is not None]
    for stream in relayed:
        half, keys = stream.tokens.shape[1] // 2, stream.context.shape[1]
        own = [row for row in rows if row.shape == (stream.tokens.shape[1], keys)]
        assert own
        assert own[0][0].tolist() == [0, 0, *[-9] * (keys - 2)]
        assert own[0][half].tolist() == [0, -9, *[0] * (keys - 2)]


@torch.inference_mode()
def test_a_bias_of_0_is_the_plain_run(model, relayed):
    zero = [
        replace(one, timed=replace(one.timed, bias=replace(one.timed.bias, levels=0 * one.timed.bias.levels)))
        for one in relayed
    ]
    assert close(model(*zero), model(*[replace(one, timed=None) for one in relayed]))


@torch.inference_mode()
@pytest.mark.parametrize("tokens", [1, 5, 7])
def test_chunks_of_tokens_keep_their_biases(model, relayed, tokens):
    assert close(Runner(model, chunk_tokens=tokens)(*relayed), model(*relayed))


@torch.inference_mode()
def test_tiles_and_processes_have_the_biases_of_their_tokens(model, relayed):
    video, audio = relayed
    part = ThirdOfFour().of(video).timed
    tokens = ThirdOfFour().part(len(video.timed.first))
    assert torch.equal(part.bias.levels, video.timed.bias.levels[tokens])
    seen = []

    def evaluate(tile, sound):
        seen.append(tile.timed.bias.levels[:, 0].tolist())
        return model(tile, sound)

    evaluate_tiles(evaluate, Tiles(columns=2, rows=1, overlap=1), video, audio)
    assert all(level == [0] * 4 + [-9] * 4 for level in seen)


def test_a_bias_needs_one_text_and_a_row_a_token(clip, relayed):
    bias = relayed[0].timed.bias
    with pytest.raises(ValueError, match="got 2 texts"):
        replace(clip[0].timed, bias=bias)
    with pytest.raises(ValueError, match="11 rows for 12 tokens"):
        replace(relayed[0].timed, bias=bias.of(slice(1, None)))
