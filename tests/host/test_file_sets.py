"""Files that do not belong together are refused by the nodes before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from host_graph import Graph
from host_server import GraphError, Server
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import TinyModels

from ltx2_core.loading.components import build
from ltx2_core.loading.detect import Component
from ltx2_core.types import Numerics

CONFIG = {
    "_class_name": "LatentUpsampler",
    "in_channels": 128,
    "mid_channels": 32,
    "num_blocks_per_stage": 1,
    "dims": 3,
    "spatial_upsample": True,
    "temporal_upsample": False,
    "spatial_scale": 1.5,
    "rational_resampler": True,
}


def upscaled(g: Graph, models: TinyModels, size: int, loader: str) -> None:
    loaded = g.add("LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"])
    empty = g.add("LTX2AVEmptyLatent", width=size, height=size, frames=9, fps=25.0, batch_size=1)
    name = "upscaler" if loader == "LTX2AVLoadUpscaler" else "model_name"
    upscaler = g.add(loader, **{name: "x15.safetensors"})
    larger = g.add("LTX2AVLatentUpscale", latent=empty, upscale_model=upscaler, video_vae=loaded[1])
    g.dump("larger", latent=larger)


@pytest.fixture
def _upscaler_of_one_and_a_half(base_dir: Path, models: TinyModels) -> Iterator[None]:
    """An upscaler by 1.5 among the host's models, for a while: other tests count what is there."""
    network = build(Component.UPSAMPLER, CONFIG, {}, operations=torch.nn, numerics=Numerics.OFFICIAL)
    state = {name: torch.full(tensor.shape, 0.01) for name, tensor in network.state_dict().items()}
    path = base_dir / "models" / "latent_upscale_models" / "x15.safetensors"
    save_file(state, path, metadata={"config": json.dumps(CONFIG)})
    yield
    path.unlink()


@pytest.mark.usefixtures("_upscaler_of_one_and_a_half")
@pytest.mark.parametrize("loader", ["LTX2AVLoadUpscaler", "LatentUpscaleModelLoader"])
def test_an_upscaler_between_two_grids_is_refused(loader: str, server: Server, models: TinyModels):
    g = Graph()
    upscaled(g, models, 96, loader)
    with pytest.raises(
        GraphError, match=r"enlarges by 1\.5, and the first stage of 96x96 would become 144x144"
    ):
        server.run(g.prompt)
    g = Graph()
    upscaled(g, models, 128, loader)
    assert server.run(g.prompt).tensors("larger")["latent/video"].shape[-2:] == (6, 6)


def test_parts_of_two_generations_are_refused_by_name(server: Server, models: TinyModels, base_dir: Path):
    folder = base_dir / "models"
    old = folder / "checkpoints" / models.checkpoints["2.0"]
    with safe_open(old, "pt") as file:
        metadata = file.metadata()
    audio = {n: t for n, t in load_file(old).items() if n.startswith(("audio_vae.", "vocoder."))}
    (folder / "vae").mkdir(exist_ok=True)
    save_file(audio, folder / "vae" / "audio of 2.0.safetensors", metadata=metadata)
    g = Graph()
    loaded = g.add(
        "LTX2AVLoadCheckpoint", ckpt_name=models.checkpoints["2.3"], audio_vae="audio of 2.0.safetensors"
    )
    g.add("LTX2ProbeModel", model=loaded)
    with pytest.raises(
        GraphError, match=r"two generations: .* is LTX-2\.3 .*audio of 2\.0\.safetensors is LTX-2\.0"
    ):
        server.run(g.prompt)
