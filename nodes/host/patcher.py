"""Networks under the host's memory management."""

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
    """A ModelPatcher; ``dynamic`` allows the one that streams weights if the host has turned that on.

    The host rebinds the class at start-up, so it is looked up at each call.
    """
    plain = comfy.model_patcher.ModelPatcher
    patcher_type = getattr(comfy.model_patcher, "CoreModelPatcher", plain) if dynamic else plain
    return patcher_type(model, load_device=load_device, offload_device=offload_device)


def is_dynamic(patcher: Patcher) -> bool:
    """Whether weights stay in the file and are streamed to the device; older hosts have no such patcher."""
    return bool(getattr(patcher, "is_dynamic", lambda: False)())


def forget_tables_when_idle(patcher: Patcher) -> None:
    """Free rotary tables, which the host does not count, after a sampling and when the model is unloaded."""

    def forget(patcher: Patcher, *_unused: object) -> None:
        patcher.model.diffusion_model.rope_memory.clear()

    for event in (CallbacksMP.ON_CLEANUP, CallbacksMP.ON_DETACH):
        patcher.add_callback_with_key(event, "ltx2_rope", forget)


def remember_dtypes(model: nn.Module) -> None:
    """Store the dtype of each parameter where hosts that assign weights read it."""
    archive = getattr(comfy.model_management, "archive_model_dtypes", None)
    if archive is not None:
        archive(model)
