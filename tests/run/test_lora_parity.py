"""LoRAs as their trainers write them give what their official twins give, in every kind of run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.main import main
from ltx2_core.loading.lora_dialects import diffusers_name
from ltx2_core.media import read_metadata
from ltx2_core.run.generation import METADATA_KEY

CLIP = {"width": 64, "height": 64, "num_frames": 9, "fps": 8.0, "steps": 2, "cfg": 1.0, "seed": 3}
TRAINERS = {
    "ai-toolkit": lambda module: f"diffusion_model.{module}",
    "diffusers": lambda module: f"transformer.{diffusers_name(module)}",
}


@pytest.fixture(scope="module")
def official(tiny_set, tmp_path_factory) -> Path:
    """The tiny LoRA with an alpha of half its rank, so that it counts half."""
    tensors = load_file(tiny_set.lora)
    modules = {name.rpartition(".lora_")[0] for name in tensors}
    alphas = {f"{module}.alpha": torch.tensor(2.0) for module in modules}
    path = tmp_path_factory.mktemp("official") / "lora.safetensors"
    save_file({**tensors, **alphas}, path)
    return path


def spelt(official: Path, trainer: str, folder: Path) -> Path:
    """The same LoRA in the names of a trainer."""
    renamed = {}
    for name, tensor in load_file(official).items():
        module, dot, ending = name.removeprefix("diffusion_model.").partition(".lora_")
        if not dot:
            module, dot, ending = module.removesuffix(".alpha"), ".", "alpha"
        renamed[TRAINERS[trainer](module) + dot + ending] = tensor
    path = folder / f"{trainer}.safetensors"
    save_file(renamed, path)
    return path


def made(tiny_set, lora, multiplier, image):
    pipeline = LTX2Pipeline(
        tiny_set.checkpoint, text_encoder=tiny_set.text_encoder, device="cpu", loras=[(lora, multiplier)]
    )
    reports = pipeline.lora_reports()
    return reports[0], pipeline("a ball", image=image, **CLIP).latents


@pytest.mark.parametrize(
    ("with_image", "multiplier"), [(False, -2.0), (True, 1.5)], ids=["text to video", "image to video"]
)
@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_key_is_covered_and_the_clip_is_the_same(
    trainer, with_image, multiplier, tiny_set, official, photo, tmp_path
):
    image = photo if with_image else None
    report, ours = made(tiny_set, spelt(official, trainer, tmp_path), multiplier, image)
    layers = len({name.rpartition(".lora_")[0] for name in load_file(tiny_set.lora)})
    assert report.is_clean
    assert len(report.matched) == len(report.entries) == layers
    _, twin = made(tiny_set, official, multiplier, image)
    assert torch.equal(ours.video, twin.video)
    assert torch.equal(ours.audio, twin.audio)
    _, off = made(tiny_set, official, 0.0, image)
    assert not torch.equal(ours.video, off.video)
    assert not torch.equal(ours.audio, off.audio)


def test_the_trigger_word_takes_its_place_in_the_prompt(tmp_path):
    out = tmp_path / "x.mp4"
    clip = ["--width", "64", "--height", "64", "--frames", "9", "--steps", "1", "--stages", "1", "-q"]
    words = ["--prompt", "a [trigger] ball", "--negative", "no [trigger]", "--trigger", "sks"]
    result = CliRunner().invoke(main, ["generate", *clip, *words, "-o", str(out)])
    assert result.exit_code == 0, result.output
    settings = json.loads(read_metadata(out)[METADATA_KEY])["request"]
    assert settings["prompt"] == "a sks ball"
    assert settings["negative_prompt"] == "no [trigger]", "the word belongs to the positive prompt alone"
