"""Prompt enhancement: what the language model is told, how it writes, and what is taken from its answer."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ltx2_core.text import load_gemma, load_tokenizer
from ltx2_core.text.enhance import RULES, SEED, WritingRules, cleaned, conversation, enhanced
from ltx2_core.text.tiny_gemma import write_tiny_gemma
from ltx2_core.text.writer import MULTIPLE, check_writer, write_text, writer_of

sys.path.insert(0, str(Path(__file__).parents[1]))

from talking_gemma import VOCABULARY, with_marks

SHORT = {3: WritingRules(max_tokens=12, temperature=0.7), 4: WritingRules(max_tokens=40, no_repeat=2)}


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma3")
    write_tiny_gemma(folder, dtype=torch.float32, head_dim=32, vocab_size=VOCABULARY)
    return with_marks(folder)


@pytest.fixture(scope="module")
def gemma4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Gemma 4 as E2B is: embeddings for each layer, and layers that take keys of earlier ones."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip("this transformers has no Gemma 4")
    folder = tmp_path_factory.mktemp("gemma4")
    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "vocab_size_per_layer_input": VOCABULARY,
        "hidden_size": 64,
        "hidden_size_per_layer_input": 16,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_kv_shared_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 16,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "final_logit_softcapping": 30.0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    torch.manual_seed(0)
    model = transformers.Gemma4ForCausalLM(transformers.Gemma4TextConfig(**fields)).eval()
    tensors = {name: t.clone() for name, t in model.state_dict().items() if name != "lm_head.weight"}
    # Released files hold these too, though no layer reads them.
    for name in ("k_proj", "v_proj"):
        tensors[f"model.layers.3.self_attn.{name}.weight"] = torch.randn(16, 64)
    save_file(tensors, folder / "model.safetensors")
    config = {**model.config.to_dict(), "model_type": "gemma4_text"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return with_marks(folder)


def answer_of_transformers(folder: Path, text: str, rules: WritingRules, seed: int) -> str:
    """What transformers' own model of the folder writes, from its own loader and with its own options."""
    import transformers

    tokenizer = load_tokenizer(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = "Gemma4ForCausalLM" if config["model_type"] == "gemma4_text" else "Gemma3ForCausalLM"
    model = getattr(transformers, kind).from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.tensor([tokenizer.conversation_ids(text)])
    torch.manual_seed(seed)
    drawn = rules.temperature is not None
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=rules.max_tokens,
        do_sample=drawn,
        **({"temperature": rules.temperature, "top_k": 0, "top_p": 1.0} if drawn else {}),
        no_repeat_ngram_size=rules.no_repeat or None,
        eos_token_id=[1, *(tokenizer.special[end] for end in tokenizer.ends)],
        pad_token_id=0,
    )[0, ids.shape[1] :].tolist()
    return tokenizer.decode([token for token in made if token not in tokenizer.special.values()])


@pytest.mark.parametrize("generation", [3, 4])
def test_an_answer_is_that_of_transformers(request: pytest.FixtureRequest, generation: int) -> None:
    folder = request.getfixturevalue(f"gemma{generation}")
    gemma, tokenizer = load_gemma(folder, dtype=torch.float32), load_tokenizer(folder)
    assert gemma.generation == generation
    text, rules = conversation("a ball rolls", generation), SHORT[generation]
    state = torch.get_rng_state()
    answer = write_text(gemma, tokenizer, text, rules, seed=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert answer == answer_of_transformers(folder, text, rules, 7)
    assert answer


def test_greedy_answers_repeat_no_sequence_and_seeds_do_not_matter(gemma4: Path) -> None:
    gemma, tokenizer = load_gemma(gemma4, dtype=torch.float32), load_tokenizer(gemma4)
    text = conversation("a ball rolls", 4)
    answers = [write_text(gemma, tokenizer, text, SHORT[4], seed=seed) for seed in (1, 2)]
    assert answers[0] == answers[1]
    drawn = {
        write_text(gemma, tokenizer, text, WritingRules(max_tokens=12, temperature=1.5), seed=seed)
        for seed in (1, 2)
    }
    assert len(drawn) == 2


def test_the_seed_after_the_last_is_the_first(gemma3: Path) -> None:
    gemma, tokenizer = load_gemma(gemma3, dtype=torch.float32), load_tokenizer(gemma3)
    text = conversation("a ball rolls", 3)
    again = write_text(gemma, tokenizer, text, replace(SHORT[3], attempt=1), seed=2**64 - 1)
    assert again == write_text(gemma, tokenizer, text, SHORT[3], seed=0)


def test_writing_ends_when_it_is_stopped(gemma3: Path) -> None:
    gemma, tokenizer = load_gemma(gemma3, dtype=torch.float32), load_tokenizer(gemma3)
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) == 3

    write_text(gemma, tokenizer, conversation("a ball", 3), RULES[3], stop=stop)
    assert len(calls) == 3


def test_the_rules_are_those_of_the_official_pipelines() -> None:
    assert (RULES[3].temperature, RULES[3].max_tokens, RULES[3].no_repeat) == (0.7, 512, 0)
    assert (RULES[4].temperature, RULES[4].max_tokens, RULES[4].no_repeat) == (None, 600, 5)
    assert (SEED, MULTIPLE) == (42, 8)


@pytest.mark.parametrize("generation", [3, 4])
@pytest.mark.parametrize("from_image", [False, True])
def test_a_conversation_has_the_prompt_and_the_marks_of_its_generation(
    request: pytest.FixtureRequest, generation: int, from_image: bool
) -> None:
    text = conversation("a ball {x} rolls", generation, from_image=from_image)
    asked = "User Raw Input Prompt: a ball {x} rolls." if from_image else "user prompt: a ball {x} rolls"
    assert asked in text
    tokenizer = load_tokenizer(request.getfixturevalue(f"gemma{generation}"))
    ids = tokenizer.conversation_ids(text)
    starts, ends = ("<start_of_turn>", "<end_of_turn>") if generation == 3 else ("<|turn>", "<turn|>")
    assert ids[0] == tokenizer.bos_id
    assert ids.count(tokenizer.special[starts]) == ids.count(tokenizer.special[ends]) + 1


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A ball rolls.", "A ball rolls."),
        ("  \n**A ball** rolls. \n", "A ball** rolls."),
        ("\u201cHello\u201d \u2014 she says\u2026 it\u2019s\u00a0her", "Hello\" - she says... it's her"),
        ("<think>plan it</think>A ball", "A ball"),
        ("<think>a</think>A<think>b</think> ball", "A ball"),
        ("A ball<think>and then", "A ball"),
        ("<think>only a plan", "a prompt"),
        ("a plan</think>A ball", "A ball"),
        ("", "a prompt"),
        ("123 !?", "a prompt"),
        ("\u4e00\u4e2a\u7403", "\u4e00\u4e2a\u7403"),
    ],
)
def test_the_prompt_is_taken_from_an_answer(answer: str, expected: str) -> None:
    assert cleaned(answer, "a prompt") == expected


def test_an_empty_prompt_and_models_that_cannot_write_are_refused(gemma_folder: Path, gemma3: Path) -> None:
    with pytest.raises(ValueError, match="no prompt to enhance"):
        enhanced("  ", 3, lambda text, rules: "never")
    with pytest.raises(ValueError, match="has no <start_of_turn>"):
        load_tokenizer(gemma_folder).conversation_ids(conversation("a ball", 3))
    with pytest.raises(ValueError, match="--enhancer FOLDER"):
        check_writer(4, "gemma")
    check_writer(3, "gemma")


def test_the_language_model_is_told_of_an_image_that_it_does_not_see(caplog) -> None:
    told: list[str] = []

    def write(text: str, rules: WritingRules) -> str:
        told.append(text)
        return "A ball rolls."

    assert enhanced("a ball", 4, write, from_image=True) == "A ball rolls."
    assert "first frame must match that image" in told[0]
    assert "does not see the image" in caplog.text


def test_a_writer_has_the_rules_of_its_call(gemma3: Path) -> None:
    write = writer_of(load_gemma(gemma3, dtype=torch.float32), load_tokenizer(gemma3), seed=3)
    text = conversation("a ball", 3)
    assert write(text, WritingRules(max_tokens=1)) != write(text, WritingRules(max_tokens=6))
