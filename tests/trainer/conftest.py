"""A small dataset of two clips, one without audio, and its encoded form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ltx2_core.media import VideoWriter
from ltx2_core.run.codecs import Codecs
from ltx2_core.trainer.buckets import parse_buckets
from ltx2_core.trainer.dataset import DatasetOptions, encode_dataset, plan_dataset
from ltx2_core.trainer.models import open_networks
from ltx2_core.trainer.rows import read_rows
from ltx2_core.trainer.settings import LoraSettings

OPTIONS = DatasetOptions(buckets=parse_buckets("64x64x9"), trigger="zorb")


def write_clip(path: Path, *, frames: int = 12, fps: float = 25.0, audio: bool = True) -> None:
    """A clip of 96x64 whose frames get lighter one by one, with a rising tone."""
    rate = 48000 if audio else None
    with VideoWriter(path, width=96, height=64, fps=fps, sample_rate=rate) as writer:
        levels = torch.linspace(0, 250, frames).to(torch.uint8)
        writer.write_frames(levels[:, None, None, None].expand(-1, 3, 64, 96).contiguous())
        if audio:
            time = torch.arange(int(frames / fps * 48000)) / 48000
            writer.write_audio(torch.sin(2000 * time * (1 + time))[None].repeat(2, 1) * 0.5)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder with a clip with audio and a silent one, and their captions."""
    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "loud.mp4")
    write_clip(folder / "mute.mp4", audio=False)
    (folder / "loud.txt").write_text("a red circle bounces\n\na red circle, a knock\n")
    (folder / "mute.txt").write_text("zorb a white square slides")
    return folder


@pytest.fixture(scope="session")
def networks():
    return open_networks((), None, device="cpu")


@pytest.fixture(scope="session")
def cache(folder, networks, tmp_path_factory) -> Path:
    """The encoded dataset of ``folder``."""
    out = tmp_path_factory.mktemp("cache")
    encode_dataset(Codecs(networks), plan_dataset(read_rows(folder), OPTIONS), OPTIONS, out)
    return out


@pytest.fixture
def short_run(cache, tmp_path) -> LoraSettings:
    """A LoRA run of three steps without validation, saved after each step."""
    return LoraSettings(
        dataset=str(cache),
        output_dir=str(tmp_path / "run"),
        device="cpu",
        rank=2,
        steps=3,
        save_every=1,
        validation_every=0,
        learning_rate=1e-2,
        gradient_checkpointing=False,
        save_precision="float32",
    )


@pytest.fixture
def settings(short_run) -> LoraSettings:
    return replace(short_run, alpha=4.0, targets=(r"regex:blocks\.0\..*attn.*to_q$",))


def check_equal(one: Path, other: Path) -> None:
    """Two files have the same tensors, bit for bit, and the same metadata (whose order in a file varies)."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    with safe_open(one, "pt") as a, safe_open(other, "pt") as b:
        assert a.metadata() == b.metadata()
