"""Connectors: key names, registers, padding."""

from __future__ import annotations

import pytest
import torch

from ltx2_core.config import text_config as read_text_config
from ltx2_core.text import TextConnectors
from ltx2_core.text.connectors import fill_with_registers
from ltx2_core.types import TextContext, TextFeatures


def connectors_of(text_config) -> TextConnectors:
    torch.manual_seed(0)
    connectors = TextConnectors(text_config).requires_grad_(False)
    for name, parameter in connectors.named_parameters():
        if name.endswith("learnable_registers"):
            parameter.normal_()
    return connectors


def features_of(text_config, mask: list[list[int]]) -> TextFeatures:
    rows = torch.tensor(mask)
    return TextFeatures(
        torch.randn(*rows.shape, text_config.video.dim), torch.randn(*rows.shape, text_config.audio.dim), rows
    )


def assert_same(a: TextContext, b: TextContext) -> None:
    torch.testing.assert_close(a.video, b.video, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(a.audio, b.audio, atol=1e-5, rtol=1e-5)


def test_registers_are_chosen_by_absolute_position() -> None:
    registers = torch.arange(4.0).unsqueeze(1)
    text = torch.tensor([[[90.0], [91.0], [92.0]], [[80.0], [81.0], [82.0]]])
    filled = fill_with_registers(text, torch.tensor([[0, 1, 1], [1, 1, 1]]), registers, length=8)
    assert filled.squeeze(-1).tolist() == [[91, 92, 2, 3, 0, 1, 2, 3], [80, 81, 82, 3, 0, 1, 2, 3]]


def test_valid_tokens_are_found_wherever_the_padding_is() -> None:
    registers = torch.arange(2.0).unsqueeze(1)
    text = torch.tensor([[[9.0], [7.0], [9.0], [8.0]]])
    filled = fill_with_registers(text, torch.tensor([[0, 1, 0, 1]]), registers, length=2)
    assert filled.squeeze(-1).tolist() == [[7, 8]]


@pytest.mark.parametrize(("tokens", "positions"), [(1, 8), (8, 8), (9, 12)])
def test_the_context_grows_only_for_prompts_longer_than_its_length(text_config, tokens, positions) -> None:
    features = features_of(text_config, [[1] * tokens])
    context = connectors_of(text_config)(features, length=8)
    assert context.video.shape == (1, positions, text_config.video.dim)
    assert context.audio.shape == (1, positions, text_config.audio.dim)


def test_padding_does_not_change_the_context(text_config) -> None:
    connectors = connectors_of(text_config)
    padded = features_of(text_config, [[0, 0, 1, 1, 1]])
    poisoned = TextFeatures(padded.video.clone(), padded.audio.clone(), padded.mask)
    poisoned.video[:, :2] = poisoned.audio[:, :2] = float("nan")
    alone = TextFeatures(padded.video[:, 2:], padded.audio[:, 2:], padded.mask[:, 2:])
    assert_same(connectors(padded, length=8), connectors(alone, length=8))
    assert_same(connectors(padded, length=8), connectors(poisoned, length=8))


def test_a_batch_equals_its_prompts_one_by_one(text_config) -> None:
    connectors = connectors_of(text_config)
    batch = features_of(text_config, [[0, 0, 1], [1, 1, 1]])
    context = connectors(batch, length=4)
    for i in range(2):
        one = TextFeatures(batch.video[i : i + 1], batch.audio[i : i + 1], batch.mask[i : i + 1])
        assert_same(
            TextContext(context.video[i : i + 1], context.audio[i : i + 1]), connectors(one, length=4)
        )


def test_bfloat16_features_keep_their_dtype(text_config) -> None:
    features = features_of(text_config, [[1, 1]])
    half = TextFeatures(features.video.bfloat16(), features.audio.bfloat16(), features.mask)
    connectors = connectors_of(text_config)
    context = connectors.bfloat16()(half, length=4)
    assert context.video.dtype == context.audio.dtype == torch.bfloat16
    assert context.video.isfinite().all()


def test_wrong_lengths_and_widths_are_explained(text_config) -> None:
    connectors = connectors_of(text_config)
    features = features_of(text_config, [[1, 1]])
    with pytest.raises(ValueError, match="multiple of the 4 registers; got 6"):
        connectors(features, length=6)
    wrong = TextFeatures(features.video[..., 1:], features.audio, features.mask)
    with pytest.raises(ValueError, match="15 wide, the connector takes 16"):
        connectors(wrong, length=4)


@pytest.mark.parametrize(
    ("transformer", "keys", "width"),
    [
        ({}, 29, {"video": 3840, "audio": 3840}),
        (
            {
                "caption_proj_before_connector": True,
                "caption_projection_first_linear": False,
                "caption_projection_second_linear": False,
                "caption_proj_input_norm": False,
                "connector_apply_gated_attention": True,
                "audio_connector_num_attention_heads": 32,
                "audio_connector_attention_head_dim": 64,
            },
            129,
            {"video": 4096, "audio": 2048},
        ),
    ],
    ids=["2.0", "2.3"],
)
def test_released_sizes_have_the_released_keys(transformer, keys, width) -> None:
    config = read_text_config({"transformer": transformer})
    state = TextConnectors(config, device="meta").state_dict()
    for kind in ("video", "audio"):
        prefix = f"{kind}_embeddings_connector."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        assert len(own) == keys
        assert own["learnable_registers"].shape == (128, width[kind])
        last = f"transformer_1d_blocks.{config.video.num_layers - 1}."
        assert own[f"{last}attn1.to_out.0.weight"].shape == (width[kind], width[kind])
        assert own[f"{last}ff.net.0.proj.weight"].shape == (4 * width[kind], width[kind])
        assert own[f"{last}ff.net.2.bias"].shape == (width[kind],)
