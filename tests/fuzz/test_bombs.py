"""Files that are small and valid, and would take hours or gigabytes to read, are refused at once."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ltx2_core.loading import open_checkpoint, open_lora
from ltx2_core.loading.describe import describe
from ltx2_core.media import load_image, read_audio, read_video
from ltx2_core.storage.files import entries
from ltx2_core.text import load_gemma, load_tokenizer
from ltx2_core.text.schedule import PromptSchedule
from ltx2_core.tiny import embedded_set

MOST_MB = 64


def _gemma(path: Path) -> object:
    return load_gemma(path, dtype=torch.float32)


def _huge_image(folder: Path) -> Path:
    path = folder / "huge.png"
    Image.new("1", (13000, 13000)).save(path)
    return path


def _animation_of_huge_frames(folder: Path) -> Path:
    path = folder / "huge.gif"
    Image.new("P", (13000, 13000)).save(path)
    return path


def _huge_header(folder: Path) -> Path:
    path = folder / "huge.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}" + bytes(100))
    return path


def _deep_header(folder: Path) -> Path:
    text = b"[" * 200_000
    path = folder / "deep.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def _huge_tensor(folder: Path) -> Path:
    header = {"a": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    text = json.dumps(header).encode()
    path = folder / "tensor.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    return path


def _encoder(folder: Path, change: dict[str, object]) -> Path:
    """The embedded text encoder, as links, with another configuration."""
    own = folder / "encoder"
    own.mkdir()
    for file in embedded_set().text_encoder.iterdir():
        if file.name != "config.json":
            (own / file.name).symlink_to(file)
    config = json.loads((embedded_set().text_encoder / "config.json").read_text())
    config.get("text_config", config).update(change)
    (own / "config.json").write_text(json.dumps(config))
    return own


def _outside(folder: Path) -> Path:
    """An index that names a file above its folder."""
    own = _encoder(folder, {})
    (folder / "secret.safetensors").write_bytes(b"x")
    (own / "model.safetensors").unlink()
    index = {"weight_map": {"model.embed_tokens.weight": "../secret.safetensors"}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    return own


def _pipe(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        own = folder / "scanned"
        own.mkdir()
        os.mkfifo(own / name)
        return own

    return make


def _single_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.mp4")
    return folder / "pipe.mp4"


def _loop(folder: Path) -> Path:
    own = folder / "scanned"
    (own / "a" / "b").mkdir(parents=True)
    (own / "a" / "b" / "back").symlink_to(own)
    (own / "self").symlink_to(own / "self")
    return own


def _deep_json(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        own = folder / "deep"
        own.mkdir()
        (own / name).write_text('{"a":' * 100_000)
        return own

    return make


BOMBS: tuple[tuple[Callable[[Path], Path], Callable[[Path], object], str], ...] = (
    (_huge_image, load_image, "13000 x 13000"),
    (_animation_of_huge_frames, load_image, "13000 x 13000"),
    (_animation_of_huge_frames, lambda p: read_video(p).read(0, 1), "13000 x 13000"),
    (_huge_header, open_checkpoint, "not a safetensors file"),
    (_huge_header, open_lora, "not a safetensors file"),
    (_deep_header, open_checkpoint, "deep.safetensors"),
    (_huge_tensor, open_checkpoint, "tensor.safetensors"),
    (lambda p: _encoder(p, {"num_hidden_layers": 10**6}), _gemma, "num_hidden_layers"),
    (lambda p: _encoder(p, {"hidden_size": 10**9}), _gemma, "encoder"),
    (lambda p: _encoder(p, {"vocab_size": 10**9}), _gemma, "encoder"),
    (_outside, _gemma, "weight_map"),
    (_pipe("config.json"), _gemma, "regular file"),
    (_pipe("model.safetensors"), open_checkpoint, "regular file"),
    (_pipe("model.safetensors.index.json"), open_checkpoint, "no model files"),
    (_pipe("model_index.json"), describe, "scanned"),
    (_pipe("tokenizer.json"), load_tokenizer, "no tokenizer"),
    (_pipe("0001.png"), lambda p: read_video(p).read(), "0001.png"),
    (_single_pipe, read_video, "pipe.mp4"),
    (_single_pipe, read_audio, "pipe.mp4"),
    (_single_pipe, load_image, "pipe.mp4"),
    (_single_pipe, open_checkpoint, "regular file"),
    (_loop, open_checkpoint, "no model files"),
    (_loop, _gemma, "config.json"),
    (_deep_json("config.json"), _gemma, "not JSON"),
    (_deep_json("config.json"), open_checkpoint, "not JSON"),
    (_deep_json("tokenizer.json"), load_tokenizer, "damaged"),
)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What reading a text encoder imports is not memory of a file."""
    _gemma(embedded_set().text_encoder)


@pytest.mark.parametrize(("make", "read", "words"), BOMBS)
def test_a_bomb_is_refused_at_once(make, read, words, tmp_path):
    path = make(tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MB * 2**20


def test_prompts_nested_deeply_are_refused():
    for text in ("[" * 100_000, '[{"a":' * 50_000):
        with pytest.raises(ValueError, match="prompts"):
            PromptSchedule.parse(text)


def test_a_loop_of_links_is_listed_once(tmp_path):
    assert len(entries(_loop(tmp_path))) == 4
