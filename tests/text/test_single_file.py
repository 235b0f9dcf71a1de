"""A text encoder in one file: every number format, its tokenizer, and files that are mistaken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.quantize import encode
from ltx2_core.storage.quantized import QuantizedLinear
from ltx2_core.text import load_gemma, load_tokenizer

FORMATS = {
    "fp8 scaled": [Format("float")],
    "fp4 mixed": [Format("nvfp4"), Format("float")],
    "int8": [Format("int8", 16)],
}
NAMES = {"float": "float8_e4m3fn", "nvfp4": "nvfp4", "int8": "int8_tensorwise"}


def packed(folder: Path) -> dict[str, Tensor]:
    """The tensors of a tiny folder as ComfyUI packs them, with a vision part that is not read."""
    tensors = load_file(folder / "model.safetensors")
    named = {f"model.{name.removeprefix('model.')}": tensor for name, tensor in tensors.items()}
    return {**named, "vision_model.embeddings.patch_embedding.weight": torch.zeros(4, 3)}


def linear_layers(tensors: dict[str, Tensor]) -> list[str]:
    return [
        n.removesuffix(".weight") for n in tensors if n.endswith("_proj.weight") and n.startswith("model.")
    ]


def quantised(tensors: dict[str, Tensor], formats: list[Format], style: str) -> tuple[dict, dict]:
    """(tensors, metadata) with the linear layers stored in ``formats`` in turn and marked in ``style``."""
    result, entries = dict(tensors), {}
    for index, layer in enumerate(linear_layers(tensors)):
        form = formats[index % len(formats)]
        parts = encode(form, tensors[f"{layer}.weight"])
        if style == "legacy":
            parts = {{"weight_scale": "scale_weight"}.get(key, key): value for key, value in parts.items()}
        entry = {"format": NAMES[form.kind]}
        if form.rotation:
            entry |= {"convrot": True, "convrot_groupsize": form.rotation}
        result |= {f"{layer}.{key}": value.contiguous() for key, value in parts.items()}
        entries[layer] = entry
        if style == "tensors":
            result[f"{layer}.comfy_quant"] = torch.tensor(list(json.dumps(entry).encode()), dtype=torch.uint8)
    if style == "legacy":
        result["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    metadata = {"_quantization_metadata": json.dumps({"layers": entries})} if style == "header" else {}
    return result, metadata


def states(gemma, tokenizer) -> Tensor:
    ids, mask = tokenizer(["a red circle moves"])
    hidden_states: list[Tensor] = []
    gemma(ids, mask, lambda index, hidden: hidden_states.append(hidden.clone()))
    return torch.stack(hidden_states)


def test_a_single_file_gives_the_states_of_its_folder(gemma_folder, tmp_path) -> None:
    save_file(packed(gemma_folder), tmp_path / "gemma.safetensors")
    tokenizer = load_tokenizer(gemma_folder)
    folder, file = (
        load_gemma(p, dtype=torch.float32) for p in (gemma_folder, tmp_path / "gemma.safetensors")
    )
    ours, plain = file.state_dict(), folder.state_dict()
    assert ours.keys() == plain.keys()
    assert all(torch.equal(ours[name], plain[name]) for name in plain)
    # Weights that are aligned otherwise in another file are summed from elsewhere.
    torch.testing.assert_close(states(file, tokenizer), states(folder, tokenizer), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", ["tensors", "header", "legacy"])
@pytest.mark.parametrize("kind", FORMATS)
def test_quantised_files_compute_what_their_decoded_weights_do(kind, style, gemma_folder, tmp_path) -> None:
    if style == "legacy" and kind != "fp8 scaled":
        pytest.skip("the older markers only support fp8")
    plain = packed(gemma_folder)
    tensors, metadata = quantised(plain, FORMATS[kind], style)
    save_file(tensors, tmp_path / "quantised.safetensors", metadata=metadata)
    for index, layer in enumerate(linear_layers(plain)):
        form, weight = FORMATS[kind][index % len(FORMATS[kind])], plain[f"{layer}.weight"]
        plain[f"{layer}.weight"] = decode(layer, form, encode(form, weight), tuple(weight.shape))
    save_file(plain, tmp_path / "decoded.safetensors")
    tokenizer = load_tokenizer(gemma_folder)
    stored, decoded = (
        load_gemma(tmp_path / f"{name}.safetensors", dtype=torch.float32) for name in ("quantised", "decoded")
    )
    assert isinstance(stored.model.layers[0].mlp.up_proj, QuantizedLinear)
    torch.testing.assert_close(states(stored, tokenizer), states(decoded, tokenizer), atol=1e-5, rtol=1e-5)


def test_the_tokenizer_comes_from_the_file(gemma_folder, pieces, tmp_path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(pieces)
    tensors = packed(gemma_folder)
    tensors["spiece_model"] = torch.tensor(list(pieces), dtype=torch.uint8)
    save_file(tensors, tmp_path / "gemma.safetensors")
    prompts = ["a red circle", "  a blue square and a sound "]
    for inside, outside in zip(
        load_tokenizer(tmp_path / "gemma.safetensors")(prompts),
        load_tokenizer(tmp_path)(prompts),
        strict=True,
    ):
        assert torch.equal(inside, outside)


def test_a_packed_tokenizer_json_is_read_too(gemma_folder, tmp_path) -> None:
    content = (gemma_folder / "tokenizer.json").read_bytes()
    tensors = {**packed(gemma_folder), "tokenizer_json": torch.tensor(list(content), dtype=torch.uint8)}
    save_file(tensors, tmp_path / "gemma.safetensors")
    ids, _ = load_tokenizer(tmp_path / "gemma.safetensors")(["a red circle"])
    assert torch.equal(ids, load_tokenizer(gemma_folder)(["a red circle"])[0])


@pytest.mark.parametrize("name", ["spiece_model", "tokenizer_json"])
def test_a_damaged_or_missing_tokenizer_is_an_error_with_the_file(name, gemma_folder, tmp_path) -> None:
    path = tmp_path / "gemma.safetensors"
    save_file({**packed(gemma_folder), name: torch.full((64,), 7, dtype=torch.uint8)}, path)
    with pytest.raises(ValueError, match=r"gemma\.safetensors"):
        load_tokenizer(path)
    save_file(packed(gemma_folder), path)
    with pytest.raises(ValueError, match=r"gemma\.safetensors contains no tokenizer .*spiece_model"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"], "a T5"),
        (["text_model.encoder.layers.0.self_attn.q_proj.weight"], "a CLIP"),
        (
            ["model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight"],
            "a language model of another family",
        ),
        (
            ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.post_feedforward_layernorm.weight"],
            "a Gemma 2",
        ),
        (["model.layers.0.layer_scalar"], "a Gemma 4 without"),
        (["model.diffusion_model.adaln_single.linear.weight"], "an LTX-2 checkpoint"),
        (["something.weight"], "something with tensors such as something.weight"),
    ],
)
def test_what_is_mistaken_for_a_text_encoder_is_named(names, what, tmp_path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({name: torch.zeros(4, 4) for name in names}, path)
    with pytest.raises(ValueError, match=rf"other\.safetensors is not a Gemma 3 .*seems to be {what}.*12B"):
        load_gemma(path, dtype=torch.bfloat16)


def test_a_gemma_4_file_gives_the_states_of_the_transformers_library(tmp_path) -> None:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4UnifiedTextModel"):
        pytest.skip("this release of transformers has no Gemma 4")
    torch.manual_seed(0)
    fields = {
        "vocab_size": 512,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "attention_k_eq_v": True,
        "pad_token_id": 0,
    }
    model = transformers.Gemma4UnifiedTextModel(transformers.Gemma4UnifiedTextConfig(**fields)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    config = {"model_type": "gemma4_unified", "text_config": model.config.to_dict()}
    save_file(
        {f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        tmp_path / "gemma4.safetensors",
        metadata={"gemma_config": json.dumps(config)},
    )
    gemma = load_gemma(tmp_path / "gemma4.safetensors", dtype=torch.float32)
    assert gemma.generation == 4
    ids = torch.tensor([[2, 5, 9, 11, 30]])
    hidden_states: list[Tensor] = []
    gemma(ids, torch.ones_like(ids), lambda index, hidden: hidden_states.append(hidden.clone()))
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True, use_cache=False).hidden_states
    torch.testing.assert_close(torch.stack(hidden_states), torch.stack(expected), atol=1e-5, rtol=0)
