"""Prompts to features: batches, padding, parts that do not match."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.text import (
    FeatureExtractor,
    TextConnectors,
    TextEncoder,
    Tokenizer,
    load_gemma,
    load_tokenizer,
)


@pytest.fixture
def encoder(gemma_folder, text_config) -> TextEncoder:
    torch.manual_seed(0)
    gemma = load_gemma(gemma_folder, dtype=torch.float32)
    extractor = FeatureExtractor(text_config, gemma.hidden_size, gemma.num_states)
    return TextEncoder(gemma, load_tokenizer(gemma_folder), extractor)


def test_prompts_encode_the_same_alone_and_together_bit_for_bit(encoder) -> None:
    prompts = ["", "a red circle", "a blue square moves slowly to the right"]
    together = encoder.encode(prompts)
    for i, prompt in enumerate(prompts):
        alone = encoder.encode([prompt])
        valid = together.mask[i].bool()
        assert torch.equal(together.video[i][valid], alone.video[0])
        assert torch.equal(together.audio[i][valid], alone.audio[0])
        assert together.video[i][~valid].count_nonzero() == 0


def test_an_empty_prompt_has_one_token(encoder) -> None:
    features = encoder.encode([""])
    assert features.mask.tolist() == [[1]]
    assert features.video.isfinite().all()


def test_different_prompts_give_different_contexts(encoder, text_config) -> None:
    connectors = TextConnectors(text_config)
    with torch.no_grad():
        red, blue = (connectors(encoder.encode([p]), length=32) for p in ("a red ball", "a blue ball"))
    assert red.video.shape == (1, 32, text_config.video.dim)
    assert (red.video - blue.video).abs().max() > 1e-3
    assert (red.audio - blue.audio).abs().max() > 1e-3


def test_progress_counts_every_hidden_state_and_may_stop_the_run(encoder) -> None:
    calls: list[tuple[int, int]] = []
    encoder.encode(["red"], on_layer=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 5) for i in range(1, 6)]
    calls.clear()
    encoder.encode(["red", "blue"], on_layer=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 10) for i in range(1, 11)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        encoder.encode(["red"], on_layer=stop)


def test_parts_that_do_not_belong_together_are_refused(encoder, text_config) -> None:
    wrong = FeatureExtractor(text_config, 3840, 49, device="meta")
    with pytest.raises(ValueError, match="the encoder has 5 hidden states of width 64"):
        TextEncoder(encoder.gemma, encoder.tokenizer, wrong)
    big = Tokenizer(lambda text: [], vocab_size=262144)
    with pytest.raises(ValueError, match="262144 tokens, the encoder 512"):
        TextEncoder(encoder.gemma, big, encoder.extractor)
