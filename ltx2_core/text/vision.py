"""The part of an instruction-tuned Gemma that takes images: it is found, loaded and given an image.

Letters: H W pixel rows and columns, S soft tokens that stand for an image in a conversation.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from ..storage.files import JsonObject, ParsedJson, read_object
from ..storage.header import TensorInfo, read_header
from ..storage.quantized import find_quantized
from ..storage.reading import decoded_shape, read_markers, read_state
from ..torchaudio_import import without_broken_torchaudio
from .folder import find_config, find_tensors
from .gemma import Gemma
from .tokenizer import IMAGE_MARKERS, Tokenizer

LONG_SIDE: Final = 896
"""Pixels of the longer side to which an image is resized first, as in the official pipelines."""

_TOWER = re.compile(r"^(?:model\.)?(?:vision_tower\.(?:vision_model\.)?|vision_model\.)(.+)$")
_PROJECTOR = re.compile(r"^(?:model\.)?(?:multi_modal_projector|embed_vision)\.(.+)$")
_PROJECTORS: Final = {3: "multi_modal_projector", 4: "embed_vision"}

# Others make the library load code, or have no effect on the result.
_SETTINGS: Final = frozenset({
    "hidden_size", "image_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "patch_size", "layer_norm_eps", "rms_norm_eps", "pooling_kernel_size",
    "position_embedding_size", "num_channels", "use_clipped_linears", "standardize", "vision_use_head",
})  # fmt: skip
"""Keys of the section ``vision_config`` that describe the network, all with numbers or true and false."""

_TOKENS_OF_GEMMA3: Final = 256


@dataclass(frozen=True, kw_only=True)
class VisionParts:
    """The vision network of a Gemma in a folder or file, described by headers.

    ``generation`` is that of the Gemma, 3 or 4. ``settings`` are keys of ``vision_config``, ``infos`` the
    header entries of its tensors by name in transformers' model, ``tokens`` the largest S of an image, and
    ``metadata`` that of a single file's header.
    """

    generation: int
    settings: JsonObject
    infos: Mapping[str, TensorInfo]
    tokens: int
    metadata: ParsedJson


def find_vision(path: Path, generation: int) -> VisionParts | None:
    """Find the vision network of the Gemma at ``path``, from headers only; None if it has none.

    ``path`` is a Hugging Face folder or a single file, ``generation`` is 3 or 4.
    """
    if path.is_file():
        header = read_header(path)
        infos = {own: i for name, i in header.tensors.items() if (own := _vision_name(name, generation))}
        settings = _of_shapes({name: decoded_shape(info) for name, info in infos.items()}, generation)
        tokens, metadata = _TOKENS_OF_GEMMA3, header.metadata
    else:
        config_path, _ = find_config(path)
        whole = read_object(config_path)
        section = whole.get("vision_config")
        infos = find_tensors(path, config_path, lambda name: _vision_name(name, generation))
        settings = _plain(section) if isinstance(section, Mapping) else {}
        tokens, metadata = int(whole.get("mm_tokens_per_image") or _TOKENS_OF_GEMMA3), {}
    if not infos or not settings:
        return None
    return VisionParts(
        generation=generation,
        settings=settings,
        infos=infos,
        tokens=280 if generation == 4 else tokens,
        metadata=metadata,
    )


def takes_images(parts: VisionParts | None, tokenizer: Tokenizer) -> bool:
    """Whether a Gemma with the vision network ``parts`` (None: without one) can be given an image.

    Its ``tokenizer`` must have the tokens that stand for one.
    """
    return parts is not None and all(mark in tokenizer.special for mark in IMAGE_MARKERS[parts.generation])


def with_vision(gemma: Gemma, parts: VisionParts, tokenizer: Tokenizer) -> Any:
    """Load the vision network ``parts`` beside ``gemma``: a model of transformers that also takes images.

    The language model is that of ``gemma``, whose tensors are not copied. Raises ValueError if tensors are
    missing or do not fit, and for a release of transformers that has no such model.
    """
    with without_broken_torchaudio():
        import transformers
    name = f"Gemma{parts.generation}"
    if not hasattr(transformers, f"{name}ForConditionalGeneration"):
        raise ValueError(
            f"images need a newer release of transformers than {transformers.__version__}: "
            "pip install -U transformers"
        )
    vision = {3: "SiglipVisionConfig", 4: "Gemma4VisionConfig"}[parts.generation]
    image_token = tokenizer.special[IMAGE_MARKERS[parts.generation][1]]
    fields = {
        "text_config": gemma.model.config,
        "vision_config": getattr(transformers, vision)(**parts.settings),
        "image_token_id": image_token,
        **({"mm_tokens_per_image": parts.tokens} if parts.generation == 3 else {"audio_config": None}),
    }
    config = getattr(transformers, f"{name}Config")(**fields)
    with torch.device("meta"):
        model = getattr(transformers, f"{name}ForConditionalGeneration")(config)
    _load(model.model, parts, gemma.model.embed_tokens.weight)
    model.model.language_model = gemma.model
    model.lm_head.weight = gemma.model.embed_tokens.weight
    return model.eval().requires_grad_(False)


def image_inputs(parts: VisionParts, image: Tensor) -> tuple[dict[str, Tensor], int]:
    """Make the inputs for an ``image`` (3, H, W) in [0, 1]: tensors by their names in ``generate``, and S.

    Raises ValueError for an image that is more than 100 times as wide as high, or as high as wide.
    """
    rows, columns = image.shape[-2:]
    if max(rows, columns) > 100 * min(rows, columns):
        raise ValueError(f"the language model takes no image of {columns}x{rows}: crop it")
    picture = Image.fromarray((image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
    scale = LONG_SIDE / max(rows, columns)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    if parts.generation == 3:
        side = int(str(parts.settings["image_size"]))
        square = picture.resize((side, side), Image.Resampling.BILINEAR)
        values = torch.tensor(list(square.tobytes()), dtype=torch.float32).view(side, side, 3)
        return {"pixel_values": (values / 127.5 - 1).permute(2, 0, 1)[None]}, parts.tokens
    from transformers.models.gemma4.image_processing_pil_gemma4 import Gemma4ImageProcessorPil

    own = {name: parts.settings[name] for name in ("patch_size", "pooling_kernel_size")}
    made = Gemma4ImageProcessorPil(**own)(picture, return_tensors="pt")
    return (
        {name: made[name] for name in ("pixel_values", "image_position_ids")},
        int(made["num_soft_tokens_per_image"][0]),
    )


def with_soft_tokens(text: str, generation: int, count: int) -> str:
    """Replace the mark of an image in the conversation ``text`` by ``count`` tokens of its content."""
    before, content, after = IMAGE_MARKERS[generation]
    whole = f"{before}{content * count}{after}"
    # Gemma 3 has the image in a paragraph of its own.
    return text.replace(before, f"\n\n{whole}\n\n" if generation == 3 else f"{whole}\n\n", 1)


def _vision_name(key: str, generation: int) -> str | None:
    """The name in transformers' model of the tensor that a file calls ``key``; None for other tensors."""
    if match := _TOWER.match(key):
        return f"vision_tower.{match[1]}"
    if match := _PROJECTOR.match(key):
        return f"{_PROJECTORS[generation]}.{match[1]}"
    return None


def _plain(section: Mapping[str, Any]) -> JsonObject:
    """Those entries of a ``vision_config`` that describe the network, if their values are plain numbers."""
    return {
        name: value
        for name, value in section.items()
        if name in _SETTINGS and isinstance(value, int | float) and abs(value) < 2**31
    }


def _of_shapes(shapes: Mapping[str, tuple[int, ...]], generation: int) -> JsonObject:
    """Settings of the vision network of a single file from its shapes; {} if it has no such network."""
    layers = len({name.split(".")[3] for name in shapes if name.startswith("vision_tower.encoder.layers.")})
    first = "vision_tower.encoder.layers.0."
    if generation == 3 and "vision_tower.embeddings.patch_embedding.weight" in shapes:
        hidden, _, patch, _ = shapes["vision_tower.embeddings.patch_embedding.weight"]
        places = shapes["vision_tower.embeddings.position_embedding.weight"][0]
        return {
            "hidden_size": hidden,
            "patch_size": patch,
            "image_size": patch * math.isqrt(places),
            "intermediate_size": shapes[f"{first}mlp.fc1.weight"][0],
            "num_hidden_layers": layers,
            # That of the released model, since shapes do not say it.
            "num_attention_heads": 16,
            "vision_use_head": False,
        }
    if generation == 4 and "vision_tower.patch_embedder.input_proj.weight" in shapes:
        hidden, inputs = shapes["vision_tower.patch_embedder.input_proj.weight"]
        (head_dim,) = shapes[f"{first}self_attn.q_norm.weight"]
        heads = shapes[f"{first}self_attn.q_proj.linear.weight"][0] // head_dim
        return {
            "hidden_size": hidden,
            "patch_size": math.isqrt(inputs // 3),
            "position_embedding_size": shapes["vision_tower.patch_embedder.position_embedding_table"][1],
            "intermediate_size": shapes[f"{first}mlp.gate_proj.linear.weight"][0],
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": head_dim,
            "pooling_kernel_size": 3,
            "use_clipped_linears": f"{first}self_attn.q_proj.input_max" in shapes,
            "standardize": "vision_tower.std_bias" in shapes,
        }
    return {}


def _load(model: Any, parts: VisionParts, like: Tensor) -> None:
    """Read the vision network of ``model``, which is on meta, from its files.

    ``like`` is a tensor of the dtype and on the device for it.
    """
    projector = _PROJECTORS[parts.generation]
    tower = model.vision_tower
    # Older releases of transformers nest the tower once more.
    nested = "vision_model." if hasattr(tower, "vision_model") else ""
    names = {
        name: name.replace("vision_tower.", f"vision_tower.{nested}", 1) if nested else name
        for name in parts.infos
    }
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name.startswith(("vision_tower.", f"{projector}."))
    }
    # Companions of quantised layers, such as scales, belong to a weight of the network.
    infos = {
        names[name]: info
        for name, info in parts.infos.items()
        if names[name] in shapes or f"{names[name].rpartition('.')[0]}.weight" in shapes
    }
    layers = find_quantized(infos, read_markers(infos, parts.metadata))
    state = read_state(infos, layers, frozenset(), shapes, like.dtype, like.device)
    missing = sorted(shapes.keys() - state.keys())
    wrong = [name for name in shapes.keys() & state.keys() if tuple(state[name].shape) != shapes[name]]
    if missing or wrong:
        raise ValueError(
            f"the vision network does not fit its configuration: {len(missing)} tensors missing "
            f"({', '.join(missing[:3])}), {len(wrong)} of another shape ({', '.join(sorted(wrong)[:3])})"
        )
    model.load_state_dict({name: state[name] for name in shapes}, strict=False, assign=True)
    _restore_constants(tower, like.device)


def _restore_constants(tower: Any, device: torch.device) -> None:
    """Compute constants that files do not store, in place: indices of patches and rotary frequencies."""
    for module in list(tower.modules()):
        if "position_ids" in dict(module.named_buffers(recurse=False)):
            module.position_ids = torch.arange(module.position_ids.shape[-1], device=device)[None]
        for name, child in list(module.named_children()):
            if name == "rotary_emb":
                setattr(module, name, type(child)(child.config).to(device))
