"""Gemma 3 in a GGUF file of llama.cpp: states and token ids are those of its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf_files import write_encoder

from ltx2_core import LTX2Pipeline
from ltx2_core.loading.describe import describe
from ltx2_core.storage.quantized import QuantizedLinear
from ltx2_core.text import load_gemma, load_tokenizer
from ltx2_core.text.gemma import find_encoder
from ltx2_core.text.gguf_encoder import _tokenizer
from ltx2_core.text.tokenizer import check_tokenizer

TEXTS = (
    "a red circle moves slowly to the right",
    'Blue SQUARE,  two spaces; \n\nnew lines and a voice: "hello"',
    "émigré 映画 🎬 unseen letters as bytes",
)


def states(gemma, ids):
    found = []
    gemma(ids, torch.ones_like(ids), lambda _, hidden: found.append(hidden))
    return torch.stack(found)


@pytest.fixture(scope="module")
def plain(gemma_folder, tmp_path_factory):
    return write_encoder(gemma_folder, tmp_path_factory.mktemp("gguf") / "gemma-F32.gguf", blocks=False)


def test_its_states_are_those_of_the_folder(gemma_folder, plain):
    ids = torch.arange(4, 24)[None]
    expected = states(load_gemma(gemma_folder, dtype=torch.float32), ids)
    torch.testing.assert_close(
        states(load_gemma(plain, dtype=torch.float32), ids), expected, rtol=0, atol=1e-5
    )


def test_blocks_are_decoded_on_use(gemma_folder, tmp_path):
    path = write_encoder(gemma_folder, tmp_path / "gemma-Q8_0.gguf", blocks=True)
    ids = torch.arange(4, 24)[None]
    gemma, decoded = (load_gemma(path, dtype=torch.float32) for _ in range(2))
    layers = {n: m for n, m in decoded.model.named_modules() if isinstance(m, QuantizedLinear)}
    assert layers
    for name, layer in layers.items():
        linear = torch.nn.Linear(layer.in_features, layer.out_features, bias=False)
        linear.weight.data = layer.decoded()
        parent, _, child = name.rpartition(".")
        setattr(decoded.model.get_submodule(parent), child, linear)
    torch.testing.assert_close(states(gemma, ids), states(decoded, ids), rtol=0, atol=1e-5)


def test_its_tokenizer_is_made_of_the_metadata(gemma_folder, plain):
    own, expected = load_tokenizer(plain), load_tokenizer(gemma_folder)
    for text in TEXTS:
        assert own.encode(text) == expected.encode(text)
        assert own.decode(own.encode(text)) == text
    assert (own.bos_id, own.pad_id, own.eos_id) == (expected.bos_id, expected.pad_id, expected.eos_id)


def test_its_token_ids_are_those_of_sentencepiece(pieces):
    sentencepiece = pytest.importorskip("sentencepiece")
    model = sentencepiece.SentencePieceProcessor(model_proto=pieces)

    def kind(n):
        return 6 if model.is_byte(n) else 3 if model.is_control(n) else 2 if model.is_unknown(n) else 1

    numbers = range(model.get_piece_size())
    facts = ([each(n) for n in numbers] for each in (model.id_to_piece, model.get_score, kind))
    built = _tokenizer(*facts)
    for text in TEXTS:
        assert built.encode(text, add_special_tokens=False).ids == model.encode(text)


def test_user_defined_pieces_are_found_as_a_whole():
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "▁", "a", "b", "ab", "▁▁", "<tag>"]
    built = _tokenizer(pieces, [-float(n) for n in range(len(pieces))], [3, 3, 3, 2, 1, 1, 1, 1, 4, 4])
    assert built.encode("ab  a<tag>b", add_special_tokens=False).tokens == ["ab", "▁▁", "a", "<tag>", "b"]


def test_without_a_tokenizer_the_message_says_what_is_needed(gemma_folder, tmp_path):
    path = write_encoder(gemma_folder, tmp_path / "bare.gguf", blocks=False, tokenizer=False)
    with pytest.raises(ValueError, match=r"has no tokenizer .* put tokenizer\.json or tokenizer\.model"):
        check_tokenizer(path)
    (tmp_path / "tokenizer.json").write_bytes((gemma_folder / "tokenizer.json").read_bytes())
    check_tokenizer(path)
    assert load_tokenizer(path).encode(TEXTS[0]) == load_tokenizer(gemma_folder).encode(TEXTS[0])


def test_another_model_is_refused_by_name(gemma_folder, tmp_path):
    path = write_encoder(gemma_folder, tmp_path / "llama.gguf", blocks=False, arch="llama")
    with pytest.raises(ValueError, match=r"architecture llama; as a text encoder a GGUF must be a Gemma 3"):
        find_encoder(path)


def test_inspect_says_what_it_is(plain):
    report = describe(plain)
    assert report["kind"] == "text encoder"
    assert report["layout"] == "text encoder in one file"


def test_a_pipeline_encodes_by_it_and_a_plan_counts_it(tiny_set, tmp_path):
    path = write_encoder(Path(tiny_set.text_encoder), tmp_path / "gemma.gguf", blocks=False)
    made = {"width": 64, "height": 64, "num_frames": 9, "steps": 1, "seed": 1}
    pipes = [
        LTX2Pipeline(tiny_set.checkpoint, text_encoder=encoder, dtype=torch.float32, device="cpu")
        for encoder in (tiny_set.text_encoder, path)
    ]
    folder, file = (pipe("a red circle", **made).latents.video for pipe in pipes)
    torch.testing.assert_close(file, folder, rtol=0, atol=1e-4)
    assert pipes[0].networks.text_encoder_bytes() == pipes[1].networks.text_encoder_bytes()
    blocks = write_encoder(Path(tiny_set.text_encoder), tmp_path / "gemma-Q8_0.gguf", blocks=True)
    small = LTX2Pipeline(tiny_set.checkpoint, text_encoder=blocks, dtype=torch.float32, device="cpu")
    assert small.networks.text_encoder_bytes() < pipes[0].networks.text_encoder_bytes()
