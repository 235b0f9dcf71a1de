"""What reading prompts needs is what a trace of it counts, on the meta device and for real."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from ltx2_core.config import text_config
from ltx2_core.memory import TextSize, Trace, estimate_memory, plan_memory, released_size, text_bytes
from ltx2_core.memory.released import NEW_CONFIG
from ltx2_core.shapes import plan_clip
from ltx2_core.text.connectors import TextConnectors
from ltx2_core.text.features import FeatureExtractor
from ltx2_core.types import TextFeatures

transformers = pytest.importorskip("transformers")
CONFIGS = {"2.0": {}, "2.3": {"transformer": NEW_CONFIG}}


def gemma(hidden: int, intermediate: int, heads: int, dtype: torch.dtype, device: str) -> nn.Module:
    config = transformers.Gemma3TextConfig(
        vocab_size=64,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        head_dim=hidden // heads,
        query_pre_attn_scalar=hidden // heads,
        attn_implementation="sdpa",
    )
    with torch.device(device):
        return transformers.Gemma3TextModel(config).to(dtype).eval()


def traced_encoder(model: nn.Module, extractor: FeatureExtractor, prompts: int, tokens: int) -> int:
    """The peak of the layers with their states added up as they come, as ``TextEncoder`` does it."""
    device = extractor.projections[0].weight.device
    mask = torch.ones(prompts, tokens, dtype=torch.int64)
    ids = torch.zeros(prompts, tokens, dtype=torch.int64, device=device)
    allowed = torch.ones(prompts, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
    with torch.no_grad(), Trace([allowed]) as trace:
        accumulator = extractor.accumulator(mask)

        def add(layer: int):
            return lambda module, args, kwargs: accumulator.add(
                layer, args[0] if args else kwargs["hidden_states"]
            )

        for number, layer in enumerate(model.layers):
            layer.register_forward_pre_hook(add(number), with_kwargs=True)
        masks = {"full_attention": allowed, "sliding_attention": allowed}
        model(input_ids=ids, attention_mask=masks, use_cache=False)
    return trace.peak


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize(("prompts", "tokens"), [(1, 32), (2, 256), (2, 1024)])
def test_the_encoder_is_predicted_within_a_tenth_at_released_sizes(generation, prompts, tokens):
    size = released_size(generation).text
    model = gemma(size.hidden, size.intermediate, 16, torch.bfloat16, "meta")
    config = text_config(CONFIGS[generation])
    extractor = FeatureExtractor(config, size.hidden, 49, dtype=torch.bfloat16, device="meta")
    predicted, _ = text_bytes(size, 2, prompts=prompts, tokens=tokens)
    assert predicted == pytest.approx(traced_encoder(model, extractor, prompts, tokens), rel=0.1)


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_encoder_is_predicted_within_a_tenth_for_real(generation, dtype):
    config = narrow(generation)
    model = gemma(128, 512, 4, dtype, "cpu")
    extractor = FeatureExtractor(config, 128, 3, dtype=dtype)
    size = TextSize.of(config, hidden=128, intermediate=512)
    predicted, _ = text_bytes(size, dtype.itemsize, prompts=2, tokens=96)
    assert predicted == pytest.approx(traced_encoder(model, extractor, 2, 96), rel=0.1)


@pytest.mark.parametrize("generation", ["2.0", "2.3"])
@pytest.mark.parametrize("prompts", [1, 2])
def test_the_connectors_are_predicted_within_a_tenth(generation, prompts):
    config, tokens = narrow(generation), 128
    connectors = TextConnectors(config, dtype=torch.bfloat16)
    size = TextSize.of(config, hidden=128, intermediate=512)
    with torch.inference_mode(), Trace() as trace:
        video = torch.randn(prompts, tokens, config.video.dim)
        audio = video if size.shared else torch.randn(prompts, tokens, config.audio.dim)
        mask = torch.ones(prompts, tokens, dtype=torch.int64)
        connectors(TextFeatures(video.bfloat16(), audio.bfloat16(), mask))
    _, predicted = text_bytes(size, 2, prompts=prompts, tokens=tokens)
    assert predicted == pytest.approx(trace.peak, rel=0.1)


def narrow(generation: str):
    """The structure of a generation with 128 and 64 channels."""
    config = text_config(CONFIGS[generation])
    video = replace(config.video, heads=4, head_dim=32, num_layers=2)
    return replace(config, video=video, audio=video if generation == "2.0" else replace(video, head_dim=16))


def test_plan_and_estimate_count_it():
    size, clip = released_size("2.3"), plan_clip(768, 512, frames=121)
    encoder, connectors = text_bytes(size.text, 2)
    assert 0.2e9 < encoder < 0.4e9
    roomy, tight = (
        plan_memory(budget * 10**9, size, clips=[clip], dtype=torch.bfloat16).stages[0] for budget in (80, 8)
    )
    gemma = size.text_weights - size.connector_weights
    assert (roomy.weights, roomy.activations, roomy.host) == (gemma, encoder, 0)
    assert (tight.weights, tight.activations, tight.host) == (size.connector_weights, connectors, gemma)
    fields = {name: value for name, value in vars(size).items() if name not in ("block_weights", "audio")}
    stage = estimate_memory(**fields, clips=[clip], dtype=torch.bfloat16)[0]
    assert stage.activations == roomy.activations
