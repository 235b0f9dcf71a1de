"""LTX-Video in ComfyUI: its text encoder, and which files are of that family.

Its transformer is ComfyUI's own network (see :func:`.model.load_model`), its video VAE that of this pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import comfy.sd
import comfy.utils
import folder_paths
from torch import nn

from ...ltx2_core.loading.checkpoint import Checkpoint
from ...ltx2_core.loading.infer_vae import ltxv_vae
from ...ltx2_core.text.t5 import T5_NAMES, find_t5
from .patcher import Patcher
from .values import Vae

_XXL_WIDTH = 4096
"""ComfyUI's T5 has the size of XXL, whatever the file says."""


def is_ltx_video(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the model in these files is LTX-Video, which has no audio."""
    return any(checkpoint.generation == "0.9" for checkpoint in checkpoints)


def is_ltx_video_vae(vae: Vae | None) -> bool:
    """Whether ``vae``, from whichever loader, is the video VAE of LTX-Video, which has no audio.

    None, an input that is not connected, is none.
    """
    network = getattr(vae, "first_stage_model", None)
    # Both loaders name tensors as the released files do, and no VAE of LTX-2 has those that count here.
    return isinstance(network, nn.Module) and ltxv_vae(network.state_dict()) is not None


def load_t5_clip(path: str | Path) -> comfy.sd.CLIP:
    """Load a T5, a file or a Hugging Face folder, as ComfyUI's own text encoder of LTX-Video.

    Raises ValueError, before any weight is read, for a T5 that is not of the size of XXL.
    """
    settings, infos, _ = find_t5(Path(path))
    if settings["d_model"] != _XXL_WIDTH:
        raise ValueError(
            f"{path} is a T5 of width {settings['d_model']}, and ComfyUI's text encoder of LTX-Video has "
            f"{_XXL_WIDTH}: use {T5_NAMES}"
        )
    # A folder has several files, each of which the host's reader maps once.
    files = {info.path: comfy.utils.load_torch_file(str(info.path)) for info in infos.values()}
    tensors = {name: files[info.path][info.name] for name, info in infos.items()}
    clip = comfy.sd.load_text_encoder_state_dicts(
        [tensors],
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        clip_type=comfy.sd.CLIPType.LTXV,
    )
    clip.patcher.cached_patcher_init = (_t5_patcher, (str(path),))
    return clip


def _t5_patcher(path: str, disable_dynamic: bool = False) -> Patcher:
    return load_t5_clip(path).patcher
