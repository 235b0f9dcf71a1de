"""Tiny model sets and hand-made files for the loading tests."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ltx2_core.conditioning.patchify import audio_positions, video_positions
from ltx2_core.loading import open_checkpoint
from ltx2_core.tiny.settings import tiny_config
from ltx2_core.tiny.write import TinySet, checkpoint_tensors, write_tiny_set
from ltx2_core.transformer import Modality, Transformer


@pytest.fixture(scope="session")
def tiny23(tmp_path_factory) -> TinySet:
    return write_tiny_set(tmp_path_factory.mktemp("tiny23"), generation="2.3")


@pytest.fixture(scope="session")
def tiny20(tmp_path_factory) -> TinySet:
    return write_tiny_set(tmp_path_factory.mktemp("tiny20"), generation="2.0", dtype=torch.float32)


@pytest.fixture
def raw(tmp_path: Path) -> Callable[..., Path]:
    """Write a file with any header, true or not."""

    def write(header: object, data: bytes = b"", name: str = "file.safetensors") -> Path:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        return path

    return write


@pytest.fixture
def repack(tmp_path: Path) -> Callable[..., Path]:
    """Copy a file with its tensors renamed; a name that becomes None is left out. Metadata only if passed."""

    def write(
        source: Path,
        rename: Callable[[str], str | None],
        *,
        metadata: dict[str, str] | None = None,
        name: str = "repacked.safetensors",
    ) -> Path:
        tensors = {rename(key): tensor for key, tensor in load_file(source).items()}
        tensors.pop(None, None)
        path = tmp_path / name
        save_file(tensors, path, metadata=metadata)
        return path

    return write


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Save tensors to a file of the test's own."""

    def write(
        tensors: dict[str, Tensor], metadata: dict[str, str] | None = None, name: str = "lora.safetensors"
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=metadata)
        return path

    return write


@pytest.fixture(scope="session")
def metadata23(tiny23: TinySet) -> dict[str, str]:
    return {"config": json.dumps(open_checkpoint(tiny23.checkpoint).config), "model_version": "2.3.0"}


@pytest.fixture(scope="session")
def generations(tmp_path_factory, tiny20: TinySet) -> dict[str, Path]:
    """A tiny single file in float32 of each generation; 2.5 is 2.3 with what it added."""
    folder = tmp_path_factory.mktemp("generations")
    late = write_tiny_set(folder / "2.3", generation="2.3", dtype=torch.float32).checkpoint
    config = tiny_config("2.3")
    config["transformer"] |= {"ff_bias": False, "use_keyframes_abs_pos_embedding": True}
    newest = folder / "2.5.safetensors"
    metadata = {"config": json.dumps(config), "model_version": "2.5.0"}
    save_file(checkpoint_tensors(config, 0), newest, metadata=metadata)
    return {"2.0": tiny20.checkpoint, "2.3": late, "2.5": newest}


def velocities(network: Transformer) -> tuple[Tensor, Tensor]:
    """Of a fixed clip of 2 x 2 x 3 video and 4 audio tokens."""
    c, generator = network.config, torch.Generator().manual_seed(1)

    def stream(positions: Tensor, width: int, text: int) -> Modality:
        sigma = torch.tensor([0.7])
        return Modality(
            tokens=torch.randn(1, positions.shape[2], width, generator=generator),
            timesteps=sigma[:, None],
            sigma=sigma,
            positions=positions,
            context=torch.randn(1, 5, text, generator=generator),
        )

    texts = (c.caption_channels,) * 2 if c.caption_projection else (c.dim, c.audio_dim)
    with torch.no_grad():
        return network(
            stream(video_positions(2, 2, 3, 24.0), c.in_channels, texts[0]),
            stream(audio_positions(4), c.audio_in_channels, texts[1]),
        )


@pytest.fixture(name="velocities", scope="session")
def velocities_fixture() -> Callable[[Transformer], tuple[Tensor, Tensor]]:
    return velocities
