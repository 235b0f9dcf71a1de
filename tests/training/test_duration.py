"""Captions say how long a clip lasts, and the duration head learns to read it from the text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ltx2_core.config import DurationHeadConfig
from ltx2_core.training.loop import LoopOptions
from ltx2_core.training.text import load_text
from ltx2_core.training.tiny.duration import (
    DurationPhase,
    DurationRecipe,
    TextEncoder,
    held_out_frames,
    new_duration_head,
    timed_captions,
    timed_contexts,
    train_duration_head,
)
from ltx2_core.training.tiny.duration_start import NamedLengths, start_at_words
from ltx2_core.training.world import LENGTHS_S, UNSAID_S, length_words, with_length
from ltx2_core.training.world.lengths import spoken

CONFIG = DurationHeadConfig(video_dim=64, audio_dim=32, hidden=32, queries=1, heads=4, mlp=48)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1.0, "one second"), (1.5, "one and a half seconds"), (2.0, "two seconds"), (10.0, "ten seconds")],
)
def test_lengths_are_spelled_out(seconds, words) -> None:
    assert spoken(seconds) == words
    assert words in with_length("a square", seconds, 0)


def test_a_length_goes_before_the_full_stop_and_uses_known_words_only() -> None:
    known = set(length_words())
    for seed in range(20):
        for seconds in LENGTHS_S:
            text = with_length("A square.", seconds, seed)
            assert text.startswith("A square")
            assert text.count(".") == 1
            assert text.endswith(".")
            assert set(text[len("A square") : -1].replace(",", " ").replace(";", " ").split()) <= known


def test_captions_without_a_length_stand_for_the_usual_one() -> None:
    captions, seconds = timed_captions(range(60), 0.5)
    said = ["second" in caption for caption in captions]
    assert 15 < sum(said) < 45
    assert {length for length, says in zip(seconds, said, strict=True) if not says} == {UNSAID_S}
    for caption, length in zip(captions, seconds, strict=True):
        assert length == UNSAID_S or spoken(length) in caption


@pytest.fixture(scope="module")
def text(world_gemma) -> TextEncoder:
    return TextEncoder(*load_text(world_gemma))


def test_words_of_lengths_are_found_among_the_tokens(text) -> None:
    states, words = text.encode(["a square, for two seconds", "a half square", "a square"])
    assert words.shape == (*states.mask.shape, 11)
    assert words.sum(dim=1).argmax(dim=1).tolist()[:2] == [1, 10]
    assert not words[2].any()


def test_a_head_starts_by_attending_to_the_words_of_the_length() -> None:
    """Contexts of random tokens, one of them a number: the pooled text tells which."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(11, 64, generator=generator), torch.randn(11, 32, generator=generator)

    def contexts(count: int, tokens: int) -> tuple[NamedLengths, torch.Tensor]:
        words = torch.zeros(count, tokens, 11)
        numbers = torch.randint(10, (count,), generator=generator)
        words[torch.arange(count), torch.randint(tokens, (count,), generator=generator), numbers] = 1
        noise = (0.3 * torch.randn(count, tokens, k.shape[1], generator=generator) for k in kinds)
        video, audio = (words @ kind + extra for kind, extra in zip(kinds, noise, strict=True))
        return NamedLengths(video, audio, words), numbers

    examples, _ = contexts(200, 32)
    head = new_duration_head(CONFIG, 0)
    with torch.no_grad():
        start_at_words(
            head, NamedLengths(*(x.flatten(0, 1) for x in (examples.video, examples.audio, examples.words)))
        )
        unseen, numbers = contexts(50, 128)
        tokens = torch.cat((head.video_input_proj(unseen.video), head.audio_input_proj(unseen.audio)), dim=1)
        attention = head.attention_pooler.cross_attn
        weights = attention(head.attention_pooler.query_tokens.expand(50, -1, -1), tokens, tokens)[1]
        found = (weights[:, 0, :128] + weights[:, 0, 128:]).argmax(dim=1)
    assert torch.equal(unseen.words[torch.arange(50), found].argmax(dim=1), numbers)


def test_a_head_without_room_for_the_words_is_refused() -> None:
    head = new_duration_head(replace(CONFIG, hidden=16), 0)
    examples = NamedLengths(torch.randn(9, 64), torch.randn(9, 32), torch.eye(9, 16))
    with pytest.raises(ValueError, match="pooler_hidden_dim=16 and num_pooler_heads=4 have no room for 17"):
        start_at_words(head, examples)


def test_the_head_starts_at_two_seconds_and_learns_its_captions(network, text, tmp_path) -> None:
    phase = DurationPhase(until=0.9, captions=40, length=64, batch=16)
    recipe = DurationRecipe(total_steps=80, said=1.0, phases=(phase, replace(phase, until=1.0, captions=4)))
    phases, examples = timed_contexts(network, text, recipe)
    contexts = phases[0]
    assert [len(known.seconds) for known in phases] == [40, 4]
    assert contexts.video.shape[:2] == (40, 64)
    head = new_duration_head(CONFIG, 0)
    first = head(*contexts.batch(torch.arange(4))[:2]).detach()
    assert float(first.log().mean().exp()) == pytest.approx(2, rel=0.5)
    start_at_words(head, examples)

    def error() -> float:
        video, audio, seconds = contexts.batch(torch.arange(40))
        with torch.no_grad():
            return float((head(video, audio).log() - seconds.log()).square().mean())

    before = error()
    options = LoopOptions(progress=False, ema=0.9)
    train_duration_head(head, phases, tmp_path / "state.safetensors", recipe=recipe, options=options)
    assert error() < before / 5
    # Held-out captions are in other contexts, of a thousand tokens, for which this toy was not trained.
    assert held_out_frames(head, network, text, captions=2) > 0
