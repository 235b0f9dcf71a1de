"""Finds configuration, weights and tokenizer in a Hugging Face folder of a text encoder."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..storage.files import ParsedJson, entries, indexed_files, read_object
from ..storage.header import TensorInfo, read_header

PREFIXES = ("language_model.model.", "model.language_model.", "model.", "language_model.", "")
"""Prefixes of the language model's tensors: Google's release, newer transformers, text-only, inner, none."""

_NAME = (
    r"(?:layers\.\d+|embed_tokens|norm"
    r"|embed_tokens_per_layer|per_layer_model_projection|per_layer_projection_norm)\..+"
)
_LANGUAGE_KEY = re.compile(rf"^(?:{'|'.join(map(re.escape, PREFIXES))})({_NAME})$")


KINDS = ("gemma3_text", "gemma4_text", "gemma4_unified_text")
"""Model types of a text-only Gemma, and of the text part of a multimodal one."""

CLASSES = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma4": "Gemma4ForConditionalGeneration",
    "gemma4_text": "Gemma4ForCausalLM",
    "gemma4_unified": "Gemma4UnifiedForConditionalGeneration",
    "gemma4_unified_text": "Gemma4UnifiedForCausalLM",
}
"""Model type of a Gemma -> the class of transformers with the head that predicts tokens."""


def language_name(key: str) -> str | None:
    """The name in Gemma's language model of the tensor that a file calls ``key``; None for other tensors.

    Other tensors are, for example, those of the vision model.
    """
    match = _LANGUAGE_KEY.match(key)
    return match[1] if match else None


class NotGemmaError(ValueError):
    """Raised when the configurations in a folder are valid, but none is of a Gemma."""


def find_config(folder: Path) -> tuple[Path, ParsedJson]:
    """Find the least deep ``config.json`` of a Gemma in ``folder`` or below: (its path, its text section).

    Raises:
        NotGemmaError: there is no such file; the message lists the architectures found instead.
        ValueError: the folder does not exist, or a configuration is malformed and none is of a Gemma.
    """
    if not folder.is_dir():
        raise ValueError(
            f"text encoder {folder} does not exist; expected a Hugging Face folder with config.json, the "
            "tokenizer and the *.safetensors weights of Gemma 3, or a single file of them"
        )
    others: list[str] = []
    malformed: list[ValueError] = []
    for path in entries(folder):
        if path.name != "config.json":
            continue
        try:
            config = read_object(path)
        except ValueError as error:
            malformed.append(error)
            continue
        # Components of a diffusers pipeline state a class in place of a model type.
        kind = config.get("model_type") or config.get("_class_name") or "no model_type"
        if kind in KINDS:
            return path, config
        if f"{kind}_text" in KINDS and "text_config" in config:
            if isinstance(text := config["text_config"], dict):
                return path, {"model_type": f"{kind}_text", **text}
            malformed.append(
                ValueError(f"{path}: 'text_config' must be an object; got {type(text).__name__}")
            )
            continue
        others.append(f"{path.relative_to(folder)} is {kind}")
    # A malformed file is a likelier cause than the configurations of other models next to it.
    if malformed:
        raise malformed[0]
    found = "; ".join(others[:4]) or "no config.json"
    raise NotGemmaError(
        f"no Gemma 3 text encoder in {folder}: found {found}; expected a config.json with model_type "
        "'gemma3' or 'gemma3_text'"
    )


def class_of(folder: Path) -> str:
    """The class of transformers that loads the whole model in the folder of a text encoder.

    It is that of a text-only Gemma or of one that reads images too. Raises what :func:`find_config` raises.
    """
    path, _ = find_config(folder)
    return CLASSES[str(read_object(path)["model_type"])]


def find_weights(folder: Path, config_path: Path) -> dict[str, TensorInfo]:
    """Header entries of the language model's tensors, by their name in that model.

    Vision weights are left out. The folder of ``config_path`` is searched first, then the whole ``folder``.
    In a directory with an index only the files that it lists are read.

    Raises:
        ValueError: there are no weights, a shard of the index is missing, or two files hold the same tensor.
    """
    if found := find_tensors(folder, config_path, language_name, mark="embed_tokens.weight"):
        return found
    suffixes = (".bin", ".gguf", ".pt", ".safetensors")
    names = sorted({path.name for path in entries(folder) if path.suffix in suffixes})
    raise ValueError(
        f"no Gemma weights in {folder}: found {', '.join(names[:4]) or 'no weight file'}; "
        "expected *.safetensors with keys such as model.embed_tokens.weight"
    )


def find_tokenizer(folder: Path) -> Path:
    """Path of ``tokenizer.json``, or else of ``tokenizer.model``, in ``folder`` or below it.

    Raises:
        ValueError: there is neither of the two files.
    """
    found = entries(folder)
    # The JSON comes first, since it needs no further package.
    for name in ("tokenizer.json", "tokenizer.model"):
        for path in found:
            if path.name == name and path.is_file():
                return path
    names = [path.name for path in found if path.parent == folder]
    raise ValueError(
        f"no tokenizer in {folder}: found {', '.join(names[:6]) or 'nothing'}; expected tokenizer.json or "
        "tokenizer.model of Gemma 3, in the folder or below it"
    )


def find_tensors(
    folder: Path, config_path: Path, name_of: Callable[[str], str | None], *, mark: str = ""
) -> dict[str, TensorInfo]:
    """Header entries of one network's tensors by their name there, {} if there are none.

    ``name_of`` returns that name for the key of a file, None for tensors of other networks. ``mark`` is a
    tensor without which they are those of another model with similar names; "" is none. The folder of
    ``config_path`` is searched first, then the whole ``folder``. Raises ValueError if two files hold the same
    tensor, or if a shard of an index is missing.
    """
    # A folder may hold other models in other subfolders, so the configuration's own comes first.
    for root in (config_path.parent, folder):
        found = _named_tensors(root, name_of)
        if found and (not mark or mark in found):
            return found
    return {}


def _named_tensors(root: Path, name_of: Callable[[str], str | None]) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    for path in _weight_files(root):
        for key, info in read_header(path).tensors.items():
            if name := name_of(key):
                if name in found:
                    raise ValueError(
                        f"{found[name].path} and {path} both hold {name}; "
                        "use the folder of one text encoder only"
                    )
                found[name] = info
    return found


def _weight_files(root: Path) -> list[Path]:
    found = entries(root)
    indices = {path.parent: path for path in found if path.name.endswith(".safetensors.index.json")}
    # Files next to an index are shards, which the index lists, or variants of them.
    files = [path for path in found if path.suffix == ".safetensors" and path.parent not in indices]
    for _, index in sorted(indices.items()):
        files.extend(indexed_files(index))
    return files
