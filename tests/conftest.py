"""What all tests share: one tiny random model set, one thread."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

# Without a GPU Triton interprets its kernels. It reads this when it is imported, as the library does.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from ltx2_core.loading import Component, open_checkpoint
from ltx2_core.loading.components import build
from ltx2_core.tiny.diffusion_vae import write_diffusion_vae
from ltx2_core.tiny.settings import tiny_upsampler_config
from ltx2_core.tiny.weights import random_weights
from ltx2_core.tiny.write import TinySet, write_tiny_set
from ltx2_core.types import Numerics

# Helpers of several folders of tests, such as gguf_files.
sys.path.insert(0, str(Path(__file__).resolve().parent))

# For the processes that tests start. On a busy machine one of them took 286 s with as many threads as cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker whole files: it sets up what a module shares once, where each worker did.

    Groups of the mark ``xdist_group`` may be several files.
    """
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            group = super()._split_scope(nodeid)
            return group if group != nodeid else nodeid.split("::")[0]

    return ByFile(config, log) if config.getvalue("dist") == "loadgroup" else None


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


@pytest.fixture(scope="session")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny temporal upscaler with random weights."""
    config = {**tiny_upsampler_config(), "spatial_upsample": False, "temporal_upsample": True}
    network = build(Component.UPSAMPLER, config, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
    path = tmp_path_factory.mktemp("temporal") / "temporal.safetensors"
    save_file(random_weights(network, 0), path, {"config": json.dumps(config)})
    return path


@pytest.fixture(scope="session")
def diffusion_vae(tiny_set: TinySet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a tiny diffusion video VAE that decodes the latents of ``tiny_set``."""
    path = tmp_path_factory.mktemp("vae") / "anything.safetensors"
    write_diffusion_vae(path, open_checkpoint(tiny_set.checkpoint), dtype=torch.float32)
    return path
