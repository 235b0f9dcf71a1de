"""Loading Gemma from folders, and its hidden states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.text import Gemma, load_gemma, load_tokenizer
from ltx2_core.text.tiny_gemma import write_tiny_gemma

PROMPTS = ["a red circle", "a blue square moves slowly to the right, humming"]


def states_of(gemma: Gemma, ids: Tensor, mask: Tensor) -> list[Tensor]:
    states: list[Tensor] = []
    gemma(ids, mask, lambda index, hidden: states.append(hidden.clone()))
    return states


@pytest.fixture(scope="module")
def gemma(gemma_folder) -> Gemma:
    return load_gemma(gemma_folder, dtype=torch.float32)


def relayout(source: Path, target: Path, prefix: str, *, multimodal: bool = False) -> None:
    """The tiny folder again with other key prefixes, in two shards with an index."""
    target.mkdir()
    config = json.loads((source / "config.json").read_text())
    if multimodal:
        config = {"model_type": "gemma3", "text_config": config, "vision_config": {"hidden_size": 8}}
    (target / "config.json").write_text(json.dumps(config))
    tensors = {k.replace("model.", prefix, 1): v for k, v in load_file(source / "model.safetensors").items()}
    if multimodal:
        tensors["vision_tower.vision_model.encoder.layers.0.layer_norm1.weight"] = torch.ones(8)
        tensors["model.vision_tower.vision_model.embeddings.weight"] = torch.ones(8)
        tensors["lm_head.weight"] = torch.ones(8)
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, target / file)
    index = {"weight_map": {key: file for file, keys in shards.items() for key in keys}}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))


def test_states_equal_those_of_the_transformers_library(gemma_folder, gemma) -> None:
    from transformers import Gemma3ForCausalLM

    ids, mask = load_tokenizer(gemma_folder)(PROMPTS)
    model = Gemma3ForCausalLM.from_pretrained(gemma_folder).float()
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    states = states_of(gemma, ids, mask)
    assert len(states) == len(expected) == gemma.num_states
    for ours, reference in zip(states, expected, strict=True):
        torch.testing.assert_close(ours[mask.bool()], reference[mask.bool()], atol=1e-6, rtol=0)


def test_a_batch_equals_its_prompts_one_by_one(gemma_folder, gemma) -> None:
    tokenizer = load_tokenizer(gemma_folder)
    ids, mask = tokenizer(PROMPTS)
    batch = states_of(gemma, ids, mask)
    for i, prompt in enumerate(PROMPTS):
        for together, alone in zip(batch, states_of(gemma, *tokenizer([prompt])), strict=True):
            torch.testing.assert_close(together[i][mask[i].bool()], alone[0], atol=5e-5, rtol=0)


def test_padding_tokens_change_no_valid_token(gemma_folder, gemma) -> None:
    ids, mask = load_tokenizer(gemma_folder)(PROMPTS)
    other = torch.where(mask.bool(), ids, 77)
    for a, b in zip(states_of(gemma, ids, mask), states_of(gemma, other, mask), strict=True):
        assert torch.equal(a[mask.bool()], b[mask.bool()])


def test_states_arrive_in_order_and_a_consumer_can_stop_the_run(gemma) -> None:
    indices: list[int] = []

    def stop_at_two(index: int, hidden: Tensor) -> None:
        indices.append(index)
        if index == 2:
            raise InterruptedError

    ids = torch.tensor([[2, 300, 301]])
    with pytest.raises(InterruptedError):
        gemma(ids, torch.ones_like(ids), stop_at_two)
    assert indices == [0, 1, 2]
    assert len(states_of(gemma, ids, torch.ones_like(ids))) == 5
    assert indices == [0, 1, 2], "the hooks of the stopped run must be gone"


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model.", "model.", ""])
@pytest.mark.parametrize("multimodal", [False, True])
def test_every_key_layout_loads_the_same_model(gemma_folder, gemma, tmp_path, prefix, multimodal) -> None:
    relayout(gemma_folder, tmp_path / "encoder", prefix, multimodal=multimodal)
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    save_file({"layers.0.weight": torch.ones(2)}, tmp_path / "vae" / "vae.safetensors")
    loaded = load_gemma(tmp_path, dtype=torch.float32)
    for (name, ours), (_, expected) in zip(
        sorted(loaded.state_dict().items()), sorted(gemma.state_dict().items()), strict=True
    ):
        assert torch.equal(ours, expected), name


def test_new_and_old_rotary_fields_mean_the_same(gemma_folder, tmp_path) -> None:
    config = json.loads((gemma_folder / "config.json").read_text())
    config["sliding_window_pattern"] = 2
    new = {k: v for k, v in config.items() if not k.startswith("rope_")}
    new["rope_parameters"] = {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    shutil.copy(gemma_folder / "model.safetensors", tmp_path)

    def states(config: dict[str, Any]) -> list[Tensor]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        return states_of(load_gemma(tmp_path, dtype=torch.float32), ids, torch.ones_like(ids))

    ids = torch.arange(260, 290).unsqueeze(0)
    old_states, new_states = states(config), states(new)
    unscaled_states = states({**config, "rope_scaling": None})
    assert all(torch.equal(a, b) for a, b in zip(old_states, new_states, strict=True))
    assert not torch.allclose(old_states[-1], unscaled_states[-1], atol=1e-4)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="reads the mappings that Linux lists")
def test_weights_that_have_the_dtype_stay_memory_mapped(gemma_folder, tmp_path) -> None:
    shutil.copytree(gemma_folder, tmp_path / "a")
    path = str(tmp_path / "a" / "model.safetensors")
    converted = load_gemma(tmp_path, dtype=torch.bfloat16)
    assert path not in Path("/proc/self/maps").read_text()
    mapped = load_gemma(tmp_path, dtype=torch.float32)
    assert path in Path("/proc/self/maps").read_text()
    torch.testing.assert_close(
        converted.model.norm.weight.float(), mapped.model.norm.weight, atol=1e-2, rtol=0
    )


def test_a_loaded_model_is_complete_frozen_and_of_one_dtype(gemma_folder) -> None:
    gemma = load_gemma(gemma_folder, dtype=torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 and not p.requires_grad for p in gemma.parameters())
    assert not any(tensor.is_meta for tensor in (*gemma.parameters(), *gemma.buffers()))
    assert not gemma.model.training


def test_the_tiny_folder_is_small_and_follows_from_its_seed(tmp_path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tiny_gemma(tmp_path / name, seed=seed)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "abc")
    assert a == b
    assert a["model.safetensors"] != c["model.safetensors"]
    assert sum(map(len, a.values())) < 1.5e6


def test_float16_is_refused(gemma_folder) -> None:
    with pytest.raises(ValueError, match=r"use torch\.bfloat16 or torch\.float32"):
        load_gemma(gemma_folder, dtype=torch.float16)


@pytest.mark.parametrize("kind", ["t5", "gemma4", "siglip_vision_model"])
def test_another_architecture_is_named(tmp_path, kind) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(ValueError, match=rf"no Gemma 3 .*found config\.json is {kind}; expected .*'gemma3'"):
        load_gemma(tmp_path, dtype=torch.float32)


def test_a_missing_folder_and_an_empty_folder_have_different_errors(tmp_path) -> None:
    for path, words in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path, "found no config.json"),
    ):
        with pytest.raises(ValueError, match=words):
            load_gemma(path, dtype=torch.float32)


def test_missing_weights_and_shards_are_named(gemma_folder, tmp_path) -> None:
    shutil.copy(gemma_folder / "config.json", tmp_path)
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ValueError, match=r"no Gemma weights .*found model\.gguf; expected \*\.safetensors"):
        load_gemma(tmp_path, dtype=torch.float32)
    relayout(gemma_folder, tmp_path / "sharded", "model.")
    (tmp_path / "sharded" / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model-00002-of-00002\.safetensors \(1 in all\) are missing"):
        load_gemma(tmp_path / "sharded", dtype=torch.float32)


def test_two_encoders_in_one_folder_are_refused(gemma_folder, tmp_path) -> None:
    shutil.copytree(gemma_folder, tmp_path / "a")
    shutil.copy(tmp_path / "a" / "model.safetensors", tmp_path / "a" / "copy.safetensors")
    with pytest.raises(ValueError, match="both hold"):
        load_gemma(tmp_path, dtype=torch.float32)


def test_weights_that_do_not_fit_the_config_are_named(gemma_folder, tmp_path) -> None:
    shutil.copytree(gemma_folder, tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_hidden_layers": 5}))
    with pytest.raises(ValueError, match=r"num_hidden_layers is 5 .* weights have 4 layers"):
        load_gemma(tmp_path, dtype=torch.float32)
    path.write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ValueError, match=r"mlp\.gate_proj\.weight has shape .*config\.json says \(96, 64\)"):
        load_gemma(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize(
    "entry",
    [
        {"_attn_implementation": "evil/kernel"},
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation_internal": "evil/kernel"},
        {"_experts_implementation": "evil/kernel"},
        {"auto_map": {"AutoModel": "evil--modeling.Evil"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"kernel_config": {"RMSNorm": "evil/kernel"}},
        {"use_kernels": True},
        {"torch_dtype": "float64"},
        {"_name_or_path": "evil/repository"},
        {"tokenizer_class": "Evil"},
    ],
    ids=lambda entry: next(iter(entry)),
)
def test_a_key_that_loads_code_is_left_out(gemma_folder, gemma, tmp_path, monkeypatch, entry) -> None:
    transformers = pytest.importorskip("transformers")
    received = []
    original = transformers.Gemma3TextConfig.from_dict.__func__

    def record(cls, fields, **options):
        received.append(fields)
        return original(cls, fields, **options)

    monkeypatch.setattr(transformers.Gemma3TextConfig, "from_dict", classmethod(record))
    shutil.copytree(gemma_folder, tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **entry}))
    loaded = load_gemma(tmp_path, dtype=torch.float32)
    assert not received[0].keys() & entry.keys()
    assert loaded.state_dict().keys() == gemma.state_dict().keys()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**6),
        ("num_hidden_layers", 999),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 4.5),
        ("num_hidden_layers", [4]),
        ("hidden_size", 10**30),
        ("head_dim", "256"),
        ("rms_norm_eps", float("nan")),
        ("vocab_size", True),
        ("hidden_activation", "evil.module"),
        ("hidden_activation", {"a": 1}),
        ("attention_bias", "yes"),
        ("layer_types", ["sliding_attention", "evil"]),
        ("layer_types", ["full_attention"] * 1001),
        ("rope_scaling", {"rope_type": "evil", "factor": 8.0}),
        ("rope_scaling", "linear"),
        ("rope_parameters", {"full_attention": {"deep": {"deeper": 1}}}),
        ("per_layer_config", {"05": {"auto_map": 1}}),
        ("eos_token_id", "1"),
    ],
)
def test_a_value_that_no_gemma_has_is_refused_from_the_header(gemma_folder, tmp_path, key, value) -> None:
    shutil.copytree(gemma_folder, tmp_path / "a")
    path = tmp_path / "a" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ValueError, match=key):
        load_gemma(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/tmp/model.safetensors", "a/../../model.safetensors", "..", "", 3, None]
)
def test_an_index_does_not_name_a_file_outside_its_folder(gemma_folder, tmp_path, name) -> None:
    shutil.copytree(gemma_folder, tmp_path / "a")
    index = {"weight_map": {"model.norm.weight": name}}
    (tmp_path / "a" / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(gemma_folder / "model.safetensors", tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="has no 'weight_map'"):
        load_gemma(tmp_path / "a", dtype=torch.float32)
