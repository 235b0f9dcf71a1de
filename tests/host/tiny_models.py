"""The tiny model set of the host tests, written by this package in the folders that ComfyUI uses."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ltx2_core.tiny.write import TinySet, write_tiny_set

GENERATIONS = ("2.0", "2.3")


@dataclass(frozen=True)
class TinyModels:
    """File names as the host's combos list them."""

    checkpoints: dict[str, str]
    text_encoder: str
    upsampler: str
    lora: str
    ic_lora: str
    """The same LoRA, whose metadata says that its reference video has half the output's size."""
    foreign_lora: str
    """A LoRA for a network with other module names."""
    broken: dict[str, str]
    """Files in the checkpoints folder that are no checkpoints: an upscaler, one cut short, one incomplete."""


def make_tiny_models(models: Path) -> TinyModels:
    sets = {g: write_tiny_set(models, generation=g, dtype=torch.float32) for g in GENERATIONS}
    files = sets["2.3"]
    tensors = load_file(files.lora)
    save_file(tensors, models / "loras" / "ic.safetensors", {"reference_downscale_factor": "2"})
    foreign = {
        name.replace("transformer_blocks", "double_blocks"): tensor for name, tensor in tensors.items()
    }
    save_file(foreign, models / "loras" / "foreign.safetensors")
    with_trained_loras(models)
    return TinyModels(
        checkpoints={generation: s.checkpoint.name for generation, s in sets.items()},
        text_encoder=f"{files.text_encoder.name}/model.safetensors",
        upsampler=files.upsampler.name,
        lora=files.lora.name,
        ic_lora="ic.safetensors",
        foreign_lora="foreign.safetensors",
        broken=_broken(models / "checkpoints", files),
    )


def with_trained_loras(models: Path) -> None:
    """Give a set of random weights the LoRAs that the trained one has: its own, under their names."""
    files = TinySet.in_folder(models)
    for lora in (files.distilled, files.edges):
        if not lora.exists():
            shutil.copy(files.lora, lora)


def _broken(folder: Path, files: TinySet) -> dict[str, str]:
    shutil.copy(files.upsampler, folder / "upscaler.safetensors")
    whole = files.checkpoint.read_bytes()
    (folder / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    tensors = load_file(files.checkpoint)
    del tensors["model.diffusion_model.proj_out.weight"]
    with safe_open(files.checkpoint, "pt") as file:
        save_file(tensors, folder / "incomplete.safetensors", file.metadata())
    return {name: f"{name}.safetensors" for name in ("upscaler", "truncated", "incomplete")}


def with_versions(models: TinyModels, folder: Path, start: str, versions: Iterable[str]) -> dict[str, str]:
    """Write the tiny checkpoint of 2.3 under other versions: version -> name of the file in ``folder``.

    ``folder`` is that of checkpoints; names begin with ``start``.
    """
    source = folder / models.checkpoints["2.3"]
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    names = {version: f"{start}-{version}.safetensors" for version in versions}
    for version, name in names.items():
        save_file(load_file(source), folder / name, {**metadata, "model_version": version})
    return names
