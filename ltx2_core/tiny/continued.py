"""The trained set of LTX-2.5: the embedded set of 2.3, and the few tensors that differ from it.

The package embeds only what differs, a few megabytes: the text encoder, the duration head, the decoder of the
diffusion VAE, and some tensors of the transformer and of the text projection.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from ..media.atomic import replacing
from ..storage.quantized import TORCH_DTYPES
from ..storage.writing import Entry, write_safetensors
from . import embedded_set
from .write import TinySet

CHANGES = "changes.safetensors"
"""Name of the file, in a folder of changes, with the tensors that differ from the set of 2.3."""


def embedded_changes() -> Path:
    """Folder of the files in which the embedded set of LTX-2.5 differs from that of LTX-2.3."""
    return Path(__file__).resolve().parents[1] / "assets" / "tiny-2.5"


def write_embedded_25(folder: Path) -> TinySet:
    """Write the trained set of LTX-2.5 of the package into subfolders of ``folder``, as ComfyUI has them."""
    return compose(embedded_set(), embedded_changes(), folder)


def compose(base: TinySet, changes: Path, folder: Path) -> TinySet:
    """Write a set of LTX-2.5 into subfolders of ``folder``: the set ``base`` of 2.3 with ``changes``.

    ``changes`` is a folder like that of :func:`embedded_changes`. Upscaler and LoRAs are those of ``base``.
    """
    files = TinySet.in_folder(folder, "2.5")
    with safe_open(changes / CHANGES, framework="pt") as file:
        metadata = file.metadata()
    changed, old = load_file(changes / CHANGES), load_file(base.checkpoint)
    decoder = {name: tensor for name, tensor in changed.items() if name.startswith(_DECODER)}
    network = {name: tensor for name, tensor in changed.items() if name not in decoder}
    same = {name: tensor for name, tensor in old.items() if not _is_removed(name)}
    _save(files.checkpoint, same | network, metadata["config"])
    shared = {name.removeprefix("vae."): tensor for name, tensor in old.items() if name.startswith(_SHARED)}
    _save(files.video_vae, shared | decoder, metadata["vae_config"])
    copies = {files.upsampler: base.upsampler, files.distilled: base.distilled, files.edges: base.edges}
    beside = TinySet.in_folder(changes, "2.5")
    assert files.duration_head is not None
    assert beside.duration_head is not None
    copies[files.duration_head] = beside.duration_head
    for source in beside.text_encoder.iterdir():
        copies[files.text_encoder / source.name] = source
    for target, source in copies.items():
        # A training run has some of these files in its folder already, whose times say when they were made.
        if target.exists() and filecmp.cmp(source, target, shallow=False):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as temporary:
            shutil.copyfile(source, temporary)
            temporary.chmod(0o644)
    return files


_DTYPES = {dtype: name for name, dtype in TORCH_DTYPES.items()}
_DECODER = "decoder."
_SHARED = ("vae.encoder.", "vae.per_channel_statistics.")
"""Prefixes of what the diffusion VAE has in common with the convolutional one."""


def _is_removed(name: str) -> bool:
    """Whether LTX-2.5 lacks the tensor ``name`` of LTX-2.3, a bias of the video's feed-forwards."""
    return ".transformer_blocks." in name and ".ff.net." in name and name.endswith(".bias")


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _save(path: Path, tensors: Mapping[str, Tensor], config: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"config": config, "model_version": VERSION}
    # Not by the safetensors library, which writes the metadata in a random order: the same set must give the
    # same bytes, as `ltx2 models export` compares files.
    entries = {
        name: Entry(_DTYPES[tensor.dtype], tuple(tensor.shape), partial(_same, tensor))
        for name, tensor in sorted(tensors.items())
    }
    with replacing(path) as temporary:
        write_safetensors(temporary, entries, metadata)
        temporary.chmod(0o644)


VERSION = "2.5.0-tiny"
"""The ``model_version`` of the set; its end selects the recipe (default settings) of the trained tiny set."""
