"""Text conditioning against the official implementation, Gemma against the transformers library."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ltx2_core.config import text_config
from ltx2_core.storage.header import read_header
from ltx2_core.storage.quantized import find_quantized
from ltx2_core.storage.reading import read_markers, read_state
from ltx2_core.text import FeatureExtractor, TextConnectors, load_gemma
from ltx2_core.types import TextFeatures

DIT = "model.diffusion_model."
PROJECTION = "text_embedding_projection."


def hidden_states(tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, D, L) and mask (B, T); fixtures of full length store valid tokens only."""
    mask = tensors["in/attention_mask"]
    if "in/hidden_states" in tensors:
        return tensors["in/hidden_states"], mask
    rows = [tensors[f"in/hidden_states_valid_{i}"] for i in range(len(mask))]
    return torch.stack([F.pad(r, (0, 0, 0, 0, mask.shape[1] - len(r), 0)) for r in rows]), mask


@pytest.mark.golden("text_connectors")
def test_features_and_contexts_match_the_official_text_path(golden) -> None:
    tensors = golden.tensors()
    for source in ("weights", "inputs_from"):
        if (other := golden.source(source)) != golden:
            tensors = {**other.tensors(), **tensors}
    config = text_config(golden.config)
    hidden, mask = hidden_states(tensors)
    extractor = FeatureExtractor(config, *hidden.shape[2:], device="meta")
    connectors = TextConnectors(config, device="meta")
    for module, prefix, belongs in (
        (extractor, PROJECTION, PROJECTION),
        (connectors, DIT, "_embeddings_connector."),
    ):
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and belongs in n}
        module.load_state_dict(own, strict=True, assign=True)

    with torch.no_grad():
        features = extractor(hidden.unbind(-1), mask)
        context = connectors(features, length=mask.shape[1])

    for index, valid in enumerate(mask.bool()):
        for kind in ("video", "audio"):
            expected = tensors[f"out/features_valid_{kind}_{index}"]
            torch.testing.assert_close(getattr(features, kind)[index][valid], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(context.video, tensors["out/video_context"], atol=1e-5, rtol=0)
    torch.testing.assert_close(context.audio, tensors["out/audio_context"], atol=1e-5, rtol=0)
    assert tensors["out/mask"].all()

    # As ComfyUI carries them: valid tokens only, the connector fills up the rest.
    alone = mask[0].bool()
    short = TextFeatures(features.video[:1, alone], features.audio[:1, alone], mask[:1, alone])
    with torch.no_grad():
        context = connectors(short, length=mask.shape[1])
    torch.testing.assert_close(context.video, tensors["out/video_context"][:1], atol=1e-5, rtol=0)
    torch.testing.assert_close(context.audio, tensors["out/audio_context"][:1], atol=1e-5, rtol=0)


@pytest.mark.golden("text_gemma")
def test_hidden_states_match_transformers(golden, tmp_path) -> None:
    stored = golden.sidecar.get("gemma_text_config")
    if stored is None:
        pytest.skip(f"{golden.name} has no JSON beside it with gemma_text_config")
    tensors = golden.tensors()
    config = {
        **stored,
        "rope_theta": stored["rope_global_theta"],
        "rope_local_base_freq": stored["rope_local_theta"],
        "rope_scaling": {"rope_type": "linear", "factor": stored["rope_global_linear_factor"]},
    }
    weights = {name: tensor for name, tensor in tensors.items() if name.startswith("model.")}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3_text", **config}))
    save_file(weights, tmp_path / "model.safetensors")
    gemma = load_gemma(tmp_path, dtype=torch.float32)
    mask = tensors["in/attention_mask"]
    states: list[Tensor] = []
    gemma(tensors["in/input_ids"], mask, lambda index, hidden: states.append(hidden.clone()))
    assert len(states) == gemma.num_states
    stack = torch.stack(states, dim=-1)
    for index, valid in enumerate(mask.bool()):
        expected = tensors[f"out/hidden_states_valid_{index}"]
        torch.testing.assert_close(stack[index][valid], expected, atol=2e-5, rtol=0)


@pytest.mark.golden("text_quant")
def test_quantised_weights_decode_exactly(golden) -> None:
    tensors = golden.tensors()
    header = read_header(golden.path)
    layers = [name.removeprefix("out/") for name in tensors if name.startswith("out/")]
    for layer in layers:
        expected = tensors[f"out/{layer}"]
        infos = {n: info for n, info in header.tensors.items() if n.startswith(f"{layer}.")}
        stored, shapes = find_quantized(infos, read_markers(infos, {})), {f"{layer}.weight": expected.shape}
        state = read_state(infos, stored, frozenset(), shapes, torch.float32, torch.device("cpu"))
        assert torch.equal(state[f"{layer}.weight"], expected), layer
