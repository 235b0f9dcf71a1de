"""Reads a folder of model files like one file: a diffusers pipeline or component, or split official files.

Tensors stay in their files, and are listed under the names of a single-file checkpoint. Each ``config.json``
is translated to its section of the single-file configuration.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from ..storage.files import JsonObject, ParsedJson, entries, indexed_files, read_object
from ..storage.header import Header, TensorInfo, read_header
from . import diffusers_ltxv
from .detect import Component, find_components
from .diffusers import TRANSLATIONS
from .rename import Table, table_for
from .sections import joined_config

DIFFUSION_DECODER = "diffusion_decoder"
PARTS = (
    *("transformer", "connectors", "vae", DIFFUSION_DECODER, "audio_vae", "vocoder", "latent_upsampler"),
)
"""Subfolders of a pipeline that are read here; the text encoder's is read by ``text.folder``."""

_STATISTICS = "per_channel_statistics."


def read_folder(folder: Path) -> Header:
    """Merge the headers of a diffusers pipeline, of one of its component folders, or of split files.

    The result is like the header of a single-file checkpoint. Raises ValueError that names the folder and
    says what is missing or contradictory.
    """
    # A pipeline may be downloaded in part, so that only the folders that exist are read.
    if (folder / "model_index.json").is_file():
        parts = [folder / name for name in PARTS if (folder / name / "config.json").is_file()]
        if not parts:
            raise ValueError(f"{folder} has a model_index.json but none of the folders {', '.join(PARTS)}")
    elif (folder / "config.json").is_file():
        parts = [folder]
    else:
        return _merged(folder, [read_header(path) for path in _inside(folder, ".safetensors")])
    headers = {part.name: _read_part(part) for part in parts}
    if "vae" in headers and DIFFUSION_DECODER in headers:
        headers["vae"] = _without_decoder(headers["vae"])
    return _merged(folder, headers.values())


def _without_decoder(vae: Header) -> Header:
    """Return the header ``vae`` of a convolutional video VAE without the tensors of its decoder.

    It is for a pipeline that has the diffusion decoder too.
    """
    # A pipeline of LTX-2.5 has both, and the diffusion decoder is the one that the release decodes with.
    tensors = {name: info for name, info in vae.tensors.items() if not name.startswith("vae.decoder.")}
    return Header(vae.path, vae.metadata, tensors)


def text_encoder_folder(path: Path) -> Path | None:
    """Return ``path`` if it is a diffusers pipeline folder that contains its text encoder, else None."""
    return path if (path / "text_encoder" / "config.json").is_file() else None


def _read_part(folder: Path) -> Header:
    config = read_object(folder / "config.json")
    name = str(config.get("_class_name"))
    translate = TRANSLATIONS.get(name)
    if translate is None:
        raise ValueError(f"{folder} holds a {name}; known are {', '.join(TRANSLATIONS)}")
    try:
        section, table = translate(config), _table(name, config)
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        # The text of a KeyError is its key alone.
        reason = str(error) if type(error) is ValueError else repr(error)
        raise ValueError(f"{folder / 'config.json'} is not a configuration of a {name}: {reason}") from None
    tensors: dict[str, TensorInfo] = {}
    for path in _shards(folder):
        for own, info in read_header(path).tensors.items():
            tensors[table.rename(own)] = info
    return Header(folder, {"config": section}, tensors)


def _table(name: str, config: ParsedJson) -> Table:
    """The renaming table for a diffusers class whose ``config.json`` this is."""
    if name == diffusers_ltxv.VAE_CLASS:
        return diffusers_ltxv.vae_table(config)
    if name == diffusers_ltxv.TRANSFORMER_CLASS:
        return diffusers_ltxv.TRANSFORMER_TABLE
    blocks = config.get("block_out_channels", ())
    table = table_for(name, blocks=len(blocks) if isinstance(blocks, list) else 0)
    assert table is not None
    return table


def _shards(folder: Path) -> list[Path]:
    indices = _inside(folder, ".safetensors.index.json")
    # A folder may also hold variants such as fp16; the names of the full weights have one dot less.
    if index := min(indices, key=lambda path: path.name.count("."), default=None):
        return indexed_files(index)
    files = sorted(_inside(folder, ".safetensors"), key=lambda path: (path.name.count("."), path.name))
    if not files:
        raise ValueError(f"{folder} has a config.json but no .safetensors weights; download them")
    # The others are variants of the same weights, not shards: those have an index.
    return files[:1]


def _inside(folder: Path, end: str) -> list[Path]:
    return [path for path in entries(folder) if path.parent == folder and path.name.endswith(end)]


def _merged(folder: Path, headers: Iterable[Header]) -> Header:
    tensors: dict[str, TensorInfo] = {}
    configs: list[tuple[ParsedJson, Collection[Component]]] = []
    metadata: JsonObject = {}
    for header in headers:
        for name, info in header.tensors.items():
            # Both halves of a VAE contain the statistics; any other duplicate comes from a second model.
            if name in tensors and _STATISTICS not in name:
                raise ValueError(
                    f"{tensors[name].path} and {header.path} both hold {name}; "
                    "use one of them, or a folder with the files of one model"
                )
            tensors.setdefault(name, info)
        for key, value in header.metadata.items():
            if key != "config":
                metadata.setdefault(key, value)
        if isinstance(config := header.metadata.get("config"), Mapping):
            configs.append((config, find_components(header.tensors)))
    if not tensors:
        raise ValueError(
            f"{folder} holds no model files; use a .safetensors file, a folder of them, or a diffusers "
            "folder with its model_index.json"
        )
    if joined := joined_config(configs):
        metadata["config"] = joined
    return Header(folder, MappingProxyType(metadata), MappingProxyType(tensors))
