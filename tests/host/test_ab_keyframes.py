"""LTX-2.5 marks the tokens of single frames: the first latent frame and generated keyframes, as core does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from host_graph import CROSS_MODAL, Graph, Loaded, Recipe, Whose, load, sample
from host_graph import Guide as Frames
from host_server import GraphError, Server
from safetensors.torch import save_file
from test_ab_core import assert_same, relative
from tiny_models import TinyModels
from torch import Tensor

from ltx2_core.tiny.settings import tiny_config
from ltx2_core.tiny.write import checkpoint_tensors

MARKER = "model.diffusion_model.keyframes_abs_pos_embedding"
ONE_PASS = Recipe(steps=1, cfg=1.0)
RECIPES = {
    "text": ONE_PASS,
    "guidance": replace(ONE_PASS, steps=2, cfg=3.0, batch=2),
    "video_only": replace(ONE_PASS, audio=False),
    "image": replace(ONE_PASS, image_strength=0.6),
    "guide_at_the_start": replace(ONE_PASS, frames=17, guides=(Frames(1, 0, 0.5),)),
    "slots": replace(ONE_PASS, frames=17, slots="8,16"),
    "slots_after_guides": replace(ONE_PASS, frames=17, guides=(Frames(9, 0, 0.8),), slots="4,16"),
}


@pytest.fixture(scope="module")
def late(models: TinyModels, base_dir: Path) -> dict[str, str]:
    """Checkpoints of generation 2.5, one of them with a marker of zeros."""
    config = tiny_config("2.3")
    config["transformer"] |= {"use_keyframes_abs_pos_embedding": True, "ff_bias": False}
    metadata = {"config": json.dumps(config), "model_version": "2.5.0-tiny"}
    tensors, folder = checkpoint_tensors(config, 0), base_dir / "models" / "checkpoints"
    marker = torch.randn(tensors[MARKER].shape, generator=torch.Generator().manual_seed(5))
    names = {}
    for name, value in {"marked": marker, "zero": torch.zeros_like(marker)}.items():
        names[name] = f"ltx2-tiny-2.5-{name}.safetensors"
        save_file({**tensors, MARKER: value}, folder / names[name], metadata)
    return names


def sampled(
    server: Server, models: TinyModels, checkpoint: str, recipe: Recipe, whose: Whose
) -> dict[str, Tensor]:
    """Sample with one side's transformer; text and autoencoders are those of 2.3."""
    g = Graph()
    parts = load(g, models, "2.3", model="core")
    loader = "LTX2ProbeLoadModel" if whose == "ours" else "CheckpointLoaderSimple"
    loaded = Loaded(g.add(loader, ckpt_name=checkpoint), parts.vae, parts.audio_vae, parts.clip)
    g.dump("latent", latent=sample(g, loaded, recipe))
    return server.run(g.prompt).tensors("latent")


@pytest.mark.parametrize("name", RECIPES)
def test_our_model_of_2_5_samples_what_the_hosts_does(
    server: Server, models: TinyModels, late: dict[str, str], comfy_dir: Path, name: str
) -> None:
    if "keyframes_abs_pos_embedding" not in (comfy_dir / "comfy/ldm/lightricks/model.py").read_text():
        pytest.skip("this host does not support the marker of LTX-2.5, which came with ComfyUI 0.32")
    core, ours = (sampled(server, models, late["marked"], RECIPES[name], whose) for whose in ("core", "ours"))
    assert_same(core, ours)


def test_the_marker_of_2_5_changes_the_video(
    server: Server, models: TinyModels, late: dict[str, str]
) -> None:
    # Without attention between the streams the marker reaches the video alone.
    apart = replace(ONE_PASS, streams_off=CROSS_MODAL)
    marked, zero = (sampled(server, models, late[name], apart, "ours") for name in ("marked", "zero"))
    assert relative(zero["latent/video"], marked["latent/video"]) > 1e-2
    assert torch.equal(zero["latent/audio"], marked["latent/audio"])


def test_generated_keyframes_are_marked_and_guides_are_not(
    server: Server, models: TinyModels, late: dict[str, str]
) -> None:
    slots, as_guides = RECIPES["slots"], replace(RECIPES["slots"], slots_marked=False)

    def share(name: str) -> float:
        """How much of the video depends on whether the frames are said to be generated keyframes."""
        a, b = (sampled(server, models, late[name], recipe, "ours") for recipe in (slots, as_guides))
        return relative(b["latent/video"], a["latent/video"])

    assert share("zero") == 0
    assert share("marked") > 1e-3


def test_generated_keyframes_of_another_size_are_refused(
    server: Server, models: TinyModels, late: dict[str, str]
) -> None:
    with pytest.raises(GraphError, match=r"keyframes have 16 tokens a latent frame.*has 4: separate them"):
        sampled(server, models, late["marked"], replace(RECIPES["slots"], slots_cells=16), "ours")
