"""The tiny checkpoint and its text encoder in other layouts and number formats, in the host's folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import TinyModels
from torch import Tensor

from ltx2_core.loading import open_checkpoint
from ltx2_core.loading.convert import convert, split_parts
from ltx2_core.storage.dequantize import Format, decode
from ltx2_core.storage.quantize import W4A8_GROUP, encode

DIT = "model.diffusion_model."
CONNECTORS = (f"{DIT}video_embeddings_connector.", f"{DIT}audio_embeddings_connector.")
FORMATS = {
    "fp8 marked": (Format("float"), "float8_e4m3fn"),
    "fp8 official": (Format("float"), ""),
    "nvfp4": (Format("nvfp4"), "nvfp4"),
    "int8": (Format("int8", 16), "int8_tensorwise"),
    "w4a4": (Format("w4a4", 16), "convrot_w4a4"),
    "w4a8": (Format("w4a8", 16), "asym_w4a8_int8"),
}
"""Number formats of the video's attention: how it is stored, and how the file says so."""


def write_layouts(root: Path, models: TinyModels) -> None:
    """Write the parts of the 2.3 checkpoint below the host's ``models`` folder ``root``."""
    path = root / "checkpoints" / models.checkpoints["2.3"]
    tensors, metadata = load_file(path), metadata_of(path)
    parts = {
        "diffusion_models/only.safetensors": {
            name.removeprefix(DIT): t
            for name, t in tensors.items()
            if name.startswith(DIT) and not name.startswith(CONNECTORS)
        },
        "text_encoders/parts.safetensors": {
            name: t
            for name, t in tensors.items()
            if name.startswith((*CONNECTORS, "text_embedding_projection."))
        },
        "vae/video.safetensors": {
            n.removeprefix("vae."): t for n, t in tensors.items() if n.startswith("vae.")
        },
        "vae/audio.safetensors": {
            n: t for n, t in tensors.items() if n.startswith(("audio_vae.", "vocoder."))
        },
    }
    for name, own in parts.items():
        (root / name).parent.mkdir(exist_ok=True)
        save_file(own, root / name, metadata)
    pieces = root / "diffusers" / "pieces"
    pieces.mkdir(parents=True)
    opened = [open_checkpoint(path)]
    for name, components in split_parts(opened).items():
        convert(pieces / f"{name}.safetensors", opened, components, fp8=False)
    for kind in FORMATS:
        stored, decoded = quantised(tensors, *FORMATS[kind])
        save_file(stored, root / "checkpoints" / f"{kind}.safetensors", metadata)
        save_file(decoded, root / "checkpoints" / f"{kind} decoded.safetensors", metadata)
    pack_text_encoders(root / "text_encoders", root / "text_encoders" / Path(models.text_encoder).parent)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def quantised(
    tensors: dict[str, Tensor], form: Format, mark: str
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(stored, decoded) with the matrices of the video's attention in ``form``."""
    stored, decoded = dict(tensors), dict(tensors)
    for name, weight in tensors.items():
        if not name.startswith(f"{DIT}transformer_blocks.") or ".attn1.to_" not in name or weight.ndim != 2:
            continue
        if not name.endswith(".weight") or "gate" in name:
            continue
        layer, parts = name.removesuffix(".weight"), encode(form, weight)
        stored |= {f"{layer}.{suffix}": part.contiguous() for suffix, part in parts.items()}
        decoded[name] = decode(layer, form, parts, tuple(weight.shape))
        if mark:
            rotation = {"convrot": True, "convrot_groupsize": form.rotation} if form.rotation else {}
            raw = json.dumps({"format": mark, **rotation, "group_size": W4A8_GROUP}).encode()
            stored[f"{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
        else:
            stored[f"{layer}.input_scale"] = torch.tensor(1.0)
    return stored, decoded


def pack_text_encoders(target: Path, folder: Path) -> None:
    """Single files of the tiny Gemma as ComfyUI packs them, plain and in fp8."""
    tensors = {
        f"model.{n.removeprefix('model.')}": t for n, t in load_file(folder / "model.safetensors").items()
    }
    content = (folder / "tokenizer.json").read_bytes()
    tensors["tokenizer_json"] = torch.tensor(list(content), dtype=torch.uint8)
    save_file(tensors, target / "gemma.safetensors")
    for name in [name for name in tensors if name.endswith("_proj.weight")]:
        layer = name.removesuffix(".weight")
        tensors |= {
            f"{layer}.{suffix}": part for suffix, part in encode(Format("float"), tensors[name]).items()
        }
        raw = json.dumps({"format": "float8_e4m3fn"}).encode()
        tensors[f"{layer}.comfy_quant"] = torch.tensor(list(raw), dtype=torch.uint8)
    save_file(tensors, target / "gemma_fp8.safetensors")
    save_file({"shared.weight": torch.zeros(2, 2)}, target / "t5.safetensors")
