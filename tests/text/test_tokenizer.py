"""Tokens: start, length, padding, any Unicode text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as FastTokenizer

from ltx2_core.text import MAX_TOKENS, Tokenizer, load_tokenizer
from ltx2_core.text.tiny_gemma import VOCAB_SIZE, tiny_tokenizer

BOS, PAD, UNK = 2, 0, 3
TINY = tiny_tokenizer()


@pytest.fixture(scope="module")
def tokenizer(gemma_folder) -> Tokenizer:
    return load_tokenizer(gemma_folder)


def test_an_empty_prompt_is_bos_alone(tokenizer) -> None:
    for prompt in ("", " \n\t "):
        ids, mask = tokenizer([prompt])
        assert ids.tolist() == [[BOS]]
        assert mask.tolist() == [[1]]


def test_surrounding_whitespace_is_dropped_and_no_eos_added(tokenizer) -> None:
    plain, padded = tokenizer(["a red circle"])[0], tokenizer(["  a red circle\n"])[0]
    assert plain.tolist() == padded.tolist()
    assert plain[0, 0] == BOS
    assert 1 not in plain


def test_shorter_prompts_are_padded_on_the_left(tokenizer) -> None:
    short, long = "a red circle", "a red circle moves to the left"
    ids, mask = tokenizer([short, long])
    pads = ids.shape[1] - tokenizer([short])[0].shape[1]
    assert pads > 0
    assert ids[0].tolist() == [PAD] * pads + tokenizer([short])[0][0].tolist()
    assert mask[0].tolist() == [0] * pads + [1] * (ids.shape[1] - pads)
    assert mask[1].all()


def test_a_long_prompt_is_truncated_with_a_warning(tokenizer, caplog) -> None:
    prompt = "zx" * 2000
    ids, mask = tokenizer([prompt])
    assert ids.shape == (1, MAX_TOKENS)
    assert mask.all()
    assert ids[0].tolist() == [BOS, *tokenizer.encode(prompt)][:MAX_TOKENS]
    assert "only the first 1024" in caplog.text


@given(st.text(max_size=40))
@example("你好 🙂 Ünï\x00")
def test_any_text_is_encoded_without_unknowns_and_comes_back(text) -> None:
    ids = TINY.encode(text, add_special_tokens=False).ids
    assert UNK not in ids
    assert max(ids, default=0) < VOCAB_SIZE
    if "▁" not in text:
        assert TINY.decode(ids, skip_special_tokens=False) == text


def test_english_takes_fewer_tokens_than_letters(tokenizer) -> None:
    prompt = "a red circle moves left and sounds low"
    assert tokenizer([prompt])[0].shape[1] < len(prompt) / 2


def test_ids_equal_those_of_the_transformers_library(gemma_folder, tokenizer) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(gemma_folder)
    for prompt in ("", "a red circle", "Hello, Wörld! 你好 🙂\n next"):
        assert tokenizer([prompt])[0][0].tolist() == reference(prompt)["input_ids"]


def test_the_tiny_tokenizer_is_always_the_same() -> None:
    assert tiny_tokenizer().to_str() == TINY.to_str()
    assert TINY.get_vocab_size() == VOCAB_SIZE


def test_a_single_string_is_refused(tokenizer) -> None:
    for prompts in ("red", []):
        with pytest.raises(ValueError, match="list of at least one string"):
            tokenizer(prompts)


def test_a_tokenizer_in_a_subfolder_is_found(gemma_folder, tmp_path) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "tokenizer.json").write_bytes((gemma_folder / "tokenizer.json").read_bytes())
    assert load_tokenizer(tmp_path)(["red"])[0].tolist() == load_tokenizer(gemma_folder)(["red"])[0].tolist()


def test_a_folder_without_tokenizer_is_an_error_that_lists_its_files(tmp_path) -> None:
    (tmp_path / "vocab.txt").touch()
    with pytest.raises(ValueError, match=r"no tokenizer in .*found vocab\.txt; expected tokenizer\.json"):
        load_tokenizer(tmp_path)


def test_another_models_tokenizer_is_refused(tmp_path) -> None:
    from tokenizers.models import WordLevel

    FastTokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match="not a Gemma tokenizer"):
        load_tokenizer(tmp_path)


def test_a_sentencepiece_model_serves_when_there_is_no_json(tmp_path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    import io

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a red circle", "a blue square", "the circle moves left"]),
        model_writer=model,
        model_type="bpe",
        vocab_size=320,
        byte_fallback=True,
        add_dummy_prefix=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = load_tokenizer(tmp_path)
    ids, mask = tokenizer(["a red circle", ""])
    assert ids[0, 0] == BOS
    assert ids[1].tolist() == [PAD] * (ids.shape[1] - 1) + [BOS]
    assert mask.sum() == ids.shape[1] + 1
    assert UNK not in tokenizer(["你好"])[0]
