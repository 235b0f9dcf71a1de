"""Puts networks under ComfyUI's memory management."""

from __future__ import annotations

from typing import TypeAlias

import comfy.model_management
import comfy.model_patcher
import torch
from comfy.patcher_extension import CallbacksMP
from torch import nn

Patcher: TypeAlias = comfy.model_patcher.ModelPatcher


def make_patcher(
    model: nn.Module, load_device: torch.device, offload_device: torch.device, *, dynamic: bool = True
) -> Patcher:
    """Wrap ``model`` in a ComfyUI ModelPatcher, which manages its memory between the two devices.

    With ``dynamic`` the patcher streams weights to the device, if ComfyUI has turned that on.
    """
    plain = comfy.model_patcher.ModelPatcher
    patcher_type = getattr(comfy.model_patcher, "CoreModelPatcher", plain) if dynamic else plain
    return patcher_type(model, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: Patcher) -> bool:
    """Whether a ModelPatcher leaves weights in the file and streams them to the device.

    Older ComfyUI versions have no such patchers.
    """
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def forget_tables_when_idle(patcher: Patcher) -> None:
    """Free the rotary tables and the tiles of a model after each sampling run and when the model is unloaded.

    ``patcher`` is the MODEL. ComfyUI does not count them as memory of the model.
    """

    def forget(patcher: Patcher, *_unused: object) -> None:
        patcher.model.diffusion_model.rope_memory.clear()
        patcher.model.diffusion_model.tile_memory.clear()

    # Cleanup follows every run; a model that is unloaded without one, as by /free, is only detached.
    for event in (CallbacksMP.ON_CLEANUP, CallbacksMP.ON_DETACH):
        patcher.add_callback_with_key(event, "ltx2_rope", forget)


def remember_dtypes(model: nn.Module) -> None:
    """Record the dtype of each parameter, for ComfyUI versions that read it when they assign weights."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(model)
