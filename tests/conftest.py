"""What all tests share: one tiny random model set, one thread."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ltx2_core.tiny.write import TinySet, write_tiny_set

# For the processes that tests start. On a busy machine one of them took 286 s with as many threads as cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny networks lose more by waiting for threads than they gain; on a busy machine a hundredfold."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """A float32 set of generation 2.3."""
    return write_tiny_set(tmp_path_factory.mktemp("models"), dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny_set_20(tmp_path_factory: pytest.TempPathFactory) -> TinySet:
    """A float32 set of generation 2.0."""
    return write_tiny_set(tmp_path_factory.mktemp("models20"), generation="2.0", dtype=torch.float32)


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image file whose size is off every grid."""
    from PIL import Image

    path = tmp_path_factory.mktemp("input") / "photo.png"
    image = Image.radial_gradient("L").resize((150, 110))
    Image.merge("RGB", (image, image.rotate(90), image.transpose(Image.Transpose.ROTATE_180))).save(path)
    return path


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of mono audio at 22,050 Hz."""
    from ltx2_core.media import write_wav

    path = tmp_path_factory.mktemp("sound") / "sound.wav"
    t = torch.arange(2 * 22050) / 22050
    write_wav(path, 0.4 * torch.sin(2 * torch.pi * (300 + 100 * t) * t)[None], 22050)
    return path
