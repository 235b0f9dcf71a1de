"""The kinds of files that users bring: how a good one is made, damaged, and read."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ltx2_core import LTX2Pipeline
from ltx2_core.cli.repeat import settings_of
from ltx2_core.editing.windows import WindowStore
from ltx2_core.loading import Component, open_checkpoint, open_lora
from ltx2_core.loading.describe import describe
from ltx2_core.loading.file_report import as_text
from ltx2_core.loading.folder import text_encoder_folder
from ltx2_core.media import VideoWriter, load_image, read_audio, read_video, write_wav
from ltx2_core.run.request import Request
from ltx2_core.run.saved_latents import resume, save_latents
from ltx2_core.storage.header import read_header
from ltx2_core.text import load_gemma, load_tokenizer
from ltx2_core.text.schedule import PromptSchedule
from ltx2_core.tiny import embedded_set
from ltx2_core.tiny.write import write_tiny_set
from ltx2_core.types import AVLatent

from mutations import damaged_bytes, damaged_json, damaged_safetensors, damaged_text  # isort: skip

EMBEDDED = embedded_set()
Damage = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file or folder.

    ``make(folder)`` writes a good one and returns its path; ``damage`` are the files in it that may be
    damaged, by their path in the folder, and how. ``use`` reads it as the product does.
    """

    make: Callable[[Path], Path]
    damage: dict[str, Damage]
    use: Callable[[Path], object]


@cache
def pipeline() -> LTX2Pipeline:
    return LTX2Pipeline.embedded(device="cpu", dtype=torch.float32)


@cache
def tiny(root: Path) -> Path:
    """A random set of generation 2.3, written once."""
    write_tiny_set(root, dtype=torch.bfloat16)
    return root


def _copy(source: Path, target: Path) -> Path:
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)
    return target


def _checkpoint(path: Path) -> None:
    opened = open_checkpoint(path)
    as_text(describe(path))
    for component in sorted(opened.components, key=str):
        opened.load(component, dtype=torch.bfloat16)


def _lora(path: Path) -> None:
    lora = open_lora(path)
    str(pipeline().networks.lora_report(lora))
    as_text(describe(path))


def _text_encoder(path: Path) -> None:
    load_gemma(path, dtype=torch.float32)
    load_tokenizer(path)(["a red circle"])


def _diffusers(folder: Path) -> Path:
    """A pipeline folder with an upsampler in one shard and a text encoder, in the layout of diffusers."""
    part = folder / "latent_upsampler"
    part.mkdir(parents=True)
    header = read_header(EMBEDDED.upsampler)
    own = {"_class_name": "LTX2LatentUpsamplerModel", "use_rational_resampler": False}
    config = {**header.metadata["config"], **own}
    (part / "config.json").write_text(json.dumps(config))
    shutil.copy(EMBEDDED.upsampler, part / "model.safetensors")
    names = {"weight_map": dict.fromkeys(header.tensors, "model.safetensors")}
    (part / "model.safetensors.index.json").write_text(json.dumps(names))
    shutil.copytree(EMBEDDED.text_encoder, folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LTX2Pipeline"}))
    return folder


def _sharded(folder: Path) -> Path:
    """A text encoder whose index names one shard."""
    shutil.copytree(EMBEDDED.text_encoder, folder)
    names = {"weight_map": {"model.embed_tokens.weight": "model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    return folder


@cache
def _generation() -> object:
    return pipeline()("a ball", width=64, height=64, num_frames=9, fps=8, steps=1, cfg=1, stages=1)


def _latents(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    path = save_latents(_generation(), folder / "x.mp4", folder=folder)  # type: ignore[arg-type]
    return path.rename(folder / "saved.safetensors")


_SETTINGS = {"clip": [64, 64, 9, 8.0], "prompts": [[0.0, "a"]]}
_MODELS = {"files": {"transformer": "a"}, "dtype": "float32"}


def _state(folder: Path) -> Path:
    store = WindowStore(folder, dict(_SETTINGS), _MODELS)
    store.save(0, AVLatent(torch.zeros(1, 128, 2, 2, 2), torch.zeros(1, 8, 9, 16)))
    return folder


def _use_state(folder: Path) -> None:
    store = WindowStore(folder, dict(_SETTINGS), _MODELS)
    if store.has(0):
        store.load(0)


def _tags(path: Path) -> Path:
    settings = {"clip": [64, 64, 9, 8.0], "numerics": "official", "sigmas": [[1.0, 0.0]]}
    settings["request"] = Request(prompt="a ball", width=64, num_frames=9).settings()
    path.write_text(json.dumps(settings))
    return path


def _use_tags(path: Path) -> None:
    """The damaged settings, as the tags of an MP4 hold them."""
    clip = path.with_suffix(".mp4")
    text = path.read_text(encoding="utf-8", errors="replace").replace("\0", "")
    with VideoWriter(clip, width=32, height=32, fps=8.0, metadata={"ltx2": text}) as writer:
        writer.write_frames(torch.zeros(2, 3, 32, 32))
    Request.from_settings(settings_of(clip)["request"])


def _movie(path: Path) -> Path:
    tags = {"ltx2": json.dumps({"request": {"prompt": "a ball"}})}
    with VideoWriter(path, width=64, height=64, fps=8.0, sample_rate=16000, metadata=tags) as writer:
        writer.write_audio(torch.sin(torch.arange(16000) / 20).expand(2, -1))
        writer.write_frames(torch.linspace(-1, 1, 8)[:, None, None, None].expand(-1, 3, 64, 64))
    return path


def _use_movie(path: Path) -> None:
    clip = read_video(path, max_frames=64)
    clip.read()
    clip.audio()
    settings_of(path)


def _image(name: str) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path = path.with_suffix(name)
        pixels = np.arange(64 * 48 * 3, dtype=np.uint32).reshape(48, 64, 3) % 251
        Image.fromarray(pixels.astype(np.uint8)).save(path, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0")
        return path

    return make


def _wav(path: Path) -> Path:
    write_wav(path, torch.sin(torch.arange(8000) / 20)[None], 16000)
    return path


def _lines(path: Path) -> Path:
    path.write_text("0: a red circle\n2.5: a blue square\n# note\n0:05-0:09: a green triangle\n50%: end\n")
    return path


def _use_lines(path: Path) -> None:
    text = path.read_bytes().decode("utf-8")
    for second in (0, 3, 100):
        PromptSchedule.parse(text, seconds=60).at(second)


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(
        make=lambda p: _copy(
            next((tiny(p.parent.parent / "set") / "checkpoints").glob("*.safetensors")),
            p.with_suffix(".safetensors"),
        ),
        damage={"": damaged_safetensors},
        use=_checkpoint,
    ),
    "lora": Kind(
        make=lambda p: _copy(EMBEDDED.distilled, p.with_suffix(".safetensors")),
        damage={"": damaged_safetensors},
        use=_lora,
    ),
    "upscaler": Kind(
        make=lambda p: _copy(EMBEDDED.upsampler, p.with_suffix(".safetensors")),
        damage={"": damaged_safetensors},
        use=lambda p: open_checkpoint(p).load(Component.UPSAMPLER),
    ),
    "text encoder": Kind(
        make=lambda p: _copy(EMBEDDED.text_encoder, p),
        damage={
            "config.json": damaged_json,
            "tokenizer.json": damaged_json,
            "model.safetensors": damaged_safetensors,
        },
        use=_text_encoder,
    ),
    "sharded text encoder": Kind(
        make=_sharded, damage={"model.safetensors.index.json": damaged_json}, use=_text_encoder
    ),
    "diffusers folder": Kind(
        make=_diffusers,
        damage={
            "model_index.json": damaged_json,
            "latent_upsampler/config.json": damaged_json,
            "latent_upsampler/model.safetensors.index.json": damaged_json,
            "latent_upsampler/model.safetensors": damaged_safetensors,
        },
        use=lambda p: (text_encoder_folder(p), _checkpoint(p)),
    ),
    "saved latents": Kind(
        make=_latents,
        damage={"": damaged_safetensors},
        use=lambda p: resume(p, pipeline()).settings(),
    ),
    "state folder": Kind(
        make=_state,
        damage={
            "clip.json": damaged_json,
            "models.json": damaged_json,
            "window_00000.safetensors": damaged_safetensors,
        },
        use=_use_state,
    ),
    "tags of an MP4": Kind(make=_tags, damage={"": damaged_json}, use=_use_tags),
    "prompts": Kind(make=_lines, damage={"": damaged_text}, use=_use_lines),
    "MP4": Kind(make=lambda p: _movie(p.with_suffix(".mp4")), damage={"": damaged_bytes}, use=_use_movie),
    "PNG": Kind(make=_image(".png"), damage={"": damaged_bytes}, use=load_image),
    "JPEG": Kind(make=_image(".jpg"), damage={"": damaged_bytes}, use=load_image),
    "WebP": Kind(make=_image(".webp"), damage={"": damaged_bytes}, use=load_image),
    "TIFF": Kind(make=_image(".tif"), damage={"": damaged_bytes}, use=load_image),
    "WAV": Kind(make=lambda p: _wav(p.with_suffix(".wav")), damage={"": damaged_bytes}, use=read_audio),
}
